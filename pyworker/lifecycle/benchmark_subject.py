"""What a benchmark measures: which worker and route, by which code, with requests of what kind."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from functools import reduce
from types import CodeType
from typing import Any, cast

from pyworker import __version__
from pyworker.data_types import ApiPayload, EndpointHandler

#: Payloads that are compared to find what differs from one request to the next.
COMPARED = 3


def describe(handler: EndpointHandler[Any], worker: str = "") -> Mapping[str, str]:
    """The worker, its version, the route, and the version of this package. worker: the package's dotted name;
    default: that of the handler.
    """
    module = type(handler).__module__
    package = worker or module.rpartition(".")[0] or module
    return {
        "worker": package,
        "worker_version": str(getattr(sys.modules.get(package), "__version__", "")),
        "route": handler.endpoint,
        "pyworker": __version__,
    }


def fingerprint(handler: EndpointHandler[Any], payloads: Sequence[ApiPayload], concurrency: int) -> str:
    """A digest of what the requests of the benchmark have in common, such as the model's name and the length
    of the response: not of a random prompt or seed. Also of how their workload is counted, in whose unit the
    throughput is.
    """
    common = reduce(_common, [_shown(handler, payload) for payload in payloads])
    workload = reduce(_common, [payload.count_workload() for payload in payloads])
    counted_by = [_code(type(payloads[0]).count_workload), _code(type(handler).count_work)]
    about = [common, workload, counted_by, concurrency, handler.benchmark_words]
    text = json.dumps(about, sort_keys=True, default=_kind)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shown(handler: EndpointHandler[Any], payload: ApiPayload) -> object:
    """What the model server gets of it, as far as that is known."""
    form = handler.generate_payload_multipart(payload)
    if form is None:
        return handler.generate_payload_json(payload)
    files = [
        [name, file.filename, file.content_type, hashlib.sha256(file.data).hexdigest()]
        for name, file in form.uploads
    ]
    return {"fields": [list(field) for field in form.fields], "files": files}


def _code(function: Any) -> object:
    """What a function does, as far as its own code tells: what it calls may change unnoticed."""
    code: CodeType | None = getattr(function, "__code__", None)
    if code is None:
        return None
    constants = [repr(one) for one in code.co_consts if not isinstance(one, CodeType)]
    return [code.co_code.hex(), constants, code.co_names]


def _common(one: Any, other: Any) -> object:
    """What both have in common; where they differ, their kind."""
    if isinstance(one, dict) and isinstance(other, dict):
        first, second = cast("dict[str, object]", one), cast("dict[str, object]", other)
        return {
            str(name): _common(first.get(name, ...), second.get(name, ...)) for name in {**first, **second}
        }
    if isinstance(one, list) and isinstance(other, list):
        items, others = cast("list[object]", one), cast("list[object]", other)
        if len(items) == len(others):
            return [_common(*pair) for pair in zip(items, others, strict=True)]
    value = cast("object", one)
    return value if value == other else _kind(value)


def _kind(value: object) -> str:
    return f"some {type(value).__name__}"
