"""A client of a scripted model server, and calls with it."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from pyworker.upstream.call import ModelCall
from pyworker.upstream.client import ModelClient
from tests.support.scripted import ScriptedServer
from tests.support.tls import TlsModel
from tests.support.waiting import DEADLINE


@contextlib.contextmanager
def client_of(
    model: ScriptedServer | str,
    tls: TlsModel | None = None,
    *,
    api_key: str = "",
    timeout: float | None = DEADLINE,
    pool_size: int = 10,
) -> Generator[ModelClient, None, None]:
    """A client of this model server, or of one at this URL; tls: to be trusted."""
    url = model if isinstance(model, str) else model.url
    ca_file = tls.ca_file if tls else None
    with contextlib.closing(
        ModelClient(url, api_key=api_key, timeout=timeout, pool_size=pool_size, ca_file=ca_file)
    ) as client:
        yield client


def post(
    client: ModelClient, path: str = "/answer", payload: object = None, call: ModelCall | None = None
) -> bytes:
    """The body of the response, read to its end."""
    with client.post(path, payload, call or ModelCall()) as response:
        return response.content
