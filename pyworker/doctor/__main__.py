"""The command line: check the instance, or replay a saved log."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pyworker.black_box.folder import BoxFolder
from pyworker.black_box.reader import NotABlackBox, read
from pyworker.black_box.story import story
from pyworker.config import Settings, wants_colour
from pyworker.doctor.checks import CHECKS, examine
from pyworker.doctor.environment import DEFAULT_WORKER
from pyworker.doctor.finding import Finding, Grade
from pyworker.doctor.replay import Replay
from pyworker.engines import ENGINES
from pyworker.errors import ConfigError
from pyworker.lifecycle.log_lines import LogActions
from pyworker.lifecycle.log_tail import unfollowable
from pyworker.registry import load_worker
from pyworker.runtime.redaction import one_line

_COLOURS = {Grade.OK: "32", Grade.WARN: "33", Grade.FAIL: "31", Grade.SKIPPED: "2"}
_NAME_WIDTH = max(len(name) for name, _ in CHECKS)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when a check failed, or the replayed log ends without a ready worker."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.black_box is not None:
        return _tell_black_box(options.black_box or None)
    if options.replay is not None:
        return _replay(parser, options)
    if options.engine is not None:
        parser.error("--engine is for --replay: a running worker looks for its own phrases")
    return _check(options.worker)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pyworker.doctor",
        description="Check what commonly goes wrong on an instance, before the worker runs or while it does: "
        "then with the settings of that worker, not of this shell. "
        "Prints one line for each check, and what to do. Exit status: 0 nothing failed, 1 something "
        "failed, 2 wrong usage.",
    )
    parser.add_argument(
        "-w",
        "--worker",
        metavar="NAME",
        help=f"the worker, as in create_app (default: BACKEND, else {DEFAULT_WORKER})",
    )
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="FILE",
        help="instead: say what each line of this saved log would have done to the worker; status 1 if "
        "it would not be ready at the end",
    )
    parser.add_argument(
        "--engine",
        choices=sorted(ENGINES),
        help="with --replay: look for this model server's phrases instead of the worker's",
    )
    parser.add_argument(
        "--black-box",
        nargs="?",
        const="",
        metavar="FILE",
        help="instead: tell what a black box says of the worker's last failure (default: the newest one in "
        "PYWORKER_STATE_DIR); status 1 if there is none",
    )
    return parser


def _check(worker: str | None) -> int:
    coloured = wants_colour(sys.stdout)
    failed = False
    for name, finding in examine(worker):
        failed = failed or finding.grade is Grade.FAIL
        sys.stdout.write(_line(name, finding, coloured) + "\n")
        sys.stdout.flush()
    return 1 if failed else 0


def _tell_black_box(name: str | None) -> int:
    try:
        path = Path(name) if name else _newest()
        box = read(path)
    except (NotABlackBox, ConfigError) as error:
        sys.stderr.write(f"{one_line(str(error))}\n")
        return 1
    sys.stdout.write(f"{path}\n" + "".join(f"{line}\n" for line in story(box)))
    return 0


def _newest() -> Path:
    """Raises `NotABlackBox` if there is none."""
    folder = BoxFolder(Settings.from_env().state_dir)
    kept = folder.kept()
    if not kept:
        raise NotABlackBox(f"there is no black box in {folder.path}: no worker has failed there")
    return kept[-1]


def _line(name: str, finding: Finding, coloured: bool) -> str:
    grade = f"{finding.grade.value:<4}"
    if coloured:
        grade = f"\x1b[{_COLOURS[finding.grade]}m{grade}\x1b[0m"
    return f"{grade}  {name:<{_NAME_WIDTH}}  {finding.text}"


def _replay(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    path: Path = options.replay
    try:
        # Before it is opened: to open a pipe may never end.
        problem = unfollowable(path)
        if problem:
            parser.error(f"{path} {problem}")
        path.open("rb").close()
        actions = _log_actions(options)
    except OSError as error:
        parser.error(f"{path} cannot be read ({error.strerror})")
    except ConfigError as error:
        parser.error(str(error))
    return 0 if Replay(path, actions, lambda line: sys.stdout.write(line + "\n")).run() else 1


def _log_actions(options: argparse.Namespace) -> LogActions:
    """A saved log may be replayed anywhere: of the environment only the worker's name is taken."""
    if options.engine is not None:
        return ENGINES[options.engine]
    name = options.worker or Settings.from_env().backend or DEFAULT_WORKER
    return load_worker(name).create_backend(Settings()).log_actions


if __name__ == "__main__":
    sys.exit(main())
