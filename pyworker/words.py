"""Random words for test and benchmark prompts: nltk's corpus if available, else the package's own list."""

from __future__ import annotations

import importlib
import io
import logging
import random
import threading
from collections.abc import Sequence
from typing import Any

from pyworker.resources import resource_path
from pyworker.resources.reach import bounded, probe

log = logging.getLogger(__name__)

DOWNLOAD_SECONDS = 20.0


class _WordList:
    """The words, loaded at the first call. Thread-safe."""

    def __init__(self) -> None:
        # Guards `_words` while it is loaded. Held during the load, since a second caller needs its result.
        self._lock = threading.Lock()
        self._words: Sequence[str] | None = None
        #: Why the package's own list is used; set before `_words`.
        self.problem = ""

    def __repr__(self) -> str:
        words = self._words
        return f"<_WordList [{'not loaded' if words is None else f'{len(words)} words'}]>"

    def get(self) -> Sequence[str]:
        words = self._words
        if words is None:
            with self._lock:
                words = self._words or self._load()
                self._words = words
        return words

    def _load(self) -> Sequence[str]:
        words, self.problem = _load()
        return words


# Loaded at the first use: importing this module reads no file.
_WORDS = _WordList()


def random_words(count: int, rng: random.Random | None = None) -> str:
    """`count` random words, separated by spaces. The same `rng` state gives the same words."""
    if count <= 0:
        return ""
    return " ".join((rng or random.Random()).choices(_WORDS.get(), k=count))


def corpus_problem() -> str:
    """Why the package's own list is used; empty if it is not. Loads the words."""
    _WORDS.get()
    return _WORDS.problem


def _load() -> tuple[Sequence[str], str]:
    """The words, and why they are not those of the corpus; else empty."""
    words, problem = _from_nltk(), None
    if words is None:
        problem = _download()
        words = _from_nltk() if problem is None else None
        if words is None:
            problem = problem or "the download is not readable"
            log.warning(
                "nltk's word corpus cannot be loaded (%s): prompts use the word list of this package. "
                'To use the corpus, run nltk.download("words") with a network.',
                problem,
            )
            words = resource_path("words.txt").read_text(encoding="utf-8").split()
    return words, problem or ""


def _from_nltk() -> Sequence[str] | None:
    corpora: Any = importlib.import_module("nltk.corpus")
    try:
        words = [word for word in corpora.words.words() if word.isascii() and word.isalpha()]
    except Exception:  # noqa: BLE001 - missing, damaged or forbidden: each ends in another exception
        return None
    return words or None


def _download() -> str | None:
    """Download the corpus. Returns the reason if it fails."""
    downloader: Any = importlib.import_module("nltk.downloader")
    found = probe(downloader.Downloader.DEFAULT_URL)
    if not found.usable:
        return found.reason
    # nltk has no timeout.
    problems = bounded(_nltk_download, DOWNLOAD_SECONDS, "pyworker-words-download")
    if problems is None:
        return f"the download took more than {DOWNLOAD_SECONDS:g} s"
    return problems or None


def _nltk_download() -> str:
    """The reason of a failure; empty for success."""
    nltk: Any = importlib.import_module("nltk")
    try:
        # It returns False instead of raising, and prints the reason to stderr by default.
        done = nltk.download("words", quiet=True, print_error_to=io.StringIO())
    except Exception as error:  # noqa: BLE001 - a portal's login page raises a syntax error, and so on
        return f"the download failed: {type(error).__name__}"
    return "" if done else "the download failed"
