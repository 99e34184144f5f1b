"""An error response of an OpenAI-compatible engine, before it is written in the engine's own shape."""

from __future__ import annotations

from pyworker.errors import PyworkerError


class ApiError(PyworkerError):
    """kind: the `type` of the error object; param: the field at fault."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param

    def as_json(self) -> dict[str, object]:
        """The error object."""
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}


def unknown_model(name: str) -> ApiError:
    """The request names a model that is not served."""
    return ApiError(f"The model `{name}` does not exist.", status=404, kind="NotFoundError", param="model")


def engine_failed(message: str) -> ApiError:
    """The engine broke off."""
    return ApiError(message, status=500, kind="InternalServerError")
