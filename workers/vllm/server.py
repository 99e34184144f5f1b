"""vLLM's worker."""

from __future__ import annotations

from pyworker.engines import VLLM
from pyworker.server import start_server
from workers.openai.server import Engine, worker_of

ENGINE = Engine(VLLM, "/var/log/portal/vllm.log", ("MODEL_NAME", "VLLM_MODEL"))

create_backend, create_blueprint = worker_of(lambda _options: ENGINE)

if __name__ == "__main__":
    start_server("vllm")
