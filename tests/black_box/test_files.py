"""The files on their own: bounded, rotated, and read whatever they hold."""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path

import pytest

from pyworker.black_box.causes import causes
from pyworker.black_box.folder import KEPT, LARGEST, NAME, BoxFolder, process_mark
from pyworker.black_box.keeper import Keeper
from pyworker.black_box.reader import NotABlackBox, Part, read
from pyworker.black_box.start_times import durations, load, told
from pyworker.black_box.story import story
from pyworker.lifecycle.phases import Phase
from pyworker.lifecycle.state import ModelState


def test_the_newest_are_kept(tmp_path: Path) -> None:
    folder = BoxFolder(tmp_path)
    paths = [folder.keep("errored", {"what": str(n)}, now=1e9 + n) for n in range(KEPT + 3)]
    assert folder.kept() == paths[-KEPT:]


def test_two_of_one_moment_are_both_kept(tmp_path: Path) -> None:
    """In the order in which they were written."""
    folder = BoxFolder(tmp_path)
    paths = [folder.keep("ended", {"what": str(n)}, now=1e9) for n in range(3)]
    assert folder.kept() == paths
    assert [json.loads(path.read_text("utf-8"))["what"] for path in paths] == ["0", "1", "2"]


def test_a_large_one_keeps_the_newest_lines(tmp_path: Path) -> None:
    lines = [f"{n} " + "x" * 500 for n in range(5000)]
    path = BoxFolder(tmp_path).keep("errored", {"what": "much", "model_lines": lines, "y": "y" * LARGEST})
    assert path.stat().st_size <= LARGEST + 1
    box = read(path)
    assert box.text("what") == "much"
    assert box.texts("model_lines")[-1].startswith("4999 ")


def test_a_process_that_closed_in_order_leaves_none(tmp_path: Path) -> None:
    folder = BoxFolder(tmp_path)
    folder.roll({"what": "", "closed": True})
    assert folder.conclude_left("killed") is None
    assert folder.kept() == []
    folder.roll({"what": ""})
    (folder.path / "now.json.123").write_text("cut", "utf-8")
    assert folder.conclude_left("killed") is not None
    assert [path.name[-10:] for path in folder.path.iterdir()] == ["ended.json"]
    folder.roll({"what": "", "process": process_mark(str(os.getpid()))})
    assert folder.conclude_left("killed") is None, "it lives"
    assert (folder.path / "now.json").exists()
    folder.forget()
    assert len(list(folder.path.iterdir())) == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'"x"', b"\xff" * 10, b"[" * 100_000, b'{"closed": true']
)
def test_what_a_crash_left_of_a_file_is_no_trouble(tmp_path: Path, content: bytes) -> None:
    folder = BoxFolder(tmp_path)
    folder.path.mkdir()
    (folder.path / "now.json").write_bytes(content)
    folder.conclude_left("killed")
    assert not (folder.path / "now.json").exists()


