"""The model server's URL, the phrases of its log, and whether anything can say that it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pyworker.data_types import LogAction
from pyworker.errors import ConfigError, shortened
from pyworker.runtime.redaction import redacted
from pyworker.runtime.urls import can_be_called

_SHOWN = 80
_EXAMPLE = '(LogAction.ModelLoaded, "server is listening")'


def check_model_server(url: object, log_actions: object, place: str) -> None:
    """place: file and line of the call that was given them. Raises `ConfigError`."""
    problems = [*_url_problems(url), *_phrase_problems(log_actions)]
    if problems:
        raise ConfigError(*(f"{place}: {problem}" for problem in problems))


def _url_problems(url: object) -> Sequence[str]:
    if not isinstance(url, str):
        return [f'the URL of the model server is {url!r}: write a text such as "http://127.0.0.1:8080"']
    if can_be_called(url):
        return []
    shown = shortened(redacted(url), _SHOWN)
    better = f"http://{url}" if "//" not in url and url else "http://127.0.0.1:8080"
    return [
        "the URL of the model server must begin with http:// or https:// and name a host: it is "
        f'{shown!r}; write "{shortened(redacted(better), _SHOWN)}"'
    ]


def _phrase_problems(log_actions: object) -> Sequence[str]:
    if isinstance(log_actions, (str, bytes)) or not isinstance(log_actions, Sequence):
        return [
            f"the phrases of the model's log are {_shown(log_actions)}: write a list such as [{_EXAMPLE}]"
        ]
    problems: list[str] = []
    for number, pair in enumerate(cast("Sequence[Any]", log_actions), 1):
        is_pair = isinstance(pair, tuple | list) and len(cast("Sequence[Any]", pair)) == 2
        if not is_pair or not isinstance(pair[0], LogAction) or not isinstance(pair[1], str) or not pair[1]:
            shown = _shown(cast("object", pair))
            problems.append(
                f"phrase {number} of the model's log is {shown}: write a pair of what it means and the "
                f"phrase, such as {_EXAMPLE}"
            )
    return problems


def check_loaded_sign(
    log_actions: Sequence[tuple[LogAction, str]], health_url: str | None, place: str
) -> None:
    """Raise `ConfigError` if neither a phrase nor health can say that the model is loaded."""
    if health_url is None and not any(action is LogAction.ModelLoaded for action, _ in log_actions):
        raise ConfigError(
            f"{place}: nothing says that the model is loaded: give it a phrase of the model's log, such as "
            f'{_EXAMPLE}, or a health endpoint, such as "/health"; or set MODEL_LOAD_LOG_MSG or '
            "MODEL_HEALTH_ENDPOINT"
        )


def _shown(value: object) -> str:
    return shortened(repr(value), _SHOWN)
