"""How a line of the worker's log is written: as text for people, or as a JSON object for programs.

Whatever a line quotes from outside, it stays one line in text; an exception follows it, indented.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from pyworker.runtime.redaction import one_line

#: The attribute of a record with further keys for the JSON object, as `extra={FIELDS: {...}}`.
FIELDS = "pyworker_fields"
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

Hide = Callable[[str], str]


class TextFormatter(logging.Formatter):
    """Time, level, logger, message. hide: takes secrets out of each line."""

    def __init__(self, hide: Hide) -> None:
        super().__init__(_TEXT)
        self._hide = hide

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is logging's
        return self._hide(one_line(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(f"  {one_line(line)}" for line in self._lines_of(ei))

    def _lines_of(self, ei: Any) -> list[str]:
        # Whatever the exception's message holds begins no line of its own that looks like one of the log.
        return self._hide(super().formatException(ei)).splitlines()


class JsonFormatter(logging.Formatter):
    """One object in each line: time (RFC 3339, UTC), level, logger, message; exception if there is one, and
    what the record carries as `FIELDS`.
    """

    def __init__(self, hide: Hide) -> None:
        super().__init__()
        self._hide = hide

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": self._hide(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = self._hide(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = record.stack_info
        fields = cast("Mapping[str, object]", getattr(record, FIELDS, {}))
        return json.dumps({**fields, **line}, default=str)


FORMATTERS: Mapping[str, Callable[[Hide], logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}
