"""The newest version of the project, fetched by git, with what it requires."""

from __future__ import annotations

from pathlib import Path

from pyworker.instance.children import Children
from pyworker.instance.environment import REQUIREMENTS, output_of, stamp, upgrade
from pyworker.instance.output import StartError

_FETCH = ("env", "GIT_TERMINAL_PROMPT=0", "timeout", "120", "git", "fetch")
_UPSTREAM = "@{upstream}"


def update(flag: Path, workspace: Path, children: Children) -> bool:
    """Update the project and remove the flag that asks for it; whether there is a new version now.

    If that fails, the present version serves.
    """
    output = children.output
    output.say(f"An update is asked for by {flag}:")
    before = _git("rev-parse", "HEAD")
    try:
        if _git("rev-parse", _UPSTREAM):
            _take_newest(workspace / ".requirements.new", children)
        else:
            output.say("  no git checkout that follows a branch: only what is installed is updated")
            upgrade(children, REQUIREMENTS)
        stamp()
    except (StartError, OSError) as error:
        output.note(
            f"the update failed ({error}), {children.log} says why; the present version is started, "
            "and the next start tries again"
        )
        return False
    try:
        flag.unlink()
    except OSError:
        output.note(f"the update is done, but {flag} cannot be removed: every start will update")
        return False
    return _git("rev-parse", "HEAD") != before


def _take_newest(requirements: Path, children: Children) -> None:
    """Requirements are installed first, so that the checkout works at any moment."""
    children.run("fetching the newest version", *_FETCH)
    wanted = _git("show", f"{_UPSTREAM}:requirements.txt")
    if not wanted:
        raise StartError("the newest version has no requirements.txt")
    requirements.write_text(f"{wanted}\n")
    upgrade(children, requirements)
    requirements.unlink()
    children.run("taking over the newest version", "git", "merge", "--ff-only", _UPSTREAM)


def _git(*arguments: str) -> str:
    """What the command prints; empty if it fails, or if this is no checkout."""
    return output_of("git", *arguments) if Path(".git").exists() else ""
