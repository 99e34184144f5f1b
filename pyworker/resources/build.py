"""Makes tokenizer.json and words.txt from our texts: `python -m pyworker.resources.build`.

Deterministic: the same text and the same release of `tokenizers` give the same bytes.
Options let a test write elsewhere and compare.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from pyworker.resources import resource_path

VOCABULARY_SIZE = 6144

_TAKES_NOTHING = re.compile(r"(s|ed|ing|ly|est|ness|ful|en|ous|ive|al)$")
_TAKES_PLURAL = re.compile(r"(er|or|ion|ment|ity|ism|ist|ance|ence)$")


def words_of(text: str) -> list[str]:
    """The distinct plain words of a text, in lower case and sorted."""
    return sorted(set(re.findall(r"[a-z]+", text.lower())))


def derived(word: str) -> list[str]:
    """Forms of a base word by the simplest rules of spelling; nothing for short or derived words."""
    if len(word) < 3 or _TAKES_NOTHING.search(word):
        return []
    if re.search(r"[^aeiou]y$", word):
        plural = word[:-1] + "ies"
        return [plural] if _TAKES_PLURAL.search(word) else [plural, word[:-1] + "ied", word + "ing"]
    plural = word + ("es" if re.search(r"(x|z|ch|sh)$", word) else "s")
    if _TAKES_PLURAL.search(word):
        return [plural]
    stem = word[:-1] if word.endswith("e") else word
    if re.fullmatch(r"[^aeiou]*[aeiou][bdgmnprt]", word):
        stem = word + word[-1]  # short words double the last letter: plan, planned
    return [plural, stem + "ed", stem + "ing"]


def word_list(text: str, common: str) -> str:
    """The contents of words.txt, from the handbook and from common.txt."""
    lines = [line for line in common.splitlines() if not line.startswith("#")]
    fixed, more = ("\n".join(lines)).split("\n\n", 1)
    kept = set(words_of(fixed))
    base = set(words_of(text)) | set(words_of(more))
    forms = {form for word in base - kept for form in derived(word)}
    return "\n".join(sorted(base | kept | forms)) + "\n"


def tokenizer_json(text: str, words: str) -> str:
    """The contents of tokenizer.json: byte-level, so that any text can be counted."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    # The word list teaches the endings that a text of this size shows too seldom.
    tokenizer.train_from_iterator([text, " " + words.replace("\n", " ")], trainer)
    return tokenizer.to_str(pretty=False) + "\n"


def build(folder: Path) -> None:
    """Write both files into `folder`."""
    text = resource_path("handbook.txt").read_text(encoding="utf-8")
    words = word_list(text, resource_path("common.txt").read_text(encoding="utf-8"))
    (folder / "words.txt").write_text(words, encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer_json(text, words), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pyworker.resources.build", description=__doc__)
    parser.add_argument(
        "--output",
        type=Path,
        default=resource_path(""),
        help="folder to write to (default: the package's own)",
    )
    folder: Path = parser.parse_args(arguments).output
    build(folder)
    sys.stdout.write(f"wrote words.txt and tokenizer.json to {folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
