"""What is wrong with a request, field by field."""

from __future__ import annotations

from pyworker.data_types import JsonDataException
from pyworker.validation import MAX_FAULTS


class Fault(ValueError):
    """What is wrong with one value; the message does not name the field."""


class Faults:
    """The faults of one request, by the path of the field. Belongs to one thread."""

    def __init__(self) -> None:
        self._by_name: dict[str, str] = {}
        self._more = 0

    def add(self, name: str, fault: object) -> None:
        """The first fault of a field is told; beyond `MAX_FAULTS` fields they are only counted."""
        if len(self._by_name) < MAX_FAULTS or name in self._by_name:
            self._by_name.setdefault(name, str(fault))
        else:
            self._more += 1

    def throw(self) -> None:
        """Raise `JsonDataException` if there are any."""
        if self._by_name:
            raise JsonDataException(self._by_name, more=self._more)

    def __repr__(self) -> str:
        return f"<Faults {sorted(self._by_name)}>"
