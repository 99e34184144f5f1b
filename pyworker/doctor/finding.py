"""What a check found, and what the checks know of the instance so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.doctor.running import Running


class Grade(Enum):
    """How bad it is; the values are printed."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    SKIPPED = "-"


@dataclass(frozen=True)
class Finding:
    """The result of one check. advice: what to do about it."""

    grade: Grade
    found: str
    advice: str = ""

    @property
    def text(self) -> str:
        """One line."""
        whole = f"{self.found}: {self.advice}" if self.advice else self.found
        return "".join(sign if sign.isprintable() else " " for sign in whole)


def ok(found: str) -> Finding:
    return Finding(Grade.OK, found)


def warn(found: str, advice: str) -> Finding:
    return Finding(Grade.WARN, found, advice)


def fail(found: str, advice: str = "") -> Finding:
    return Finding(Grade.FAIL, found, advice)


class NotChecked(Exception):
    """This check means nothing here; the message ends the sentence "not checked, because"."""


@dataclass
class Examination:
    """What is known so far: earlier checks leave it for later ones. One thread owns it."""

    worker: str | None = None
    findings: dict[str, Finding] = field(default_factory=dict[str, Finding])
    #: Whose settings are examined; None: those of the doctor's own environment.
    running: Running | None = None
    known_settings: Settings | None = None
    known_backend: Backend | None = None

    @property
    def settings(self) -> Settings:
        """Raises `NotChecked` if the environment is not valid."""
        if self.known_settings is None:
            raise NotChecked("the environment is not valid")
        return self.known_settings

    @property
    def backend(self) -> Backend:
        """Raises `NotChecked` if the worker could not be made."""
        if self.known_backend is None:
            raise NotChecked("the worker cannot be loaded")
        return self.known_backend

    def require(self, name: str) -> None:
        """Raise `NotChecked` if the check of this name failed or was not made."""
        finding = self.findings.get(name)
        if finding is not None and finding.grade in (Grade.FAIL, Grade.SKIPPED):
            raise NotChecked(f"the check of the {name} did not succeed")


Check = Callable[[Examination], Finding]
