"""Random words, from nltk's corpus or from the list that ships, and how the shipped files are made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from pyworker.resources import build, resource_path

FALLBACK = "nltk's word corpus cannot be loaded"


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter: nltk and our list are loaded once in a process."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def _without_a_network(home: Path) -> dict[str, str]:
    # A proxy that refuses every connection stands for a host without a network, wherever the test runs.
    closed = "http://127.0.0.1:1"
    return {
        "HOME": str(home),
        "NLTK_DATA": str(home / "nowhere"),
        "HTTPS_PROXY": closed,
        "https_proxy": closed,
        "NO_PROXY": "",
        "no_proxy": "",
    }


def test_without_corpus_and_network_the_shipped_list_is_used_with_one_warning(tmp_path: Path) -> None:
    code = (
        "import sys, pyworker.words as w\n"
        "assert not {'nltk', 'transformers'} & set(sys.modules)\n"
        "assert w._load.cache_info().currsize == 0\n"
        "print(w.random_words(300)); print(w.random_words(2)); print(len(w._words()[0]))"
    )
    started = time.monotonic()
    done = _run(code, **_without_a_network(tmp_path))
    assert time.monotonic() - started < 10
    first, second, loaded = done.stdout.splitlines()
    shipped = set(resource_path("words.txt").read_text(encoding="utf-8").split())
    assert len(first.split()) == 300
    assert set(first.split()) <= shipped
    assert len(second.split()) == 2
    assert loaded == str(len(shipped))
    assert done.stderr.count(FALLBACK) == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_corpus_on_the_disk_is_used_silently(tmp_path: Path) -> None:
    folder = tmp_path / "nltk_data" / "corpora" / "words"
    folder.mkdir(parents=True)
    (folder / "en").write_text("quokka\nzyzzyva\nit's\n", encoding="ascii")
    (folder / "en-basic").write_text("quokka\n", encoding="ascii")
    environment = _without_a_network(tmp_path) | {"NLTK_DATA": str(tmp_path / "nltk_data")}
    done = _run("from pyworker.words import random_words; print(random_words(50))", **environment)
    assert set(done.stdout.split()) == {"quokka", "zyzzyva"}
    assert done.stderr == ""


def test_the_count_is_kept_and_a_seed_repeats(tmp_path: Path) -> None:
    code = (
        "import random, threading\n"
        "from pyworker.words import random_words\n"
        "texts = []\n"
        "run = lambda: texts.append(random_words(100, random.Random(7)))\n"
        "threads = [threading.Thread(target=run) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "assert len(texts) == 8 and len(set(texts)) == 1\n"
        "assert random_words(0) == random_words(-3) == ''\n"
        "assert len({random_words(20) for _ in range(10)}) == 10\n"
    )
    assert _run(code, **_without_a_network(tmp_path)).stderr.count(FALLBACK) == 1


def test_building_again_gives_the_files_that_ship(tmp_path: Path) -> None:
    assert build.main(["--output", str(tmp_path)]) == 0
    for name in ("words.txt", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == resource_path(name).read_bytes(), f"{name}: run build again"


def test_the_shipped_files_have_a_sensible_size() -> None:
    words = resource_path("words.txt").read_text(encoding="utf-8").split()
    assert len(words) == len(set(words)) > 5000
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    vocabulary = json.loads(resource_path("tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert len(vocabulary) == build.VOCABULARY_SIZE
