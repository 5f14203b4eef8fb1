"""The folder that SILO's API polls: what is served, how it changes, and what is never touched. The reader is
the engine itself.
"""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_platform.errors import StoreUnavailable
from ingest_platform.silo.engines.rhydb import RhydbEngine
from ingest_platform.silo.served import GOING, VERSION_FILE, Index, index_at, indexes, place, prune, publish
from ingest_platform_tests.silo_bench import Bench

FOREIGN = {
    "1234": "1234",  # another engine's older format
    "3123": "somethingInvalidInHere",
    "3124": "not even YAML",
    "3125": "timestamp: 3126\nserializationVersion: 1",  # says another number than its name
    "3126": "timestamp: 3126",
    "3127": "timestamp: 3127\nserializationVersion: new",
}


def index(folder: Path, timestamp: int) -> Index:
    path = folder / str(timestamp)
    path.mkdir(parents=True)
    (path / "default.silo").write_text("rows")
    (path / VERSION_FILE).write_text(f"timestamp: {timestamp}\nserializationVersion: 7\n")
    found = index_at(path)
    assert found is not None
    return found


def foreign(output: Path) -> set[str]:
    """Everything that is no index of ours."""
    for name, text in FOREIGN.items():
        (output / name).mkdir(parents=True)
        (output / name / VERSION_FILE).write_text(text)
    (output / "9999999999").mkdir()
    (output / "9999999998").write_text("a file")
    (output / "notes").mkdir()
    (output / ".scratch").mkdir()
    return {path.name for path in output.iterdir()}


@pytest.mark.silo_case(26)
def test_after_successes_the_newest_indexes_stay_and_nothing_foreign_goes(tmp_path: Path) -> None:
    """Else the disk fills up, or somebody else's folder is lost."""
    output = tmp_path / "out"
    strangers = foreign(output)

    for timestamp in (100, 200, 300, 400):
        publish(index(tmp_path / "staging", timestamp), output)
        prune(output, keep=2)

    assert [found.timestamp for found in indexes(output)] == [300, 400]
    assert {path.name for path in output.iterdir()} == strangers | {"300", "400"}


@pytest.mark.silo_case(26)
def test_the_index_that_is_named_stays_however_old(tmp_path: Path) -> None:
    """Else what the ledger names is gone."""
    for timestamp in (100, 200, 300, 400):
        index(tmp_path, timestamp)

    assert prune(tmp_path, keep=1, named=tmp_path / "100") == ()

    assert {path.name for path in tmp_path.iterdir()} == {"100", "400"}


@pytest.mark.silo_case(15)
def test_a_broken_newest_folder_does_not_cost_the_last_good_index(tmp_path: Path) -> None:
    """Else an engine that dies while it saves takes the service down: upstream keeps the largest number."""
    index(tmp_path, 100)
    for timestamp in (200, 300, 400):
        (tmp_path / str(timestamp)).mkdir()

    assert prune(tmp_path, keep=1) == ()

    assert [found.timestamp for found in indexes(tmp_path)] == [100]


@pytest.mark.silo_case(28)
@settings(max_examples=10, deadline=None)  # each publishing waits for the disk
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4))
def test_each_published_index_is_the_one_that_is_served_then(
    tmp_path_factory: pytest.TempPathFactory, timestamps: list[int]
) -> None:
    """Else, after the clock went back, the API goes on serving the older index for hours."""
    folder = tmp_path_factory.mktemp("served")
    output = folder / "out"

    for n, timestamp in enumerate(timestamps):
        published = publish(index(folder / str(n), timestamp), output)

        assert indexes(output)[-1] == published
        assert published.timestamp >= timestamp


@pytest.mark.silo_case(28)
def test_a_renumbered_index_is_one_that_the_engine_takes(tmp_path: Path) -> None:
    """Else the number that we write is one that no SILO believes."""
    bench, output = Bench(tmp_path), tmp_path / "out"
    index(output, 4_000_000_000)
    built = RhydbEngine(os.environ).build(bench.inputs(3), bench.staging, timeout_seconds=30)

    publish(built.index, output)

    program = "import sys, rhydb; print(len(rhydb.Database(sys.argv[1]).get_filtered_bitmap('default')))"
    read = subprocess.run([sys.executable, "-c", program, output], check=True, capture_output=True, text=True)
    assert indexes(output)[-1].timestamp == 4_000_000_001
    assert read.stdout.split()[-1] == "3"


@pytest.mark.silo_case(16)
def test_a_disk_that_does_not_take_the_index_leaves_the_served_one(tmp_path: Path) -> None:
    """Else a full disk takes the service down."""
    output = tmp_path / "out"
    publish(index(tmp_path / "first", 100), output)

    def full(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreUnavailable, match="cannot be published"):
        publish(index(tmp_path / "second", 200), output, at=full)

    assert [found.timestamp for found in indexes(output)] == [100]


def test_an_importer_killed_while_it_prunes_is_completed_by_the_next(tmp_path: Path) -> None:
    """Else half an index stays for ever."""
    index(tmp_path, 100)
    (tmp_path / f"{GOING}50").mkdir()

    prune(tmp_path, keep=1)

    assert {path.name for path in tmp_path.iterdir()} == {"100"}


def test_an_old_index_that_may_not_be_deleted_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else files that a root container wrote once keep every later index from being served as good."""
    for timestamp in (100, 200, 300, 400):
        index(tmp_path, timestamp)
    delete = shutil.rmtree

    def not_ours(path: Path) -> None:
        if path.name.endswith("100"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        delete(path)

    monkeypatch.setattr(shutil, "rmtree", not_ours)

    for _ in range(3):
        (told,) = prune(tmp_path, keep=2)
        assert f"{GOING}100: this old index could not be removed" in told
    assert {path.name for path in tmp_path.iterdir()} == {f"{GOING}100", "300", "400"}

    monkeypatch.undo()
    assert prune(tmp_path, keep=2) == ()
    assert {path.name for path in tmp_path.iterdir()} == {"300", "400"}


def test_a_number_that_another_index_took_in_between_is_not_passed_off_as_ours(tmp_path: Path) -> None:
    """Else the ledger names an index that somebody else has built."""
    ours, theirs = index(tmp_path / "staging", 100), index(tmp_path / "out", 100)
    (theirs.path / "default.silo").write_text("rowz")

    with pytest.raises(StoreUnavailable, match="holds another index"):
        place(ours, tmp_path / "out")

    assert (theirs.path / "default.silo").read_text() == "rowz"
    (theirs.path / "default.silo").write_text("rows")
    assert place(ours, tmp_path / "out") == theirs


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    """Else a network disk that is away looks like a service without an index."""
    (tmp_path / "out").write_text("not a folder")

    with pytest.raises(NotADirectoryError):
        indexes(tmp_path / "out")

    assert indexes(tmp_path / "none") == ()
