"""The load test: `python -m workers.openai.test_load -n 100 -rps 2 -k KEY -e ENDPOINT`.

Another route is tested with `python -m pyworker.loadtest -w openai --route /v1/…`, by the requests of its
benchmark or with `--payload FILE.jsonl`.
"""

from __future__ import annotations

from pyworker.loadtest import run
from workers.openai.data_types.text import Completion, StreamedCompletion

if __name__ == "__main__":
    run(Completion, endpoint="/v1/completions", stream_payload=StreamedCompletion)
