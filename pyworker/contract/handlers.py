"""Handlers: path, payload class, options, and what their methods return."""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from pyworker.contract.payloads import check_payload_class
from pyworker.contract.places import place_of
from pyworker.data_types import METHODS, ApiPayload, EndpointHandler, Priority
from pyworker.errors import ConfigError
from pyworker.jobs import JobHandler
from pyworker.upstream.header_fields import HOP_BY_HOP

#: Header fields that are written for the model server anew, or that are none of its business.
_OWN_FIELDS = HOP_BY_HOP | {
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "accept-encoding",
    "expect",
    "x-request-id",
    "traceparent",
}
_SECRETS = {"authorization", "cookie", "x-auth-data", "x-api-key"}
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VARIABLE = re.compile(r"<([^<>]*)>")
_GOOD_VARIABLE = re.compile(r"(?:path:|string:)?[A-Za-z_][A-Za-z0-9_]*")
#: Seconds; a timeout of a socket is not longer.
_LONGEST = 10_000_000.0
_RESPONDING = "return responses.pass_through(model_response)"


def check_handler(handler: EndpointHandler[Any]) -> None:
    """Raises `ConfigError` with each fault of the handler."""
    problems = list(_problems(handler))
    if problems:
        raise ConfigError(*(f"{named(handler)}{problem}" for problem in problems))
    check_payload_class(handler.payload_cls())


def named(handler: EndpointHandler[Any]) -> str:
    """The handler's file, line and name."""
    shown: str | None = getattr(handler, "shown_as", None)  # of the short way, or a function
    return place_of(type(handler)) if shown is None else shown


def variables_of(path: str) -> set[str]:
    """The names of the variables of a path."""
    return {variable.rpartition(":")[2] for variable in _VARIABLE.findall(path)}


def check_benchmark(handler: EndpointHandler[Any]) -> None:
    """As `check_handler`, for the handler whose throughput is measured."""
    check_handler(handler)
    if variables_of(handler.endpoint) and not isinstance(handler, JobHandler):
        raise ConfigError(
            f"{named(handler)} has variables in its path {handler.endpoint}, for which the benchmark has no "
            "values: measure another route"
        )


def _problems(handler: EndpointHandler[Any]) -> Iterator[str]:
    yield from _path_problems(handler.endpoint)
    if handler.method not in METHODS:
        yield f".method is {handler.method!r}: write one of {', '.join(METHODS)}"
    yield from _payload_problems(handler)
    yield from _option_problems(handler)
    if isinstance(handler, JobHandler):
        yield from _result_problems(handler, "perform", "return job.respond({…})")
    else:
        yield from _result_problems(handler, "generate_client_response", _RESPONDING)
        yield from _parameter_problems(handler)


def _path_problems(endpoint: object) -> Iterator[str]:
    if inspect.ismethod(endpoint):
        yield ".endpoint is a method: write @property in the line above it"
    elif not isinstance(endpoint, str):
        yield f'.endpoint is {endpoint!r}: write a path such as "/generate"'
    elif not endpoint.startswith("/"):
        yield f'.endpoint must start with /: write "/{endpoint}"'
    elif "?" in endpoint or "#" in endpoint or not endpoint.isprintable() or " " in endpoint:
        yield f".endpoint is {endpoint!r}: write the path alone, percent-encoded"
    else:
        for variable in _VARIABLE.findall(endpoint):
            if not _GOOD_VARIABLE.fullmatch(variable):
                yield (
                    f".endpoint has the variable <{variable}>: write <name> for one segment of the path, or "
                    "<path:name> for several"
                )
        if _VARIABLE.sub("", endpoint).count("<") or _VARIABLE.sub("", endpoint).count(">"):
            yield f".endpoint is {endpoint!r}: write a variable as <name>"


def _payload_problems(handler: EndpointHandler[Any]) -> Iterator[str]:
    try:
        payload_cls: object = handler.payload_cls()
    except TypeError as error:
        yield f".payload_cls cannot be called ({error}): write @classmethod in the line above it"
        return
    if not (inspect.isclass(payload_cls) and issubclass(payload_cls, ApiPayload)):
        yield f".payload_cls returns {payload_cls!r}: return a subclass of ApiPayload"


