"""The load test: `python -m workers.llama.test_load -n 100 -rps 2 -k KEY -e ENDPOINT`."""

from __future__ import annotations

from pyworker.loadtest import run
from workers.openai.data_types.text import Completion, StreamedCompletion

if __name__ == "__main__":
    run(Completion, endpoint="/v1/completions", stream_payload=StreamedCompletion)