HOSTILE = [
    b"",
    b"{",
    b"[]",
    b"{}",
    b"\xff\xfe",
    b"[" * 1_000_000,
    b'{"what": ' + b"9" * 100_000 + b"}",
    b"x" * (5 * 2**20),
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_a_file_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "box.json"
    path.write_bytes(content)
    with pytest.raises(NotABlackBox, match=r"box\.json is no black box"):
        read(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, problem in (("none", "No such file"), ("pipe", "is a pipe"), (".", "directory")):
        with pytest.raises(NotABlackBox, match=problem):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "value",
    [None, True, 7, -1e308, 10**400, "x\n\x1b[2Jy" * 1000, [1], [[7]], {"a": {"b": 1}}, [{"stack": "x"}]],
    ids=range(10),
)
def test_values_of_a_wrong_kind_are_told_or_left_out(value: object) -> None:
    names = [
        "what",
        "at",
        "ended_at",
        "status",
        "stuck",
        "status_report",
        "requests",
        "refused",
        "model_lines",
    ]
    names += ["own_lines", "reports", "memory", "disk", "descriptors", "threads", "gpu", "start", "kind"]
    queue = {"state": value, "for_seconds": value, "phases": [{"since": value}], "queue": value}
    for box in (dict.fromkeys(names, value), {"what": "", "status_report": queue, "at": value}):
        lines = list(story(Part(box), now=0.0))
        assert all(line.isprintable() and len(line) < 2000 for line in lines)


@pytest.mark.parametrize(
    ("box", "cause"),
    [
        ({"status": -9, "killed_for_memory_since": 2, "memory": {"killed_for_memory": 1}}, "out of memory"),
        ({"status": -9, "memory": {"container_used": 95, "container_limit": 100}}, "out of memory, probably"),
        ({"status": -9, "memory": {"machine_available": 1, "machine_total": 100}}, "out of memory, probably"),
        ({"status": -9, "memory": {"machine_available": 60, "machine_total": 100}}, "somebody sent SIGKILL"),
        ({"status": -9, "status_report": {"state": "draining"}}, "told to end"),
        ({"status": -11}, "the interpreter crashed (SIGSEGV)"),
        ({"status": 1, "stuck": True}, "the main thread stood still"),
        ({"disk": {"/": {"free": 10, "total": 10**12}}}, "the disk is full"),
        ({"descriptors": {"open": 99, "limit": 100}}, "99 of 100 descriptors"),
        ({"gpu": ["nvidia-smi failed (status 9)"]}, "the GPU does not answer"),
        ({"model_lines": ["torch.OutOfMemoryError …"]}, "out of GPU memory"),
        ({"status_report": {"error": "it has failed"}}, "it has failed"),
        ({"status_report": {"autoscaler": {"problem": "no route"}}}, "no route"),
    ],
)
def test_the_likely_cause(box: dict[str, object], cause: str) -> None:
    found = list(causes(Part(box)))
    assert cause in found[0][0]
    assert found[0][1]
    assert any(line.startswith("what to do") for line in story(Part(box)))


def test_a_full_disk_is_said_once_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper(
        BoxFolder(tmp_path),
        tmp_path / "start",
        contents=lambda: {"what": "x" * 1000},
        phases=lambda: [Phase(ModelState.LOADING, time.time())],
        slow_start=300.0,
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        keeper.step()
        keeper.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caplog.text.count("cannot be written: File too large") == 1
    assert list((tmp_path / NAME).iterdir()) == []


def test_a_model_that_fails_again_and_again_does_not_displace_the_first(tmp_path: Path) -> None:
    phases = [Phase(ModelState.LOADING, time.time())]
    keeper = Keeper(
        BoxFolder(tmp_path), tmp_path / "start", contents=dict, phases=lambda: phases, slow_start=300.0
    )
    for number in range(KEPT + 1):
        phases += [Phase(ModelState.ERRORED, time.time(), f"error {number}")]
        keeper.step()
        phases += [Phase(ModelState.READY, time.time())]
        keeper.step()
    [path] = BoxFolder(tmp_path).kept()
    assert read(path).text("what") == "the start failed: error 0"


def test_nothing_known_is_said() -> None:
    assert any("none is known" in line for line in story(Part({"what": "it ended"})))


def test_the_phases_of_a_start(tmp_path: Path) -> None:
    phases = [
        Phase(ModelState.LOADING, 10.0),
        Phase(ModelState.BENCHMARKING, 22.0),
        Phase(ModelState.ERRORED, 23.0),
        Phase(ModelState.BENCHMARKING, 24.0),
        Phase(ModelState.READY, 25.5),
        Phase(ModelState.ERRORED, 99.0),
    ]
    measured = durations(phases, 200.0)
    assert measured == {"loading": 12.0, "benchmarking": 2.5, "errored": 1.0}
    assert durations(phases[:1], 13.0) == {"loading": 3.0}
    assert told(measured, {"loading": 9.5}) == (
        "loading 12 s (9.5 s the last time), benchmarking 2.5 s, errored 1.0 s"
    )
    for content in ("", "[]", '{"loading": "x", "other": 1}', '{"loading": -1}', "[" * 4000):
        (tmp_path / "f").write_text(content, "utf-8")
        assert load(tmp_path / "f") == {}
    (tmp_path / "f").write_text(json.dumps({"loading": 3}), "utf-8")
    assert load(tmp_path / "f") == {"loading": 3.0}
