"""Which lines of the model's log may be shown: none that quotes a request."""

from __future__ import annotations

import pytest

from pyworker.data_types import LogAction
from pyworker.lifecycle.model_lines import ModelLines
from pyworker.runtime.redaction import without_secrets

LOADED, ERROR = LogAction.ModelLoaded, LogAction.ModelError


def lines_of(*, was_ready: bool = False, trusts_old: bool = True) -> ModelLines:
    return ModelLines(without_secrets, was_ready=lambda: was_ready, trusts_old=lambda: trusts_old)


def test_a_start_is_shown_whole() -> None:
    lines = lines_of()
    for line in ("loading shard 1 of 2", "anything: it is the start", "args: {'api_key': 'abc'}"):
        lines.take(line, None, False)
    assert lines.lines() == ["loading shard 1 of 2", "anything: it is the start", "args: {'api_key': '***'}"]


def test_a_line_ends_where_it_quotes_a_request() -> None:
    lines = lines_of()
    lines.take("Received request cmpl-1: prompt: 'secret', params", None, False)
    lines.take('echo has failed {"messages": ["secret"]}', ERROR, False)
    assert lines.lines() == ["Received request cmpl-1: prompt: …", 'echo has failed {"messages": …']


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("a prompt about anything", ""),
        ("INFO 11-27 10:00:00 [logger.py:39] Received request: secret", ""),
        ("what ERROR means in my secret", ""),
        ("secret Error: as a prompt", ""),
        ("ERROR 11-27 10:00:00 [core.py:12] secret", "ERROR 11-27 10:00:00 [core.py:12] …"),
        (
            "(EngineCore_0 pid=7) ERROR 11-27 10:00:00 [core.py:12] secret",
            "(EngineCore_0 pid=7) ERROR 11-27 10:00:00 [core.py:12] …",
        ),
        ("2026-11-27 10:00:00,123 - ERROR - secret", "2026-11-27 10:00:00,123 - ERROR - …"),
        ("ERROR:    Exception about secret", "ERROR: …"),
        ("torch.OutOfMemoryError: secret", "torch.OutOfMemoryError …"),
        ("RuntimeError: CUDA out of memory. secret", "RuntimeError … CUDA out of memory …"),
        ("ValueError", "ValueError"),
        ("Traceback (most recent call last):", "Traceback (most recent call last) …"),
        (
            '{"timestamp":"2026-11-27T10:00:00Z","level":"ERROR","message":"secret"}',
            '{"timestamp":"2026-11-27T10:00:00Z","level":"ERROR" …',
        ),
    ],
)
def test_of_a_model_that_serves_errors_are_shown_without_their_message(line: str, shown: str) -> None:
    lines = lines_of(was_ready=True)
    assert lines.take(line, None, False) == shown
    assert lines.lines() == ([shown] if shown else [])


def test_a_line_with_a_phrase_is_shown_always() -> None:
    lines = lines_of(was_ready=True)
    assert lines.take("EngineDeadError: it is dead", ERROR, False) == "EngineDeadError: it is dead"


def test_old_lines_after_the_loaded_line_may_be_of_requests() -> None:
    lines = lines_of()
    lines.take("loading", None, True)
    lines.take("loaded", LOADED, True)
    lines.take("a prompt", None, True)
    # Nothing was served by this worker, nor by one before it.
    lines.take("still warming up", None, False)
    assert lines.lines() == ["loading", "loaded", "still warming up"]


def test_old_lines_of_a_model_that_was_loaded_before_are_not_trusted() -> None:
    lines = lines_of(trusts_old=False)
    lines.take("a prompt", None, True)
    assert lines.lines() == []
