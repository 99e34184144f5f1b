"""An example of a request to a route."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from pyworker.data_types import ApiPayload, EndpointHandler
from pyworker.errors import JsonDataException
from pyworker.registry import sent_fields


def example_of(handler: EndpointHandler[Any]) -> Mapping[str, Any]:
    """What a client would send, as plain JSON: what the benchmark sends, `for_test`, or nothing at all if
    the payload class takes that.

    Raises `NotImplementedError` if there is none, and whatever the author's code does.
    """
    problem: Exception = NotImplementedError("no example")
    for make in (handler.make_benchmark_payload, handler.payload_cls().for_test):
        try:
            payload: ApiPayload = make()
            return cast("Mapping[str, Any]", json.loads(json.dumps(sent_fields(payload))))
        except NotImplementedError as error:
            problem = error
    try:
        handler.payload_cls().from_json_msg({})
    except JsonDataException:
        raise problem from None
    return {}
