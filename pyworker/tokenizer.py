"""Counts the tokens of a text, the usual unit of a language model's workload.

Nothing is imported or read before a tokenizer is needed. If it cannot be loaded, the one that ships with the
package is used, with a warning.
"""

from __future__ import annotations

import importlib
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyworker.resources import resource_path
from pyworker.resources.reach import Reach, bounded, probe

log = logging.getLogger(__name__)

#: Deadline in seconds for the download of one tokenizer.
HUB_SECONDS = 60.0

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
# AutoTokenizer fetches these in this order; a tokenizer has at least one of them.
_PROBED_FILES = ("tokenizer_config.json", "tokenizer.json", "config.json")


@dataclass(frozen=True)
class _Loaded:
    """One tokenizer; `count`, None before it was loaded, may be called from any thread."""

    name: str
    source: str | None = None
    count: Callable[[str], int] | None = None
    problem: str = ""


class TokenCounter:
    """Counts tokens with a local tokenizer, or one of the Hugging Face hub. Thread-safe."""

    def __init__(self, name: str, *, hub_seconds: float = HUB_SECONDS) -> None:
        """name: a hub id, a folder or a tokenizer.json file; nothing is loaded yet.

        hub_seconds: deadline of a download, after which the package's own tokenizer is used.
        """
        self._hub_seconds = hub_seconds
        # Guards `_loaded` while it is loaded. Held during the load, since a second caller needs the same
        # result. Not taken to count.
        self._lock = threading.Lock()
        self._loaded = _Loaded(name)

    def __repr__(self) -> str:
        state = f"from {self.source}" if self.source else "not loaded"
        return f"<TokenCounter {self.name!r} [{state}]>"

    @property
    def source(self) -> str | None:
        """The source of the tokenizer: "disk", "hub" or "package"; None before it was loaded."""
        return self._loaded.source

    @property
    def name(self) -> str:
        """The name of the requested tokenizer."""
        return self._loaded.name

    @property
    def problem(self) -> str:
        """Why the package's own tokenizer is used instead of the requested one; else empty."""
        return self._loaded.problem

    def load(self, name: str | None = None) -> None:
        """Load `name`, or the default if it is empty, unless it is loaded already.

        A tokenizer that cannot be loaded raises nothing; see `problem`.
        """
        with self._lock:
            loaded = self._loaded
            if loaded.count is None or (name and name != loaded.name):
                self._loaded = _load(name or loaded.name, self._hub_seconds)

    def count(self, text: str) -> int:
        """The number of tokens in `text`, without the special tokens of the model."""
        while (count := self._loaded.count) is None:
            self.load()
        return count(_encodable(text))


def _encodable(text: str) -> str:
    """`text` with lone surrogates replaced, which JSON can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _counter(tokenizer: Any) -> Callable[[str], int]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _slow_counter(tokenizer)
    # A tokenizer's own limit would cap the count of a long text. Switched off once, here: the wrapper's
    # `encode` changes these settings in each call, which is not thread-safe.
    backend.no_truncation()
    backend.no_padding()
    return lambda text: len(backend.encode(text, add_special_tokens=False))


def _slow_counter(tokenizer: Any) -> Callable[[str], int]:
    # Guards `tokenizer`: tokenizers in Python have caches that are not thread-safe.
    lock = threading.Lock()

    def count(text: str) -> int:
        with lock:
            return len(tokenizer.encode(text, add_special_tokens=False, verbose=False))

    return count


# --- loading: disk first, then the hub, then the package -------------------------------------------------


def _load(name: str, hub_seconds: float) -> _Loaded:
    transformers = _import_transformers()
    tokenizer, problem = _from_disk(transformers, name)
    if tokenizer is not None:
        return _Loaded(name, "disk", _counter(tokenizer))
    if problem is None:
        tokenizer, problem = _from_hub(transformers, name, hub_seconds)
    if tokenizer is not None:
        return _Loaded(name, "hub", _counter(tokenizer))
    log.warning(
        "Tokenizer %r cannot be loaded (%s): counting with the small one of this package, so workload "
        "figures differ. Make the hub reachable, put the tokenizer into its cache, or set TOKENIZER to a "
        "local folder; a gated one needs HF_TOKEN.",
        name,
        problem,
    )
    own = _from_file(transformers, resource_path("tokenizer.json"))
    return _Loaded(name, "package", _counter(own), problem or "unknown reason")


def _from_disk(transformers: Any, name: str) -> tuple[Any, str | None]:
    """Load a file, a folder, or from the hub's cache. With a problem, the hub need not be asked."""
    path = Path(name)
    local = path.exists()
    if not local and not _HUB_ID.fullmatch(name):
        return None, "there is no such path, and it is no name a hub can have"
    folder = path if local else _cached_folder(name)
    if folder is None:
        return None, None
    try:
        return _from_file(transformers, path) if path.is_file() else _pretrained(transformers, folder), None
    except Exception as error:  # noqa: BLE001 - the Rust half of the library raises bare Exception
        return None, f"the local path is not a readable tokenizer: {_in_short(error)}" if local else None


def _cached_folder(name: str) -> Path | None:
    """The folder of `name` in the hub's cache.

    Loading by this path makes no connection. Loading by name does, even with local files only.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in _PROBED_FILES:
        try:
            found = try_to_load_from_cache(name, file)
        except HFValidationError:  # a name such as "a--b", which no repository may have
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


def _from_hub(transformers: Any, name: str, seconds: float) -> tuple[Any, str | None]:
    """Load from the hub within `seconds`, if it responds to a probe.

    The library itself retries for most of a minute, and has only a timeout for each read.
    """
    problem = _hub_problem(name)
    if problem is not None:
        return None, problem
    found = bounded(lambda: _fetched(transformers, name), seconds, "pyworker-tokenizer-download")
    return found or (None, f"the hub took more than {seconds:g} s")


def _fetched(transformers: Any, name: str) -> tuple[Any, str | None]:
    try:
        return _pretrained(transformers, name), None
    except Exception as error:  # noqa: BLE001 - as above; whatever it is, the package's own tokenizer works
        return None, f"the hub responded, but loading failed: {_in_short(error)}"


def _hub_problem(name: str) -> str | None:
    """Why the hub cannot serve `name` now; None if it can."""
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "it is not on this disk, and HF_HUB_OFFLINE is set"
    found = Reach(None, "not probed")
    for file in _PROBED_FILES:
        url = constants.HUGGINGFACE_CO_URL_TEMPLATE.format(repo_id=name, revision="main", filename=file)
        found = probe(url)
        # The probe is anonymous; the library may have a token.
        if found.usable or (found.refused and huggingface_hub.get_token()):
            return None
        if found.status != 404:  # another file can help only if this one is missing
            break
    return f"the hub: {found.reason}"


def _pretrained(transformers: Any, source: str | Path) -> Any:
    # Without an explicit False, the library prompts on the terminal if a repository has its own code.
    return transformers.AutoTokenizer.from_pretrained(
        str(source), local_files_only=isinstance(source, Path), trust_remote_code=False
    )


def _from_file(transformers: Any, path: Path) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))


def _in_short(error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line[:160]}"


def _import_transformers() -> Any:
    """Import transformers without its warning that PyTorch is missing, which tokenizers do not need."""
    logger = logging.getLogger("transformers")

    def about_models(record: logging.LogRecord) -> bool:
        return "PyTorch was not found" not in record.getMessage()

    logger.addFilter(about_models)
    try:
        return importlib.import_module("transformers")
    finally:
        logger.removeFilter(about_models)
