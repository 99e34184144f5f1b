"""The header fields of a response: taken as gunicorn takes them, in fewer steps."""

from __future__ import annotations

from typing import Any

from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.wsgi import Response
from hypothesis import given
from hypothesis import strategies as st

from pyworker.downstream.response import ClientResponse

KNOWN = ("X-One", "X-Two", "Content-Type", "Content-Length", "content-length", "Connection", "Upgrade", "Te")
NAMES = st.sampled_from([*KNOWN, "a b", ""]) | st.text(max_size=3)
ODD = (" 12 ", "٣", "close", "upgrade", "websocket", "a\r\nb: c", "x\x00", "é", "\tx\t", " y ")
VALUES = st.sampled_from(ODD) | st.text(max_size=4) | st.integers(-5, 10**6).map(str)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=6)


def taken(response: Any, fields: list[tuple[str, str]]) -> tuple[object, ...]:
    """What a response makes of these fields."""
    try:
        response.process_headers(fields)
    except (ValueError, TypeError, ParseException) as error:
        return (type(error),)
    return response.headers, response.response_length, response.upgrade


@given(st.lists(FIELDS, min_size=1, max_size=4))
def test_fields_are_taken_as_by_gunicorn_also_if_their_names_are_known(
    responses: list[list[tuple[str, str]]],
) -> None:
    config: Any = Config()
    unused: Any = None
    for fields in responses:
        ours = ClientResponse(unused, unused, config, unused, lambda: False)
        assert taken(ours, fields) == taken(Response(unused, unused, config), fields)
