"""The classes that the author of a worker implements, and `AuthData`.

A worker is a payload class (`ApiPayload`, a dataclass), one `EndpointHandler` for each route, and the log
lines (`LogAction`) that show the state of the model.

payloads  what a client sends, checked
handlers  one route, and its options
auth      the signed part of a request
"""

from __future__ import annotations

from pyworker.data_types.auth import AuthData, Index, WrittenNumber
from pyworker.data_types.handlers import (
    METHODS,
    WITHOUT_BODY,
    Dialect,
    EndpointHandler,
    HiddenEvents,
    LogAction,
    Priority,
)
from pyworker.data_types.payloads import (
    ApiPayload,
    FixedPayload,
    Form,
    NoPayload,
    OpenPayload,
    Payload,
    Upload,
)
from pyworker.errors import JsonDataException
from pyworker.runtime.sample import ResponseSample

__all__ = [
    "METHODS",
    "WITHOUT_BODY",
    "ApiPayload",
    "AuthData",
    "Dialect",
    "EndpointHandler",
    "FixedPayload",
    "Form",
    "HiddenEvents",
    "Index",
    "JsonDataException",
    "LogAction",
    "NoPayload",
    "OpenPayload",
    "Payload",
    "Priority",
    "ResponseSample",
    "Upload",
    "WrittenNumber",
]
