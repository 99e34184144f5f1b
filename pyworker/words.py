"""Random words for test and benchmark prompts: nltk's corpus if available, else the package's own list."""

from __future__ import annotations

import functools
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

# Held while the words are loaded, since a second caller needs the same result.
_lock = threading.Lock()


def random_words(count: int, rng: random.Random | None = None) -> str:
    """`count` random words, separated by spaces. The same `rng` state gives the same words."""
    if count <= 0:
        return ""
    return " ".join((rng or random.Random()).choices(_words()[0], k=count))


def corpus_problem() -> str:
    """Why the package's own list is used; empty if it is not. Loads the words."""
    return _words()[1]


def _words() -> tuple[Sequence[str], str]:
    with _lock:
        return _load()


@functools.cache
def _load() -> tuple[Sequence[str], str]:
    """The words, and why they are not those of the corpus; else empty."""
    problem = ""
    words = _from_nltk()
    if words is None and not (problem := _download()):
        words = _from_nltk()
    if words is not None:
        return words, ""
    problem = problem or "the download is not readable"
    log.warning(
        "nltk's word corpus cannot be loaded (%s): prompts use the word list of this package. "
        'To use the corpus, run nltk.download("words") with a network.',
        problem,
    )
    return resource_path("words.txt").read_text(encoding="utf-8").split(), problem


def _from_nltk() -> Sequence[str] | None:
    corpora: Any = importlib.import_module("nltk.corpus")
    try:
        words = [word for word in corpora.words.words() if word.isascii() and word.isalpha()]
    except Exception:  # noqa: BLE001 - missing, damaged or forbidden: each ends in another exception
        return None
    return words or None


def _download() -> str:
    """Download the corpus. Returns the reason if it fails, else an empty text."""
    downloader: Any = importlib.import_module("nltk.downloader")
    found = probe(downloader.Downloader.DEFAULT_URL)
    if not found.usable:
        return found.reason
    # nltk has no timeout.
    problem = bounded(_nltk_download, DOWNLOAD_SECONDS, "pyworker-words-download")
    return f"the download took more than {DOWNLOAD_SECONDS:g} s" if problem is None else problem


def _nltk_download() -> str:
    """The reason of a failure; empty for success."""
    nltk: Any = importlib.import_module("nltk")
    try:
        # It returns False instead of raising, and prints the reason to stderr by default.
        done = nltk.download("words", quiet=True, print_error_to=io.StringIO())
    except Exception as error:  # noqa: BLE001 - a portal's login page raises a syntax error, and so on
        return f"the download failed: {type(error).__name__}"
    return "" if done else "the download failed"
