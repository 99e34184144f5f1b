"""Counting tokens: local tokenizers, and what happens when the hub is refused, silent, gone or gated."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path

import pytest

from pyworker.resources import resource_path
from pyworker.tokenizer import TokenCounter

SHIPPED = str(resource_path("tokenizer.json"))
WARNING = "cannot be loaded"

REPORT = """
import json, sys, time
from pyworker.tokenizer import TokenCounter
assert not {"transformers", "nltk"} & set(sys.modules)
counter = TokenCounter(sys.argv[1], **json.loads(sys.argv[2]))
import transformers
started = time.monotonic()
counter.load()
seconds = time.monotonic() - started
counter.load()
print(json.dumps({"seconds": seconds, "source": counter.source, "count": counter.count("a small test")}))
"""


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return TokenCounter(SHIPPED)


# --- counting --------------------------------------------------------------------------------------------


def test_nothing_is_loaded_before_the_first_count() -> None:
    counter = TokenCounter(SHIPPED)
    assert counter.source is None
    assert repr(counter).endswith("[not loaded]>")
    assert counter.count("one two three") == 3
    assert counter.source == "disk"
    assert repr(counter).endswith("from disk]>")


def test_empty_unicode_and_lone_surrogates(counter: TokenCounter) -> None:
    assert counter.count("") == 0
    assert counter.count("日本語 🙂") > 2
    assert counter.count("before \ud800 after \udfff") == counter.count("before ? after ?")
    assert counter.count("<|end|>") >= 1


def test_own_prose_takes_about_as_many_tokens_as_usual(counter: TokenCounter) -> None:
    text = resource_path("handbook.txt").read_text(encoding="utf-8")
    assert 1.0 < counter.count(text) / len(text.split()) < 1.4


def test_a_long_text_is_counted_in_full_and_without_a_remark(
    counter: TokenCounter, capfd: pytest.CaptureFixture[str]
) -> None:
    assert counter.count(" word" * 100_000) == 100_000
    assert capfd.readouterr().err == ""


def test_the_limits_of_a_tokenizer_do_not_cap_the_count(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(Path(SHIPPED).read_text(encoding="utf-8"))
    data["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    counter = TokenCounter(str(tmp_path))
    assert counter.count(" word" * 500) == 500
    assert counter.source == "disk"
    assert WARNING not in capfd.readouterr().err


def test_many_threads_load_once_and_agree(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    counter = TokenCounter(str(tmp_path / "missing"))
    text = "a text that many threads count at once " * 50
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(counter.count(text))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(counts) == 8
    assert len(set(counts)) == 1
    assert len(caplog.records) == 1


def test_a_name_given_to_load_overrides_the_default(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = tmp_path / "other.json"
    shutil.copy(SHIPPED, other)
    counter = TokenCounter(str(tmp_path / "missing"))
    counter.load(str(other))
    counter.load()
    counter.load("")
    assert repr(str(other)) in repr(counter)
    assert not caplog.records


def test_a_broken_local_tokenizer_is_not_looked_for_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        caplog.clear()
        counter = TokenCounter(str(path))
        assert counter.count("a small test") > 0
        assert counter.source == "package"
        assert len(caplog.records) == 1
        assert "the local path is not a readable tokenizer" in caplog.text


# --- the hub ---------------------------------------------------------------------------------------------


def _drip(file: BufferedIOBase, body: bytes, over: threading.Event) -> None:
    with suppress(OSError):
        for byte in body:
            file.write(bytes([byte]))
            if over.wait(0.1):
                return


@contextmanager
def _hub(status: int, folder: Path | None = None, *, dripping: bool = False) -> Generator[str]:
    """A hub that responds to everything with a status, or serves the files of a folder.

    dripping: a byte each tenth of a second, until its clients are gone.
    """
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            file = None if folder is None else folder / self.path.rsplit("/", 1)[-1]
            found = file is not None and file.is_file() and "/resolve/" in self.path
            body = file.read_bytes() if file is not None and found else b""
            self.send_response(200 if found else status)
            self.send_header("Content-Length", str(len(body)))
            # The library's cache keeps files by this, so each needs its own.
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            if not found and folder is not None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if with_body and dripping:
                _drip(self.wfile, body, over)
            elif with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="test-hub"
        )
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            over.set()
            server.shutdown()
            thread.join(10)


@contextmanager
def _silent_hub() -> Generator[str]:
    """The system accepts connections; no response ever comes."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def _refusing_hub() -> Generator[str]:
    """A port that is bound, so that no other process takes it, and not listened at."""
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def _load(
    endpoint: str, home: Path, options: Mapping[str, float] | None = None, **environment: str
) -> tuple[dict[str, object], str]:
    """Load some name from the hub at `endpoint` in a fresh process: the report, and what stderr says."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, "somebody/some-tokenizer", json.dumps(options or {})],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))},
            "HF_HOME": str(home),
            "HF_ENDPOINT": endpoint,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout), done.stderr


def _assert_fell_back(result: tuple[dict[str, object], str], reason: str) -> None:
    report, stderr = result
    assert report["source"] == "package"
    assert report["count"] == TokenCounter(SHIPPED).count("a small test")
    seconds = report["seconds"]
    assert isinstance(seconds, float)
    assert seconds < 25, "the library alone would take most of a minute"
    assert stderr.count(WARNING) == 1
    assert reason in stderr


def test_a_hub_that_refuses_connections(tmp_path: Path) -> None:
    with _refusing_hub() as endpoint:
        _assert_fell_back(_load(endpoint, tmp_path), "refused")


def test_a_hub_that_accepts_and_never_answers(tmp_path: Path) -> None:
    with _silent_hub() as endpoint:
        _assert_fell_back(_load(endpoint, tmp_path), "no response within")


def test_a_hub_that_drips_is_given_up_and_holds_nothing_up(tmp_path: Path) -> None:
    """Each of its bytes comes in time, and all of them would take a day; the process ends all the same."""
    files = tmp_path / "files"
    files.mkdir()
    shutil.copy(SHIPPED, files / "tokenizer.json")
    (files / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (files / "config.json").write_text('{"model_type": "gpt2"}')
    with _hub(404, files, dripping=True) as endpoint:
        began = time.monotonic()
        result = _load(endpoint, tmp_path / "home", {"hub_seconds": 1.5})
        assert time.monotonic() - began < 25, "the import of the library included"
    _assert_fell_back(result, "the hub took more than 1.5 s")


def test_a_hub_whose_name_is_unknown(tmp_path: Path) -> None:
    # No resolver knows this top-level domain; the wording of the reason is the system's.
    _assert_fell_back(_load("http://hub.invalid", tmp_path), "the hub: ")


@pytest.mark.parametrize("status", [401, 404, 503])
def test_a_hub_that_says_no(tmp_path: Path, status: int) -> None:
    with _hub(status) as endpoint:
        _assert_fell_back(_load(endpoint, tmp_path), f"HTTP {status}")


def test_a_gated_tokenizer_is_left_to_the_library_where_there_is_a_token(tmp_path: Path) -> None:
    with _hub(401) as endpoint:
        result = _load(endpoint, tmp_path, HF_TOKEN="hf_secret")
    _assert_fell_back(result, "the hub responded, but loading failed")
    assert "hf_secret" not in result[1]


def test_offline_mode_asks_nobody(tmp_path: Path) -> None:
    with _silent_hub() as endpoint:
        _assert_fell_back(_load(endpoint, tmp_path, HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE is set")


def test_an_endpoint_that_is_no_url_and_its_password(tmp_path: Path) -> None:
    result = _load("htp:/user:secretword@nowhere", tmp_path)
    _assert_fell_back(result, "the hub: ")
    assert "secretword" not in result[1]


def test_a_hub_that_works_and_then_its_cache(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    shutil.copy(SHIPPED, files / "tokenizer.json")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (files / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (files / "config.json").write_text(json.dumps({"model_type": "gpt2"}), encoding="utf-8")
    with _hub(404, files) as endpoint:
        report, stderr = _load(endpoint, tmp_path / "home")
    assert report["source"] == "hub", stderr
    assert WARNING not in stderr
    with _refusing_hub() as endpoint:
        report, stderr = _load(endpoint, tmp_path / "home")
    assert report["source"] == "disk", stderr