def _option_problems(handler: EndpointHandler[Any]) -> Iterator[str]:
    for option in ("timeout", "max_queue_time"):
        value = cast("object", getattr(handler, option))
        if value is not None and not (_is_number(value) and 0 < float(cast("float", value)) <= _LONGEST):
            yield f".{option} is {value!r}: write a number of seconds above 0, or None"
    for option in ("benchmark_runs", "concurrency"):
        value = cast("object", getattr(handler, option))
        if value is not None and not (isinstance(value, int) and value >= 1):
            yield f".{option} is {value!r}: write a whole number of at least 1"
    if not isinstance(cast("object", handler.priority), Priority):
        yield f".priority is {handler.priority!r}: write Priority.HIGH, Priority.NORMAL or Priority.LOW"
    yield from _header_problems(handler.pass_headers)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _header_problems(names: object) -> Iterator[str]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        yield f'.pass_headers is {names!r}: write a tuple of names, such as ("Accept-Language",)'
        return
    for name in cast("Sequence[object]", names):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            yield f".pass_headers has {name!r}, which is no name of a header field"
        elif name.lower() in _SECRETS:
            yield (
                f".pass_headers has {name}, which may hold a secret of the client: leave it out; the model "
                "server gets MODEL_API_KEY"
            )
        elif name.lower() in _OWN_FIELDS or name.lower().startswith(("proxy-", "sec-")):
            yield f".pass_headers has {name}, which belongs to one connection or to the worker: leave it out"


# -- what a method returns ---------------------------------------------------------------------------------


def _result_problems(handler: EndpointHandler[Any], name: str, advice: str) -> Iterator[str]:
    """Faults that its source shows; whatever it returns is looked at again when it has been called."""
    # A function of the author's that the method only calls.
    method = getattr(type(handler), "function", None) or getattr(type(handler), name)
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        yield f".{name} is async: write `def {name}(…)`; each request has a thread"
        return
    if inspect.isgeneratorfunction(method):
        yield f".{name} has a yield, so it returns no response: {advice}, or `responses.stream(…)`"
        return
    function = _source_of(method)
    if function is None:
        return
    returns = list(_returns_of(function))
    if any(_is_text(one.value) for one in returns):
        yield f".{name} returns a text: {advice}, or a flask.Response(text)"
    elif not any(_may_be_response(one.value) for one in returns) and not _always_raises(function):
        yield f".{name} returns None: end it with `{advice}`"


def _source_of(method: Callable[..., Any]) -> ast.FunctionDef | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    first = tree.body[0] if tree.body else None
    # What a decorator makes of it is not known.
    return first if isinstance(first, ast.FunctionDef) and not first.decorator_list else None


def _returns_of(function: ast.FunctionDef) -> Iterator[ast.Return]:
    """Those of the function itself, not of functions within it."""
    nodes: list[ast.AST] = list(function.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Return):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            nodes.extend(ast.iter_child_nodes(node))


def _is_text(value: ast.expr | None) -> bool:
    return isinstance(value, ast.JoinedStr) or (
        isinstance(value, ast.Constant) and isinstance(value.value, str | bytes)
    )


def _may_be_response(value: ast.expr | None) -> bool:
    return value is not None and not isinstance(value, ast.Constant)


def _always_raises(function: ast.FunctionDef) -> bool:
    """Whether it has no return at all, and ends with something else than falling off its end."""
    return isinstance(function.body[-1], ast.Raise | ast.With | ast.Try | ast.While) or _is_stub(function)


def _is_stub(function: ast.FunctionDef) -> bool:
    """`...`, as in a protocol."""
    last = function.body[-1]
    return isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant) and last.value.value is ...


def _parameter_problems(handler: EndpointHandler[Any]) -> Iterator[str]:
    parameters = list(inspect.signature(handler.generate_client_response).parameters.values())
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return
    others = [
        one
        for one in parameters
        if one.name != "payload" and one.default is one.empty and one.kind is not one.VAR_KEYWORD
    ]
    if len(others) != 2 or len(positional) < 2:
        yield (
            f".generate_client_response takes {', '.join(one.name for one in parameters) or 'nothing'}: "
            "write (self, client_request, model_response), and behind them `payload: … | None = None` if it "
            "needs the payload"
        )
