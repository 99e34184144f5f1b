"""Data that ships with the package, so that everything works if no hub or corpus can be reached.

handbook.txt    our own text; what the stand-in language model is trained on
common.txt      common words that the handbook lacks
tokenizer.json  a small byte-level BPE tokenizer made from these two
words.txt       a word list made from these two, one word a line
page.html       what a browser shows of a worker, or of a fleet
docs.html       what it shows of the routes of a development worker
page            these two files with their header fields
build           makes the last two from the first two: `python -m pyworker.resources.build`
reach           probes whether the online original could be fetched instead, with a deadline
loadtest.html   the template of the load test's report
monitoring      a dashboard, alert rules and a manifest for Kubernetes, with a README
"""

from __future__ import annotations

from pathlib import Path


def resource_path(name: str) -> Path:
    """The path of a shipped file, which is not checked for existence."""
    return Path(__file__).parent / name
