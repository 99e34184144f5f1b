"""What well-known model servers write into their logs: phrases for the `log_actions` of a `Backend`.

    from pyworker.engines import VLLM
    Backend(..., log_actions=[*VLLM, (LogAction.Info, "a phrase of your own")])

An error phrase makes a loading worker errored, so each is one that the server writes when it gives up. Bare
"Traceback" and "CUDA out of memory" are not among them: servers survive some of those while they start.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyworker.data_types import LogAction
from pyworker.log_lines import LogActions

VLLM: LogActions = (
    (LogAction.ModelLoaded, "Application startup complete."),
    (LogAction.ModelError, "EngineCore failed to start."),
    (LogAction.ModelError, "Engine core initialization failed"),
    (LogAction.ModelError, "Application startup failed. Exiting."),
    (LogAction.ModelError, "EngineDeadError"),
    (LogAction.ModelError, "address already in use"),
    (LogAction.Info, "Starting to load model"),
    (LogAction.Info, "Model loading took"),
)

SGLANG: LogActions = (
    (LogAction.ModelLoaded, "The server is fired up and ready to roll!"),
    # Older releases write "proces."
    (LogAction.ModelError, "Received sigquit from a child proces"),
    (LogAction.ModelError, "Scheduler hit an exception"),
    (LogAction.ModelError, "Initialization failed. warmup error"),
    (LogAction.Info, "Load weight begin"),
    (LogAction.Info, "Load weight end"),
)

LLAMA_CPP: LogActions = (
    (LogAction.ModelLoaded, "model loaded"),
    (LogAction.ModelError, "error loading model"),
    (LogAction.ModelError, "failed to load model"),
    (LogAction.ModelError, "couldn't bind HTTP server socket"),
    (LogAction.Info, "loading model '"),
)

TGI: LogActions = (
    # Without a closing quote: newer releases write text_generation_router::server.
    (LogAction.ModelLoaded, '"message":"Connected","target":"text_generation_router'),
    (LogAction.ModelError, "Error: ShardCannotStart"),
    (LogAction.ModelError, "Error: ShardFailed"),
    (LogAction.ModelError, "Error: DownloadError"),
    (LogAction.ModelError, "Error: WebserverFailed"),
    (LogAction.ModelError, "Error: ArgumentValidation"),
    (LogAction.ModelError, "Error: NotEnoughCUDADevices"),
    (LogAction.Info, '"message":"Download'),
)

COMFYUI: LogActions = (
    (LogAction.ModelLoaded, "To see the GUI go to: "),
    (LogAction.ModelError, "Found no NVIDIA driver on your system"),
    (LogAction.ModelError, "Torch not compiled with CUDA enabled"),
    (LogAction.ModelError, "CUDA error: "),
    (LogAction.ModelError, "error while attempting to bind on address"),
    (LogAction.Info, "Total VRAM"),
    (LogAction.Info, "(IMPORT FAILED)"),
)

ENGINES: Mapping[str, LogActions] = {
    "vllm": VLLM,
    "sglang": SGLANG,
    "llama.cpp": LLAMA_CPP,
    "tgi": TGI,
    "comfyui": COMFYUI,
}
