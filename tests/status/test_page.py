"""The page of a worker and of a fleet, in a browser: what is shown in each state, and to whom."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from pyworker.local.autoscaler import Autoscaler
from tests.support.browser import chromium, look, opened
from tests.support.http import RawClient, ask, request_bytes
from tests.support.ports import own_address
from tests.support.scripted import whole
from tests.support.stack import ERROR_LINE, INFO_LINE, LOADED_LINE, MASTER_TOKEN, NewStack, Stack
from tests.support.status import status_report
from tests.support.waiting import DEADLINE

pytestmark = pytest.mark.browser

JSON = "Content-Type: application/json"
HOSTILE = "<img src=x onerror='window.harmed=1'><script>window.harmed=1</script>"
# Every text that the page is given from now on becomes a hostile one.
_HARM = """(text) => {
  const fields = (value) => Object.entries(value).map(([name, inner]) => [name, harm(inner)]);
  const harm = (value) => typeof value === "string" ? text : Array.isArray(value) ? value.map(harm)
    : value && typeof value === "object" ? Object.fromEntries(fields(value)) : value;
  const take = page.take.bind(page);
  page.take = (name, value) => take(name, harm(value));
}"""
expect.set_options(timeout=DEADLINE * 1000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def card(page: Page, title: str) -> str:
    return page.get_by_role("region", name=title, exact=True).first.inner_text()


def test_each_state_is_shown(browser: Browser, new_stack: NewStack, tmp_path: Path) -> None:
    stack = new_stack()
    benchmark, answer = threading.Event(), threading.Event()
    stack.model.once("/benchmark", whole(b"{}", JSON))
    stack.model.script("/benchmark", benchmark, whole(b"{}", JSON))
    stack.worker.start()
    stack.worker.say("loading shard 3 of 12")
    with opened(browser, f"{stack.url}/status") as page:
        heading = page.get_by_role("heading", level=1)
        awaited = page.get_by_role("region", name="What it waits for")

        expect(heading).to_have_text("Loading")
        expect(awaited).to_contain_text(LOADED_LINE)
        expect(awaited).to_contain_text("last: 'loading shard 3 of 12'")
        expect(page.get_by_role("region", name="Model log").last).to_contain_text("loading shard 3 of 12")
        look(page, "loading", tmp_path)

        stack.worker.say(LOADED_LINE)
        stack.model.request("/benchmark", 2)
        expect(heading).to_have_text("Benchmarking")
        expect(awaited).to_contain_text("Round 1 of 2 of the benchmark")
        look(page, "benchmarking", tmp_path)

        benchmark.set()
        stack.wait_ready()
        expect(heading).to_have_text("Ready")
        expect(awaited).to_be_hidden()
        assert "Ready" in page.title()
        expect(page.locator("#heard")).to_have_text("Ready")

        stack.model.script("/pass", answer, whole(b"{}", JSON))
        with stack.open("/pass") as client:
            stack.model.request("/pass")
            stack.worker.say(f"{ERROR_LINE}: CUDA out of memory")
            expect(heading).to_have_text("Errored")
            expect(page.get_by_role("region", name="Error")).to_contain_text("CUDA out of memory")
            expect(page.get_by_role("region", name="Phases")).to_contain_text(f"{ERROR_LINE}: CUDA")
            look(page, "errored", tmp_path)

            stack.worker.terminate()
            expect(heading).to_have_text("Draining")
            expect(awaited).to_have_text("What it waits for1 request in hand")
            look(page, "draining", tmp_path)
            answer.set()
            assert client.answer().status == 200
        assert stack.worker.wait() == 0, "a page that watches does not hold up the end"
        expect(page.locator("#link")).to_contain_text("No connection to the worker")


def test_a_worker_under_load(browser: Browser, stack: Stack, tmp_path: Path) -> None:
    gate = threading.Event()
    forged = {"auth_data": stack.auth_data(signature="AAAA"), "payload": {"prompt": "x"}}
    assert ask(stack.url, "POST", "/pass", json.dumps(forged).encode()).status == 401
    stack.model.once("/pass", b"garbage\r\n\r\n")
    assert stack.post("/pass").status == 502
    for _ in range(20):
        stack.post("/pass", work=50.0)
    stack.model.script("/serial", gate, whole(b"{}", JSON))
    clients = [stack.open("/serial", work=30.0) for _ in range(3)]
    try:
        with opened(browser, f"{stack.url}/status") as page:
            tiles = page.locator("dl.tiles")
            expect(tiles).to_contain_text("Running1")
            expect(tiles).to_contain_text("Waiting2")
            expect(tiles).to_contain_text("Load90")
            rows = page.get_by_role("table", name="Last requests").get_by_role("row")
            expect(rows).to_have_count(13)
            expect(rows.nth(1)).to_contain_text("/pass")
            refused = page.get_by_role("table", name="Why the last ones were refused")
            expect(refused).to_contain_text("the signature does not verify")
            expect(page.get_by_role("img", name="Requests in the last minute")).to_be_visible()
            page.wait_for_function("document.querySelectorAll('figure rect').length > 0")
            expect(page.get_by_role("region", name="Autoscaler")).to_contain_text("Acceptedyes")
            look(page, "ready", tmp_path)
    finally:
        gate.set()
        for client in clients:
            assert client.answer().status == 200
            client.close()


def test_the_token_is_asked_for_once(browser: Browser, new_stack: NewStack, tmp_path: Path) -> None:
    stack = new_stack({"WORKER_HOST": "0.0.0.0"})
    stack.worker.start()
    url = f"http://{own_address()}:{stack.worker.port}/status"
    assert ask(url, "GET", "/status").status == ask(url, "GET", "/status/events").status == 401
    with opened(browser, url) as page:
        field = page.get_by_label("Master token")
        expect(field).to_be_focused()
        assert "Loading" not in page.content()
        look(page, "token", tmp_path)

        page.keyboard.type("another")
        page.keyboard.press("Enter")
        expect(page.locator("#why")).to_contain_text("refused")

        page.keyboard.type(MASTER_TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Loading")
        expect(field).to_be_hidden()
        assert MASTER_TOKEN not in page.content()

        page.reload(wait_until="commit")
        expect(page.get_by_role("heading", level=1)).to_have_text("Loading")
        expect(field).to_be_hidden()


def test_what_comes_from_outside_is_never_html(browser: Browser, stack: Stack) -> None:
    stack.worker.say(f"{INFO_LINE} {HOSTILE}")
    body = {"auth_data": stack.auth_data(), "payload": {HOSTILE: 1}}
    headers = {"X-Request-Id": HOSTILE}
    assert ask(stack.url, "POST", "/pass", json.dumps(body).encode(), headers).status == 422
    with opened(browser, f"{stack.url}/status") as page:
        expect(page.get_by_role("region", name="Model log").last).to_contain_text(HOSTILE)
        page.evaluate(_HARM, HOSTILE)
        # Whatever else the worker could be brought to say.
        expect(page.get_by_role("heading", level=1)).to_contain_text("<img", ignore_case=True)
        stack.post("/pass")
        expect(page.get_by_role("table", name="Last requests")).to_contain_text(HOSTILE)
        expect(page.get_by_role("table", name="Why the last ones were refused")).to_contain_text(HOSTILE)
        assert page.locator("img, main script, main style").count() == 0
        assert page.evaluate("window.harmed") is None


def test_everything_can_be_reached_by_keyboard(browser: Browser, stack: Stack) -> None:
    with opened(browser, f"{stack.url}/status") as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("Ready")
        for name in ("Model log", "Worker log"):
            page.keyboard.press("Tab")
            expect(page.locator(":focus")).to_have_attribute("aria-label", name)
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_text("MODEL_SERVER_URL")).to_be_visible()
        assert MASTER_TOKEN not in page.content()
        unnamed = page.evaluate(
            "[...document.querySelectorAll('section, table, svg, [role=region]')]"
            ".filter((one) => !(one.getAttribute('aria-label') || one.caption)).length"
        )
        assert unnamed == 0


def test_the_fleet_is_shown(browser: Browser, stack: Stack, tmp_path: Path) -> None:
    with Autoscaler() as autoscaler, opened(browser, autoscaler.url) as page:
        expect(page.locator("#since")).to_have_text("no worker has reported yet")
        for report in (
            status_report(id=1, url=stack.url, max_perf=100.0, cur_load=30.0, num_requests_working=2),
            status_report(id=2, url="http://worker-2:3000", max_perf=0.0),
            status_report(id=3, url="http://worker-3:3000", error_msg=HOSTILE),
        ):
            assert ask(autoscaler.url, "POST", "/worker_status/", json.dumps(report).encode()).status == 200
        expect(page.locator("#since")).to_have_text("1 ready, 1 loading, 1 errored")
        expect(page.locator("dl.tiles")).to_contain_text("In hand2")
        expect(page.get_by_role("table", name="Workers")).to_contain_text(HOSTILE)
        assert page.evaluate("window.harmed") is None
        look(page, "fleet", tmp_path)

        link = page.get_by_role("link", name="Worker 1")
        link.focus()
        seen = page.locator("#link").inner_text()
        expect(page.locator("#link")).not_to_have_text(seen)
        expect(link).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Ready")
        assert page.url == f"{stack.url}/status"


def test_a_page_too_many_is_told_so(browser: Browser, stack: Stack) -> None:
    with ExitStack() as ending:
        others = [ending.enter_context(RawClient(stack.url)) for _ in range(4)]
        for other in others:
            other.send(request_bytes("GET", "/status/events", b""))
            assert other.head() == 200
        page = ending.enter_context(opened(browser, f"{stack.url}/status"))
        expect(page.locator("#link")).to_contain_text("4 pages watch this worker already")
        others[0].close()
        expect(page.get_by_role("heading", level=1)).to_have_text("Ready")


def test_a_page_in_the_background_does_not_watch(browser: Browser, stack: Stack) -> None:
    hide = """(hidden) => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with opened(browser, f"{stack.url}/status") as page:
        expect(page.locator("#link")).to_contain_text("Live")
        page.evaluate(hide, True)
        expect(page.locator("#link")).to_have_text("Paused")
        page.evaluate(hide, False)
        expect(page.locator("#link")).to_contain_text("Live")
