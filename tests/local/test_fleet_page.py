"""The page of a local autoscaler, and the stream behind it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, cast

from pyworker.local.autoscaler import Autoscaler
from pyworker.runtime.server_sent_events import read
from tests.support.http import RawClient, ask, request_bytes
from tests.support.status import status_report


def chunks(client: RawClient) -> Iterator[bytes]:
    while chunk := client.chunk():
        yield chunk


def test_the_page_is_that_of_a_fleet(local_autoscaler: Autoscaler) -> None:
    answer = ask(local_autoscaler.url, "GET", "/")
    assert (answer.status, answer.header("Content-Type")) == (200, "text/html; charset=utf-8")
    assert b'<html lang="en" data-kind="fleet">' in answer.body
    assert "default-src 'none'" in (answer.header("Content-Security-Policy") or "")


def test_the_stream_tells_the_fleet_and_ends_with_the_autoscaler(local_autoscaler: Autoscaler) -> None:
    url = local_autoscaler.url
    report = status_report("http://worker-1:3000", mtoken="secret", working_request_idxs=[1, 2])
    assert ask(url, "POST", "/worker_status/", json.dumps(report).encode()).status == 200
    with RawClient(url) as client:
        client.send(request_bytes("GET", "/events", b""))
        assert client.head() == 200
        events = read(chunks(client))
        name, fleet = next(events)
        assert name == "fleet"
        [worker] = cast("Any", fleet)["workers"]
        assert (worker["state"], worker["url"]) == ("ready", "http://worker-1:3000")
        assert not {"mtoken", "working_request_idxs"} & worker.keys()
        assert next(events)[0] == "fleet"
        before = time.monotonic()
        local_autoscaler.stop()
        assert time.monotonic() - before < 10
    with local_autoscaler, RawClient(local_autoscaler.url) as client:
        client.send(request_bytes("GET", "/events", b""))
        assert client.head() == 200
        assert next(read(chunks(client)))[0] == "fleet"
