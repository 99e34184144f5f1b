"""The load test: `python -m workers.hello_world.test_load -n 100 -rps 2 -k KEY -e ENDPOINT`."""

from __future__ import annotations

from pyworker.loadtest import run
from workers.hello_world.data_types import InputData

if __name__ == "__main__":
    run(InputData, endpoint="/generate", stream_endpoint="/generate_stream")
