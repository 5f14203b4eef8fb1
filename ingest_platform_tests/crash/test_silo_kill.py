"""kill -9 of an importer at every step, and importers that meet: one good index is served all the time."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest

from ingest_platform.catalog.claim import LEASE
from ingest_platform.silo.read import SOURCE
from ingest_platform.silo.served import indexes
from ingest_platform_tests.crash import silo_worker
from ingest_platform_tests.silo_bench import HANGS, alive, wait_until
from ingest_platform_tests.silo_station import Station, new_station
from ingest_platform_tests.silo_world import TWELVE, answer, record

SECONDS = 60  # for a worker's half second, on a machine under load
BEFORE_KEEP = [
    "see: before COMMIT",
    "see: after COMMIT",
    "before claim",
    "claim: before COMMIT",
    "after claim",
    "during download",
    "after download",
]
KEPT = [
    "after keep",
    "after checks",
    "before engine",
    "after engine",
    "before store",
    "after store",
    "commit: before COMMIT",
]
COMMITTED = [
    "commit: after COMMIT",
    "after commit",
    "trim: after COMMIT",
    "before publish",
    "after publish",
    "after prune",
]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Station]:
    """Twelve records are served, thirteen are released."""
    with new_station(tmp_path) as made:
        made.server.release(answer(TWELVE, '"e1"'))
        made.round()
        made.advance(minutes=1)
        made.server.release(answer([*TWELVE, record(12)], '"e2"'))
        yield made


def die(place: Station, point: str) -> None:
    worker = silo_worker.start(place.root, place.server.url, place.at, point, signal.SIGKILL)
    worker.join(SECONDS)
    assert worker.exitcode == -signal.SIGKILL, f"never came to {point!r}"


@pytest.mark.silo_case(17)
@pytest.mark.parametrize("point", [*BEFORE_KEEP, *KEPT, *COMMITTED])
def test_an_importer_that_is_killed_leaves_a_good_index_and_the_next_one_finishes(
    point: str, place: Station
) -> None:
    """Else a node that dies takes the genomes with it, or costs the backend another download."""
    old = place.index.index_timestamp

    die(place, point)
    served = [index.timestamp for index in indexes(place.organism.output)]
    place.advance(minutes=5)
    if point in BEFORE_KEEP[:2]:
        place.poll()
    healed = place.ingest()

    assert old in served
    assert set(served) <= ({old, place.index.index_timestamp} if point in COMMITTED else {old})
    assert healed.what == ("nothing due" if point in COMMITTED else "imported")
    assert healed.error is None
    assert healed.downloaded is (point in BEFORE_KEEP)
    assert (place.index.rows, place.index.etag) == (13, '"e2"')
    assert place.served is not None
    assert place.served.timestamp == place.index.index_timestamp
    assert len(indexes(place.organism.output)) == 2
    assert [row.state for row in place.rows if row.state != "superseded"] == ["ingested"]
    assert place.poll().what == "unchanged"


@pytest.mark.silo_case(17)
def test_a_killed_importers_engine_dies_with_it_and_the_next_one_builds(place: Station) -> None:
    """Else a build that nobody waits for takes memory and cores beside the next one."""
    binary = place.root / "engine"
    binary.write_text(HANGS)
    binary.chmod(0o755)
    nowhere, scratch = "no point", place.root / "home" / "scratch"
    worker = silo_worker.start(place.root, place.server.url, place.at, nowhere, signal.SIGKILL, binary)
    wait_until(lambda: any(scratch.rglob("grandchild")))
    group = [process.pid for process in psutil.Process(worker.pid).children(recursive=True)]

    worker.kill()
    worker.join(SECONDS)

    wait_until(lambda: not any(map(alive, group)))
    assert len(group) == 3
    place.advance(minutes=5)
    healed = place.ingest()
    assert (healed.what, healed.downloaded, place.index.rows) == ("imported", False, 13)


@pytest.mark.silo_case(19)
@pytest.mark.silo_case(30)
def test_a_second_importer_waits_for_the_lease_and_proceeds_when_the_first_is_killed(place: Station) -> None:
    """Else two of them tear each other's files away, or a dead one blocks the organism for ever."""
    first = silo_worker.start(place.root, place.server.url, place.at, "after engine", signal.SIGSTOP)
    wait_for_stop(first.pid)
    held = files(place)

    place.advance(seconds=30)
    refused = place.ingest()
    assert refused.what == "nothing due"
    assert files(place) == held

    first.kill()
    first.join(SECONDS)
    place.advance(seconds=LEASE.total_seconds())
    assert place.ingest().what == "imported"
    assert place.index.rows == 13


@pytest.mark.silo_case(19)
@pytest.mark.parametrize("point", ["after engine", "before store", "after store"])
def test_an_importer_that_wakes_up_after_it_was_relieved_changes_nothing(point: str, place: Station) -> None:
    """Else a paused container puts yesterday's index over today's."""
    with asleep(place, point) as sleeper:
        place.at += LEASE + timedelta(minutes=1)
        assert place.ingest().what == "imported"
        index, served = place.index, place.served

        wake(sleeper)

    assert (place.index, place.served) == (index, served)
    place.server.release(answer([*TWELVE, record(12), record(13)], '"e3"'))
    assert place.round().what == "imported"


@pytest.mark.silo_case(19)
@pytest.mark.parametrize("point", ["after engine", "after store"])
def test_an_importer_that_wakes_up_while_its_successor_works_commits_nothing(
    point: str, place: Station
) -> None:
    """Else two importers commit under one lease: its token is the fence, not its end."""
    index, served = place.index, place.served
    with asleep(place, point) as sleeper:
        place.at += LEASE + timedelta(minutes=1)
        with asleep(place, "before store") as successor:
            wake(sleeper)

            assert (place.index, place.served) == (index, served)
            wake(successor)

    assert (place.index.rows, place.index.etag) == (13, '"e2"')
    assert place.index.snapshot in place.rails.store.names_below(place.index.uri)
    assert place.served is not None
    assert place.served.timestamp == place.index.index_timestamp


@pytest.mark.silo_case(17)
@pytest.mark.parametrize("point", ["after store", "commit: before COMMIT"])
def test_importers_that_are_killed_before_the_first_index_leave_one_copy_at_most(
    point: str, tmp_path: Path
) -> None:
    """Else a machine that runs out of memory at each try fills the store with copies that nobody names."""
    with new_station(tmp_path) as place:
        place.server.release(answer(TWELVE, '"e1"'))
        for _ in range(2):
            die(place, point)
            assert len(list(place.rails.store.list_uris({SOURCE}))) == 1
            place.advance(minutes=5)

        assert place.ingest().what == "imported"

        assert list(place.rails.store.list_uris({SOURCE})) == [place.index.uri]


@contextmanager
def asleep(place: Station, point: str) -> Iterator[ForkServerProcess]:
    """A worker that was stopped at the point. Killed at the end: nobody else could end it."""
    worker = silo_worker.start(place.root, place.server.url, place.at, point, signal.SIGSTOP)
    try:
        wait_for_stop(worker.pid)
        yield worker
    finally:
        worker.kill()
        worker.join(SECONDS)


def wake(worker: ForkServerProcess) -> None:
    """And let it come to its end."""
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGCONT)
    worker.join(SECONDS)
    assert worker.exitcode == 0


def wait_for_stop(pid: int | None) -> None:
    deadline = time.monotonic() + SECONDS
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def files(place: Station) -> set[Path]:
    """All but the ledger's own."""
    return {path for path in place.root.rglob("*") if path.is_file() and "catalog.db" not in path.name}
