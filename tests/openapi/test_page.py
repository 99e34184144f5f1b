"""The page of the routes, in a browser: a request, a stream that is seen as it comes, an error, a stop."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from pyworker.testing import Kit, error, running, stream, whole
from tests.support.browser import chromium, look, opened
from tests.support.kits import lasting
from tests.support.waiting import DEADLINE

pytestmark = pytest.mark.browser
expect.set_options(timeout=DEADLINE * 1000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running_browser:
        yield running_browser


@pytest.fixture(scope="module")
def kit() -> Iterator[Kit]:
    with running("tests.openapi.various", {"UNSECURED": "true"}, live=True) as started, lasting(started):
        yield started


@pytest.fixture
def page(browser: Browser, kit: Kit) -> Iterator[Page]:
    kit.model.forget()
    with opened(browser, f"{kit.url}/docs") as tab:
        yield tab
        assert tab.evaluate("window.harmed") is None


def form(page: Page, name: str) -> Locator:
    return page.get_by_role("form", name=f"Try {name}", exact=True)


def test_routes_and_fields_are_told(page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("tests.openapi.various")
    links = page.get_by_role("navigation").get_by_role("link")
    expect(links).to_have_text(
        ["POST /generate", "GET /files/{file_id}", "DELETE /files/{file_id}", "GET /view/{name}"]
    )
    route = page.get_by_role("region", name="POST /generate")
    rows = route.get_by_role("row").all_inner_texts()
    assert [row.split("\t") for row in rows] == [
        ["Name", "Type", "Default"],
        ["prompt", "string", "required"],
        ["steps", "integer", "4"],
        ["stream", "boolean or null", "null"],
    ]
    # What the author wrote is text, whatever it looks like.
    expect(route).to_contain_text('<img src=x onerror="window.harmed=1">')


def test_a_request_and_its_stream(page: Page, kit: Kit, tmp_path: Path) -> None:
    rest = threading.Event()
    kit.model.answer("/generate", stream({"piece": 1}, rest, {"piece": 2}))
    tried = form(page, "POST /generate")
    payload = tried.get_by_role("textbox", name="Payload")
    expect(payload).to_have_value(json.dumps({"prompt": "a lighthouse", "stream": True}, indent=2))

    payload.press("Control+Enter")

    response = tried.get_by_label("Response", exact=True)
    expect(response).to_have_text('data: {"piece": 1}\n\n', use_inner_text=False)
    expect(tried.get_by_role("status")).to_contain_text("200 OK, coming for")
    rest.set()
    expect(tried.get_by_role("status")).to_contain_text("200 OK, after")
    expect(response).to_contain_text('data: {"piece": 2}')
    assert kit.model.request("/generate").json()["prompt"] == "a lighthouse"
    look(page, "docs", tmp_path)


def test_an_error_is_shown(page: Page, kit: Kit) -> None:
    tried = form(page, "POST /generate")
    payload = tried.get_by_role("textbox", name="Payload")
    payload.fill('{"prompt": 7}')
    tried.get_by_role("button", name="Send").click()
    expect(tried.get_by_role("status")).to_contain_text("422")
    expect(tried.get_by_label("Response", exact=True)).to_contain_text("valid string")
    payload.fill("{")
    tried.get_by_role("button", name="Send").click()
    expect(tried.get_by_role("status")).to_contain_text("The payload is not JSON")
    kit.model.answer("/generate", error(500, "<b>out of memory</b>"))
    payload.fill('{"prompt": "tide"}')
    tried.get_by_role("button", name="Send").click()
    expect(tried.get_by_role("status")).to_contain_text("500")
    expect(tried.get_by_label("Response", exact=True)).to_contain_text("<b>out of memory</b>")


def test_a_request_is_stopped(page: Page, kit: Kit) -> None:
    kit.model.answer("/generate", stream({"piece": 1}, threading.Event()))
    tried = form(page, "POST /generate")
    tried.get_by_role("button", name="Send").click()
    expect(tried.get_by_label("Response", exact=True)).to_contain_text("piece")
    tried.get_by_role("button", name="Stop").click()
    expect(tried.get_by_role("status")).to_contain_text("Stopped after")
    assert kit.model.request("/generate").gone.wait(DEADLINE)


def test_a_path_with_a_variable(page: Page, kit: Kit) -> None:
    kit.model.answer("/files/a%20b", whole({"id": "a b"}))
    tried = form(page, "GET /files/{file_id}")
    tried.get_by_role("button", name="Send").click()
    expect(tried.get_by_role("status")).to_contain_text("file_id is empty")
    tried.get_by_role("textbox", name="file_id").fill("a b")
    tried.get_by_role("textbox", name="file_id").press("Enter")
    expect(tried.get_by_label("Response", exact=True)).to_contain_text('"id": "a b"')


def test_a_worker_that_checks_signatures_as_in_the_demo(browser: Browser) -> None:
    with running("tests.openapi.various", {"PYWORKER_DOCS": "true"}, live=True) as kit:
        assert kit.request("POST", "/generate", {"prompt": "tide"}, signed=False).status == 422
        context = browser.new_context()
        tab = context.new_page()
        tab.goto(f"{kit.url}/docs")
        for name in ("POST /generate", "GET /files/{file_id}"):
            tried = form(tab, name)
            if name.startswith("GET"):
                tried.get_by_role("textbox", name="file_id").fill("7")
            tried.get_by_role("button", name="Send").click()
            expect(tried.get_by_role("status")).to_contain_text("200 OK, after")
        received = [request.path for request in kit.model.requests() if request.path != "/health"]
        assert received[-2:] == ["/generate", "/files/7"]
        context.close()


def test_a_file_is_sent_as_a_form(page: Page, kit: Kit) -> None:
    tried = form(page, "POST /generate")
    tried.get_by_label("File (sent").set_input_files(
        {"name": "a.txt", "mimeType": "text/plain", "buffer": b"x"}
    )
    tried.get_by_role("textbox", name="Payload").fill('{"prompt": "tide"}')
    tried.get_by_role("button", name="Send").click()
    expect(tried.get_by_role("status")).to_contain_text("200 OK, after")
    assert kit.model.request("/generate").json() == {"prompt": "tide", "files": 1, "steps": 4}
