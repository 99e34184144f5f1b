"""The command line of the local model server."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from pyworker.local.hello_world_api import HelloWorldApi
from pyworker.local.model_api import ModelApi
from pyworker.local.openai_api.api import CONTEXT, FACES, MODEL, OpenAIApi
from pyworker.local.tgi_api import TgiApi

DEFAULT_PORT = 5001
APIS = ("hello_world", "openai", "tgi")


def _number(kind: Callable[[str], float], minimum: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not minimum <= value < float("inf"):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} of at least {minimum:g}")
        return value

    return parse


def _log_file(text: str) -> Path | None:
    return None if text == "-" else Path(text)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Named as the fields of `ModelServer`. Ends the program with one line if an argument is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m pyworker.local.model_server",
        description="A stand-in for an inference server. It has the routes and the log of hello_world's "
        "server, of an OpenAI-compatible engine or of TGI, and the words of a small language model. "
        "GET /stats tells what was asked and generated.",
    )
    add = parser.add_argument
    add("--api", choices=APIS, default=APIS[0], help="whose routes and log (default: %(default)s)")
    add(
        "--engine",
        choices=sorted(FACES),
        default="vllm",
        help="which engine it is, with --api openai (default: %(default)s)",
    )
    add(
        "--served-model-name",
        default=MODEL,
        metavar="NAME",
        help="the name of the model, with --api openai or tgi (default: %(default)s)",
    )
    add(
        "--context",
        type=_number(int, 2),
        default=CONTEXT,
        metavar="N",
        help="the most tokens of a prompt and its response, with --api openai or tgi (default: %(default)s)",
    )
    add(
        "--api-key",
        default="",
        metavar="KEY",
        help="what requests must bring as a bearer token, with --api openai (default: no key)",
    )
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    add("--port", type=_number(int, 0), default=DEFAULT_PORT, help="0 for a free one (default: %(default)s)")
    add(
        "--log-file",
        type=_log_file,
        default="./model.log",
        metavar="PATH",
        help="where to log, besides the terminal; an older file is kept as PATH.old; - for the terminal "
        "only (default: %(default)s)",
    )
    add(
        "--tokens-per-second",
        type=_number(float, 0),
        default=50.0,
        metavar="N",
        help="speed of one response; 0 for no delay (default: %(default)s)",
    )
    add(
        "--parallel",
        type=_number(int, 1),
        default=4,
        metavar="N",
        help="responses that are generated concurrently; further requests are queued (default: %(default)s)",
    )
    add(
        "--load-seconds",
        type=_number(float, 0),
        default=2.0,
        metavar="N",
        help="how long loading takes before the server is ready (default: %(default)s)",
    )
    add("--seed", type=int, metavar="N", help="give the same response to the same prompt (default: vary)")
    add(
        "--model",
        dest="model_path",
        type=Path,
        metavar="PATH",
        help="UTF-8 text to learn the language from (default: the handbook that ships)",
    )
    add("--fail", action="store_true", help="log a start that fails, and end with status 1")
    options = parser.parse_args(arguments)
    return _with_api(options)


def _with_api(options: argparse.Namespace) -> argparse.Namespace:
    """The options with the face that some of them describe."""
    fields = vars(options)
    name, engine, api_key = fields.pop("api"), fields.pop("engine"), fields.pop("api_key")
    model, context = fields.pop("served_model_name"), fields.pop("context")
    api: ModelApi = HelloWorldApi()
    if name == "openai":
        api = OpenAIApi(engine, model, context, api_key)
    elif name == "tgi":
        api = TgiApi(model, max_input=context - 1, max_total=context)
    return argparse.Namespace(api=api, **fields)
