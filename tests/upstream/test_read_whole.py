"""A response that is read whole, with bounds for its length and its time."""

from __future__ import annotations

import pytest

from pyworker.errors import ModelTimeout, ModelUnreachable, ResponseTooLarge
from pyworker.responses import read_whole
from pyworker.upstream.call import ModelCall
from tests.support.dripping import Dripping
from tests.support.model_calls import client_of
from tests.support.scripted import Act, ScriptedServer, chunk, head, whole

CHUNKED = head("Transfer-Encoding: chunked")


@pytest.mark.parametrize("sent", [whole(b"x" * 1000), CHUNKED + chunk(b"x" * 500) * 2 + chunk(b"")])
def test_what_is_within_the_limit_is_the_content(scripted_model: ScriptedServer, sent: bytes) -> None:
    scripted_model.script("/answer", sent)
    with client_of(scripted_model) as client:
        for limit in (1000, None):
            with client.post("/answer", {}, ModelCall()) as response:
                assert read_whole(response, limit, 10) == response.content == b"x" * 1000
        assert scripted_model.accepted == 1, "the connection is used again"
        with (
            client.post("/answer", {}, ModelCall()) as response,
            pytest.raises(ResponseTooLarge, match="999"),
        ):
            read_whole(response, 999)


def test_a_body_without_an_end_is_given_up_at_the_limit(scripted_model: ScriptedServer) -> None:
    scripted_model.script("/answer", CHUNKED, chunk(b"x" * 2000), Act.HANG)
    with (
        client_of(scripted_model) as client,
        client.post("/answer", {}, ModelCall()) as response,
        pytest.raises(ResponseTooLarge, match="longer than 1000 bytes"),
    ):
        read_whole(response, 1000)
    assert scripted_model.request("/answer").gone.wait(10)


def test_a_body_that_drips_is_given_up_at_the_deadline() -> None:
    sent = CHUNKED + b"1\r\nx\r\n" * 1000
    with (
        Dripping(sent, piece=len(CHUNKED) + 6, pause=0.1) as model,
        client_of(model.url) as client,
        client.post("/answer", {}, ModelCall()) as response,
        pytest.raises(ModelTimeout, match=r"did not end within 0\.5 s"),
    ):
        read_whole(response, deadline=0.5)


def test_a_body_that_breaks_off_is_a_bad_gateway(scripted_model: ScriptedServer) -> None:
    scripted_model.script("/answer", head("Content-Length: 10"), b"x", Act.CLOSE)
    with (
        client_of(scripted_model) as client,
        client.post("/answer", {}, ModelCall()) as response,
        pytest.raises(ModelUnreachable, match="broke off"),
    ):
        read_whole(response, 1000)
