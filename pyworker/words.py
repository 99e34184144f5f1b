"""Random words for test and benchmark prompts: nltk's corpus where it can be had, else our own list."""

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
        # Guards `_words` while it is made. Held during the load on purpose: a second caller needs its result.
        self._lock = threading.Lock()
        self._words: Sequence[str] | None = None
        #: Why the package's own list stands in for the corpus; set before `_words`.
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


# Holds nothing until it is asked: importing this module reads no file.
_WORDS = _WordList()


def random_words(count: int, rng: random.Random | None = None) -> str:
    """`count` random words with a blank between them; the same `rng` state gives the same words."""
    if count <= 0:
        return ""
    return " ".join((rng or random.Random()).choices(_WORDS.get(), k=count))


def corpus_problem() -> str:
    """Why the package's own list stands in for nltk's corpus; empty where it does not. Loads the words."""
    _WORDS.get()
    return _WORDS.problem


def _load() -> tuple[Sequence[str], str]:
    """The words, and why they are not the corpus."""
    words, problem = _from_nltk(), None
    if words is None:
        problem = _download()
        words = _from_nltk() if problem is None else None
        if words is None:
            problem = problem or "the download is not readable"
            log.warning(
                "nltk's word corpus cannot be had (%s): prompts are made of the word list of this package. "
                'To use the corpus, run nltk.download("words") where there is a network.',
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
    """Fetch the corpus; the reason where that fails."""
    downloader: Any = importlib.import_module("nltk.downloader")
    answer = probe(downloader.Downloader.DEFAULT_URL)
    if not answer.usable:
        return answer.reason
    # nltk reads from the network without any timeout.
    problems = bounded(_nltk_download, DOWNLOAD_SECONDS, "pyworker-words-download")
    if problems is None:
        return f"the download took more than {DOWNLOAD_SECONDS:g} s"
    return problems or None


def _nltk_download() -> str:
    """What went wrong, in words; empty for success."""
    nltk: Any = importlib.import_module("nltk")
    try:
        # It says False instead of raising, and writes the reason to stderr unless it is given another place.
        done = nltk.download("words", quiet=True, print_error_to=io.StringIO())
    except Exception as error:  # noqa: BLE001 - a portal's login page raises a syntax error, and so on
        return f"the download failed: {type(error).__name__}"
    return "" if done else "the download failed"
