"""The metrics of the model server itself: `/metrics/model`."""

from __future__ import annotations

from pyworker.errors import ModelTimeout, ModelUnreachable
from pyworker.lifecycle.healthcheck import SharedHealth
from pyworker.lifecycle.probe import ProbeFailed
from pyworker.telemetry.metrics import CONTENT_TYPE

# What Prometheus reads. Anything else is not named as what it claims to be, such as a page with scripts.
_FORMATS = ("text/plain", "application/openmetrics-text")


def engine_metrics(shared: SharedHealth) -> tuple[str, bytes]:
    """Content-Type and body, at most a second old.

    Raises `ModelTimeout`, `ModelUnreachable` if the model server does not answer with metrics, or `NotReady`
    if too many clients wait for it already.
    """
    try:
        response = shared.get()
    except ProbeFailed as error:
        if error.is_late:
            raise ModelTimeout(str(error)) from error
        raise ModelUnreachable(str(error)) from error
    if not 200 <= response.status < 300:
        raise ModelUnreachable(
            f"the model server answered {response.status} for its metrics: set MODEL_METRICS_ENDPOINT to "
            "their path if they are elsewhere"
        )
    if response.body is None:
        raise ModelUnreachable("the metrics of the model server are too long or incomplete")
    [content_type, *_] = [value for name, value in response.headers if name.title() == "Content-Type"] or [""]
    is_known = content_type.partition(";")[0].strip().lower() in _FORMATS
    return content_type if is_known else CONTENT_TYPE, response.body
