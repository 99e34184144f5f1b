"""The load test: `python -m workers.comfyui-json.test_load -n 20 -rps 0.2 -k KEY -e ENDPOINT`."""

from __future__ import annotations

from pyworker.loadtest import run

from .data_types import WrapperRequest

if __name__ == "__main__":
    run(WrapperRequest, endpoint="/generate/sync")
