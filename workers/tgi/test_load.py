"""The load test: `python -m workers.tgi.test_load -n 100 -rps 2 -k KEY -e ENDPOINT`."""

from __future__ import annotations

from pyworker.loadtest import run
from workers.tgi.data_types import GeneratePayload

if __name__ == "__main__":
    run(GeneratePayload, endpoint="/generate", stream_endpoint="/generate_stream")
