"""Where in the author's files something is, for error messages."""

from __future__ import annotations

import inspect
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def place_of(made: Any) -> str:
    """The file and line of a class or function, and its name: `my_llm/server.py:12: class Completion`."""
    name = getattr(made, "__qualname__", type(made).__name__)
    kind = "class " if inspect.isclass(made) else ""
    try:
        file = inspect.getsourcefile(made) or ""
        line = inspect.getsourcelines(made)[1]
    except (OSError, TypeError):
        return f"{getattr(made, '__module__', 'unknown')}: {kind}{name}"
    return f"{_short(file)}:{line}: {kind}{name}"


def caller() -> str:
    """The file and line of the innermost code outside this package: `my_llm/server.py:20`."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        file = frame.f_code.co_filename
        # `<string>` is the `__init__` of a dataclass.
        if not file.startswith((_PACKAGE, "<")):
            return f"{_short(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown"


def place_of_error(error: BaseException) -> str:
    """The file and line of the innermost code that belongs neither to this package nor to an installed one;
    empty if there is none, as for a SyntaxError, which tells its own.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        is_own = frame.filename.startswith((_PACKAGE, "<")) or frame.filename.startswith(_INSTALLED)
        if not is_own:
            return f"{_short(frame.filename)}:{frame.lineno}"
    return ""


def _short(file: str) -> str:
    """Its last two parts, which are the worker's folder and the file."""
    return str(Path(*Path(file).parts[-2:]))
