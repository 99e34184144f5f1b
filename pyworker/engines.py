"""Log lines of well-known model servers, as phrases for the `log_actions` of a `Backend`.

    from pyworker.engines import VLLM
    Backend(..., log_actions=[*VLLM, (LogAction.Info, "a phrase of your own")])

"…" in a phrase stands for any text within the line. An error phrase makes a loading worker errored, so each
is one that the server or its supervisor writes when it gives up. "Traceback", "CUDA out of memory" and "CUDA
error:" alone are not among them: servers and their plugins survive some of those while they start.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyworker.data_types import LogAction
from pyworker.lifecycle.log_lines import LogActions


def _supervised(program: str) -> LogActions:
    """What supervisord writes about a program that ended. On some images both share a log."""
    return (
        (LogAction.ModelError, f"exited: {program}"),
        (LogAction.ModelError, f"gave up: {program}"),
    )


#: The hub refuses the model. Written by transformers, before the engine starts.
_NO_MODEL: LogActions = (
    (LogAction.ModelError, "You are trying to access a gated repo."),
    (LogAction.ModelError, "is not a local folder and is not a valid model identifier"),
)

VLLM: LogActions = (
    (LogAction.ModelLoaded, "Application startup complete."),
    (LogAction.ModelError, "EngineCore failed to start."),
    (LogAction.ModelError, "Engine core initialization failed"),
    # Engine process failed to start, Engine core initialization failed, …
    (LogAction.ModelError, "RuntimeError: Engine"),
    (LogAction.ModelError, "Application startup failed. Exiting."),
    (LogAction.ModelError, "EngineDeadError"),
    # From its own bind before the engine starts, and from that of its web server.
    (LogAction.ModelError, "Address already in use"),
    (LogAction.ModelError, "address already in use"),
    *_NO_MODEL,
    *_supervised("vllm"),
    (LogAction.Info, "Starting to load model"),
    (LogAction.Info, "Model loading took"),
)

SGLANG: LogActions = (
    (LogAction.ModelLoaded, "The server is fired up and ready to roll!"),
    # Older releases write "proces".
    (LogAction.ModelError, "Received sigquit from a child proces"),
    (LogAction.ModelError, "Scheduler hit an exception"),
    (LogAction.ModelError, "scheduler is dead"),
    # About a rank that was killed and could not write anything itself.
    (LogAction.ModelError, "] Exit code: "),
    (LogAction.ModelError, "crashed with exit code"),
    (LogAction.ModelError, "Initialization failed. warmup error"),
    (LogAction.ModelError, "address already in use"),
    *_NO_MODEL,
    *_supervised("sglang"),
    (LogAction.Info, "Load weight begin"),
    (LogAction.Info, "Load weight end"),
)

LLAMA_CPP: LogActions = (
    (LogAction.ModelLoaded, "model loaded"),
    # In router mode: it loads a model in a child process when a request needs it.
    (LogAction.ModelLoaded, "router server is listening on"),
    (LogAction.ModelError, "error loading model"),
    (LogAction.ModelError, "failed to load model"),
    (LogAction.ModelError, "couldn't bind HTTP server socket"),
    *_supervised("llama"),
    (LogAction.Info, "loading model '"),
)

TGI: LogActions = (
    # As JSON; without a closing quote: newer releases write text_generation_router::server.
    (LogAction.ModelLoaded, '"message":"Connected","target":"text_generation_router'),
    # As text, which is the default: with file and line in between.
    (LogAction.ModelLoaded, "text_generation_router…: Connected"),
    (LogAction.ModelError, "Error: ShardCannotStart"),
    (LogAction.ModelError, "Error: ShardFailed"),
    (LogAction.ModelError, "Error: DownloadError"),
    (LogAction.ModelError, "Error: WebserverFailed"),
    (LogAction.ModelError, "Error: ArgumentValidation"),
    (LogAction.ModelError, "Error: NotEnoughCUDADevices"),
    *_supervised("tgi"),
    (LogAction.Info, '"message":"Download'),
    (LogAction.Info, "text_generation_launcher: Download"),
)

COMFYUI: LogActions = (
    (LogAction.ModelLoaded, "To see the GUI go to: "),
    (LogAction.ModelError, "Found no NVIDIA driver on your system"),
    (LogAction.ModelError, "Torch not compiled with CUDA enabled"),
    (LogAction.ModelError, "error while attempting to bind on address"),
    *_supervised("comfyui"),
    (LogAction.Info, "Total VRAM"),
    (LogAction.Info, "(IMPORT FAILED)"),
)

OLLAMA: LogActions = (
    # It loads a model when a request needs it, so it is ready once it listens.
    (LogAction.ModelLoaded, 'msg="Listening on '),
    (LogAction.ModelError, "Error: listen tcp"),
    (LogAction.ModelError, "Error: could not create directory"),
    *_supervised("ollama"),
    (LogAction.Info, 'msg="inference compute"'),
    (LogAction.Info, 'msg="llama runner started in'),
)

TEI: LogActions = (
    (LogAction.ModelLoaded, "text_embeddings_router…: Ready"),
    (LogAction.ModelLoaded, '"message":"Ready","target":"text_embeddings_router'),
    (LogAction.ModelError, "Error: Could not "),
    (LogAction.ModelError, "Error: Model backend is not healthy"),
    (LogAction.ModelError, "Error: Address already in use"),
    *_supervised("tei"),
    (LogAction.Info, "Starting download"),
    (LogAction.Info, "Model artifacts downloaded in"),
)

ENGINES: Mapping[str, LogActions] = {
    "vllm": VLLM,
    "sglang": SGLANG,
    "llama.cpp": LLAMA_CPP,
    "tgi": TGI,
    "comfyui": COMFYUI,
    "ollama": OLLAMA,
    "tei": TEI,
}
