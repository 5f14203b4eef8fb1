"""Scratch folders: private, and gone however their owner ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ingest_platform.errors import PermanentError
from ingest_platform.storage.scratch import scratch_folder, sweep

LATER = 3600.0
OWNER = """
import sys
from pathlib import Path
from ingest_platform.storage.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as scratch:
    scratch.file("half").write_bytes(b"x" * 1000)
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_gone_when_its_work_ends_or_fails(tmp_path: Path) -> None:
    """Else every failed download leaves 500 MB."""
    with scratch_folder(tmp_path) as scratch:
        scratch.file("object.grib2").write_bytes(b"x")
        assert scratch.file("object.grib2").read_bytes() == b"x"
    with pytest.raises(FileNotFoundError), scratch_folder(tmp_path) as scratch:
        scratch.file("never written").read_bytes()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", ".", "..", ".owner", "a\0b"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    """Else a key of the source names a file of ours."""
    with scratch_folder(tmp_path) as scratch, pytest.raises(PermanentError, match="not a plain file name"):
        scratch.file(name)


@pytest.mark.case(21)
def test_what_a_killed_owner_left_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    """Else kill -9 fills the disk, or a sweep takes the file a neighbour is reading."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"ready\n"
    (folder,) = tmp_path.iterdir()

    while_alive = sweep(tmp_path, time.time() + LATER)
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    while_young = sweep(tmp_path, time.time())
    afterwards = sweep(tmp_path, time.time() + LATER)

    assert (while_alive, while_young, afterwards) == ((), (), (folder,))
    assert list(tmp_path.iterdir()) == []


def test_the_next_owner_sweeps(tmp_path: Path) -> None:
    """Else somebody must remember to."""
    left = tmp_path / "scratch-dead"
    left.mkdir()
    (left / "half").write_bytes(b"x")
    os.utime(left, (1, 1))
    (tmp_path / "not-ours").mkdir()

    with scratch_folder(tmp_path):
        assert not left.exists()

    assert [path.name for path in tmp_path.iterdir()] == ["not-ours"]
