"""The file that remembers the benchmark: whatever is wrong with it, the worker measures again and goes on."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyworker.lifecycle.benchmark_file import load_result, store_result
from tests.support.process import ROOT

LOGGER = "pyworker.lifecycle.benchmark_file"
ABOUT = {"worker": "a"}
DEADLINE = 60  # seconds for a subprocess on a busy machine


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ".has_benchmark"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_what_was_stored_is_loaded_again(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    for result in (1.0, 0.1, 1234.567890123, 1e-9, 1e300, 5e-324):
        store_result(file, result, ABOUT)
        assert load_result(file, ABOUT) == result

    assert float(file.read_text("utf-8").splitlines()[0]) == 5e-324, "the number comes first"
    assert list(file.parent.iterdir()) == [file], "no temporary file is left"
    assert warnings(caplog) == []


def test_the_first_start_is_no_warning(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_result(file, ABOUT) is None
    assert load_result(file / "below" / "nothing", ABOUT) is None
    assert warnings(caplog) == []


@pytest.mark.parametrize("text", ["12.5", " 12.5\n", "12.5\r\n", "\t1.25e1 "])
def test_a_file_written_by_others(file: Path, text: str) -> None:
    file.write_text(text, "utf-8")

    assert load_result(file, ABOUT) == 12.5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"garbage",
        b"12,5",
        b"1.5 2.5",
        b"1.5\n2.5",
        b"None",
        b"{}",
        b"\xff\xfe1",
        b"\x00\x00\x00\x00",
        b"12.5\x00",
        b"nan",
        b"-nan",
        b"inf",
        b"-inf",
        b"infinity",
        b"1e999",
        pytest.param(b"9" * 10_000, id="many digits"),
        b"0",
        b"0.0",
        b"-0.0",
        b"1e-999",
        b"-12.5",
        b"0x10",
        pytest.param(b"x" * 1_000_000, id="large"),
    ],
)
def test_a_damaged_or_senseless_file_is_measured_again(
    file: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_bytes(content)

    with caplog.at_level(logging.WARNING, LOGGER):
        assert load_result(file, ABOUT) is None
    [warning] = warnings(caplog)
    assert str(file) in warning
    assert "measuring again" in warning
    assert len(warning) < 1000, "the file's content is not poured into the log"

    store_result(file, 7.5, ABOUT)
    assert load_result(file, ABOUT) == 7.5, "and overwritten by the next result"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=30) | st.floats().map(lambda number: str(number).encode()))
def test_any_content_is_a_positive_number_or_nothing(file: Path, content: bytes) -> None:
    file.write_bytes(content)

    result = load_result(file, ABOUT)

    assert result is None or (math.isfinite(result) and result > 0)


def test_a_folder_in_its_place(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.mkdir()

    with caplog.at_level(logging.WARNING, LOGGER):
        assert load_result(file, ABOUT) is None
        store_result(file, 7.5, ABOUT)

    unreadable, unwritable = warnings(caplog)
    assert "is unreadable" in unreadable
    assert "cannot be kept" in unwritable
    assert list(file.parent.iterdir()) == [file], "no temporary file is left"


@pytest.mark.parametrize("folder", ["missing", "file", "x" * 300])
def test_a_folder_that_cannot_take_it(tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / folder / ".has_benchmark"

    with caplog.at_level(logging.WARNING, LOGGER):
        store_result(target, 7.5, ABOUT)

    [warning] = warnings(caplog)
    assert str(target) in warning
    assert "a restart measures again" in warning
    with caplog.at_level(logging.WARNING, LOGGER):
        assert load_result(target, ABOUT) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o500)
    try:
        with caplog.at_level(logging.WARNING, LOGGER):
            store_result(tmp_path / ".has_benchmark", 7.5, ABOUT)
    finally:
        tmp_path.chmod(0o700)

    assert len(warnings(caplog)) == 1


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that refuses new files")
def test_a_file_system_that_takes_no_files(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, LOGGER):
        store_result(Path("/proc/self/.has_benchmark"), 7.5, ABOUT)

    assert len(warnings(caplog)) == 1


def test_a_full_disk_leaves_the_old_result(file: Path) -> None:
    """A process that may not write a single byte to any file, which is how a full disk shows."""
    store_result(file, 3.5, ABOUT)
    program = (
        "import logging, resource, sys\n"
        "from pathlib import Path\n"
        "from pyworker.lifecycle.benchmark_file import load_result, store_result\n"
        "logging.basicConfig(stream=sys.stdout, format='%(levelname)s %(message)s')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "path = Path(sys.argv[1])\n"
        "store_result(path, 99.5, {'worker': 'a'})\n"
        "print(load_result(path, {'worker': 'a'}))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )

    warning, loaded = done.stdout.splitlines()
    assert warning.startswith(f"WARNING the benchmark result cannot be kept in {file}")
    assert loaded == "3.5"
    assert list(file.parent.iterdir()) == [file], "no temporary file is left"


def test_what_was_measured_of_something_else_is_measured_again(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store_result(file, 7.5, {"worker": "b"})

    with caplog.at_level(logging.WARNING, LOGGER):
        assert load_result(file, ABOUT) is None
    [warning] = warnings(caplog)
    assert "'worker': 'a'" in warning
    assert '"worker": "b"' in warning


def test_a_file_of_an_earlier_version_is_taken_for_right(file: Path) -> None:
    file.write_text("12.5\n", "utf-8")
    assert load_result(file, ABOUT) == 12.5
    assert load_result(file, {"worker": "b"}) == 12.5
