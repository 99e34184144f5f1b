"""Redirects of the model server into the instance are not handed out."""

from __future__ import annotations

import pytest

from pyworker.upstream.origin import Origin
from tests.support.http import next_request_idx
from tests.support.scripted import head
from tests.support.stack import Stack

OWN = Origin("http://model.internal:5001")


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("http://127.0.0.1:5001/v1?key=secret", "http://127.0.0.1:5001/v1"),
        ("HTTP://LocalHost/", "http://LocalHost/"),
        ("http://localhost./x", "http://localhost./x"),
        ("http://app.localhost/x", "http://app.localhost/x"),
        ("http://127.1/x", "http://127.1/x"),
        ("http://2130706433/x", "http://2130706433/x"),
        ("http://0.0.0.0:8080/", "http://0.0.0.0:8080/"),
        ("https://[::1]:5001/#part", "https://[::1]:5001/"),
        ("http://[::ffff:127.0.0.1]/", "http://[::ffff:127.0.0.1]/"),
        ("http://user:password@127.0.0.1/", "http://127.0.0.1/"),
        ("//127.0.0.1/x", "http://127.0.0.1/x"),
        (" http://127.0.0.1/x ", "http://127.0.0.1/x"),
        ("http://model.internal:5001/x", "http://model.internal:5001/x"),
        ("http://model.internal/x", ""),
        ("https://example.org/127.0.0.1", ""),
        ("http://localhost.example.org/", ""),
        ("http://10.0.0.1/", ""),
        ("/elsewhere", ""),
        ("elsewhere?u=http://127.0.0.1/", ""),
        ("http://[", ""),
        ("http://127.0.0.1:99999999/", ""),
        ("", ""),
    ],
)
def test_where_it_leads(location: str, target: str) -> None:
    assert OWN.inner_target([location]) == target


def test_what_is_shown_of_it_is_short() -> None:
    assert len(OWN.inner_target(["http://127.0.0.1/" + "x" * 10_000])) == 200


def test_a_redirect_into_the_instance_is_a_bad_gateway_that_names_it(stack: Stack) -> None:
    inner = f"{stack.model.url}/generate/"
    for path in ("/pass", "/stream", "/serial"):
        request_idx = next_request_idx()
        stack.model.script(
            path, head(f"Location: {inner}?key=secret", "Content-Length: 0", status="307 Temporary Redirect")
        )
        response = stack.post(path, request_idx=request_idx)
        assert response.status == 502
        assert f"redirect to {inner}, which" in str(response.object()["error"])
        assert "secret" not in str(response)
        assert response.header("Location") is None
        assert stack.outcome(request_idx) == "Error"
        assert stack.model.requests("/generate/") == []
    # One that leads elsewhere is the client's to follow.
    stack.model.script(
        "/pass", head("Location: https://example.org/", "Content-Length: 0", status="302 Found")
    )
    response = stack.post("/pass")
    assert (response.status, response.header("Location")) == (302, "https://example.org/")
