"""SGLang's worker."""

from __future__ import annotations

from pyworker.engines import SGLANG
from pyworker.server import start_server
from workers.openai.server import Engine, worker_of

ENGINE = Engine(SGLANG, "/var/log/portal/sglang.log", ("MODEL_NAME", "SGLANG_MODEL"))

create_backend, create_blueprint = worker_of(lambda _options: ENGINE)

if __name__ == "__main__":
    start_server("sglang")
