"""The load test: `python -m workers.comfyui.test_load -n 20 -rps 0.2 -k KEY -e ENDPOINT`."""

from __future__ import annotations

from pyworker.loadtest import run
from workers.comfyui.data_types import CustomWorkflow

if __name__ == "__main__":
    run(CustomWorkflow, endpoint="/custom_workflow")
