"""What was found, and how it is printed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass

_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """check: its name; where: a route, or empty for the worker; do: what to write.

    is_fault: False for a note, which does not fail the check.
    """

    check: str
    where: str
    problem: str
    do: str
    is_fault: bool = True


@dataclass(frozen=True)
class Report:
    """checks: names of all that were made."""

    worker: str
    routes: Sequence[str]
    checks: Sequence[str]
    findings: Sequence[Finding]

    @property
    def is_good(self) -> bool:
        return not any(finding.is_fault for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {"is_good": self.is_good, **asdict(self)}

    def as_text(self) -> str:
        """A line for each check without a finding, and a paragraph for each finding."""
        lines = [f"{self.worker}: {len(self.routes)} routes"]
        for check in self.checks:
            found = [finding for finding in self.findings if finding.check == check]
            if not found:
                lines.append(f"  ok     {check}")
            for finding in found:
                lines.append(
                    f"  {'FAULT' if finding.is_fault else 'note ':<6} {check:<12} {finding.where}".rstrip()
                )
                lines += _paragraph("", finding.problem) + _paragraph("do: ", finding.do)
        faults = sum(finding.is_fault for finding in self.findings)
        notes = len(self.findings) - faults
        return "\n".join([*lines, f"{faults} faults, {notes} notes"]) + "\n"


def _paragraph(begin: str, text: str) -> list[str]:
    lines = text.splitlines() or [""]
    lines[0] = begin + lines[0]
    indent = " " * 9
    return [
        wrapped
        for line in lines
        for wrapped in textwrap.wrap(line, _WIDTH, initial_indent=indent, subsequent_indent=indent)
    ]
