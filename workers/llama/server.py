"""llama.cpp's worker."""

from __future__ import annotations

from pyworker.engines import LLAMA_CPP
from pyworker.server import start_server
from workers.openai.server import Engine, worker_of

ENGINE = Engine(LLAMA_CPP, "/var/log/portal/llama.log", ("MODEL_NAME", "LLAMA_MODEL"))

create_backend, create_blueprint = worker_of(lambda _options: ENGINE)

if __name__ == "__main__":
    start_server("llama")
