"""Headless Chromium, driven by Playwright, and what a test asks of a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

#: Where screenshots are kept, if they are to outlive the test.
SHOTS = "PYWORKER_TEST_SCREENSHOTS"
_DESKTOP: ViewportSize = {"width": 1180, "height": 900}
_PHONE: ViewportSize = {"width": 360, "height": 740}
_LOOKS = {"dark": _DESKTOP, "phone": _PHONE, "light": _DESKTOP}
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-quic"),
)

# Whatever is written on a page, with its contrast to what lies behind it (WCAG 2.2, 1.4.3).
_CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
    .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const found = numbers(getComputedStyle(one).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), node = walker.currentNode.parentElement;
    if (!text || !node.checkVisibility() || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(node.tagName)) continue;
    const style = getComputedStyle(node), colour = node.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(numbers(colour)), light(behind(node))].sort((x, y) => y - x);
    found.push([text, (a + 0.05) / (b + 0.05)]);
  }
  return found;
}"""


@contextmanager
def chromium() -> Generator[Browser]:
    """A browser. Skips the test if there is none, but fails it in CI."""
    path = shutil.which("chromium")
    if path is None:
        reason = "there is no chromium: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def look(page: Page, name: str, folder: Path) -> None:
    """Screenshots in light, dark and on a phone, which must not scroll sideways; text can be read in each."""
    folder = Path(os.environ.get(SHOTS) or folder)
    folder.mkdir(parents=True, exist_ok=True)
    for look_name, size in _LOOKS.items():
        page.emulate_media(color_scheme="dark" if look_name == "dark" else "light")
        page.set_viewport_size(size)
        # Written here: Playwright would start a thread that stays.
        (folder / f"{name}-{look_name}.png").write_bytes(page.screenshot(full_page=True))
        faint = [(text, ratio) for text, ratio in page.evaluate(_CONTRASTS) if ratio < 4.5]
        assert faint == [], f"{name}, {look_name}"
        widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert widths[0] <= widths[1], f"{name}, {look_name} scrolls sideways"


@contextmanager
def opened(browser: Browser, url: str) -> Generator[Page]:
    """A tab of its own that shows this address. Whatever goes wrong in its script fails the test."""
    context = browser.new_context()
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
    try:
        page.goto(url, wait_until="commit")
        yield page
        assert faults == []
    finally:
        context.close()
