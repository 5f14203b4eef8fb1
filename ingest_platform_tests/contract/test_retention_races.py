"""Purge beside ingestion, beside another purge, and beside a backfill: no lost grid, none that dangles.

`at` is the other party: at each point of the one it does all it can.
"""

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ingest_platform.catalog.model import Claim
from ingest_platform.errors import LostLease
from ingest_platform.operations import retention
from ingest_platform.operations.retention import Purged
from ingest_platform_tests.contract.ledger_world import (
    LEASE,
    SOURCE,
    World,
    cycles,
    end_of,
    sighting,
)
from ingest_platform_tests.contract.retention_world import KEEP, Shelf, shelf_over

MOMENT = timedelta(microseconds=1)
POINTS = ["after mark", "delete", "before erase", "after erase"]
(CYCLE,) = cycles(1)
NOW = end_of(CYCLE) + KEEP + MOMENT


@pytest.fixture
def shelf(ledger: World, request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    ledger.clock.at = NOW
    return shelf_over(ledger, request, tmp_path)


@pytest.mark.case(23)
@pytest.mark.parametrize("point", POINTS)
def test_a_late_lead_that_arrives_during_the_purge_is_refused(shelf: Shelf, point: str) -> None:
    """Else it is published into a partition whose bytes are being deleted."""
    shelf.ingested(CYCLE)
    refused: list[object] = []

    def arrive(_: str) -> None:
        late = sighting("late", partition=CYCLE)
        refused.append((shelf.ledger.seen(late), shelf.ledger.claim(CYCLE)))

    purged = shelf.purge(now=NOW, at=_once(point, arrive))

    assert [p.partition for p in purged.done] == [CYCLE]
    assert refused == [(0, None)]
    shelf.check_tidy()


@pytest.mark.case(23)
def test_a_late_lead_at_the_boundary_is_published_and_goes_with_the_next_purge(shelf: Shelf) -> None:
    """Else a lead that came in time is lost, or keeps its cycle for ever."""
    shelf.ingested(CYCLE)

    def arrive(_: str) -> None:
        shelf.ingested(CYCLE, "late", snapshot="s2")

    purged = shelf.purge(now=NOW, at=_once("before mark", arrive))

    assert (purged.artifacts, purged.size_bytes) == (3, 30)
    assert list(shelf.store.list_uris()) == []


@pytest.mark.case(23)
def test_a_worker_in_the_middle_of_a_batch_is_left_to_finish(shelf: Shelf) -> None:
    """Else its grids are deleted between its store commit and the ledger's."""
    shelf.ingested(CYCLE)
    shelf.ledger.seen(sighting("late", partition=CYCLE))
    claim = shelf.ledger.claimed(CYCLE)
    shelf.write(claim)

    meanwhile = shelf.purge(now=NOW)
    shelf.ledger.commit(claim, "s2")
    shelf.check_readers()
    afterwards = shelf.purge(now=NOW)

    assert meanwhile.done == ()
    assert shelf.violations == []
    assert (afterwards.artifacts, list(shelf.store.list_uris())) == (3, [])


@pytest.mark.case(23)
@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_wakes_up_during_the_purge_publishes_nothing(shelf: Shelf, point: str) -> None:
    """Else rows are live whose bytes the purge has deleted, or is about to."""
    shelf.ledger.seen(sighting("f000", partition=CYCLE))
    sleeper = shelf.ledger.claimed(CYCLE)
    shelf.ledger.clock.advance(LEASE)
    refused: list[str] = []

    def wake(_: str) -> None:
        shelf.write(sleeper)
        with pytest.raises(LostLease):
            shelf.ledger.commit(sleeper)
        refused.append(point)

    if point == "delete":  # with nothing under its uri a deletion has no step
        shelf.write(sleeper)
    purged = shelf.purge(now=NOW, at=_once(point, wake))

    assert refused == [point]
    assert [p.partition for p in purged.done] == [CYCLE]
    left = [sleeper.uri] if point in ("before erase", "after erase") else []
    assert list(shelf.store.list_uris()) == left  # nobody names it: reconcile's to delete
    assert shelf.ledger.catalog.published(SOURCE, CYCLE) is None


@pytest.mark.case(22)
@pytest.mark.parametrize("point", POINTS[:-1])
def test_a_purge_that_slept_past_its_lease_spoils_nothing_that_came_after(shelf: Shelf, point: str) -> None:
    """Else it wakes up and deletes what a person fetched anew, or counts what went twice."""
    shelf.ingested(CYCLE)
    others: list[Purged] = []
    back: list[Claim] = []

    def sleep(_: str) -> None:
        shelf.ledger.clock.advance(LEASE)
        others.append(shelf.purge(now=NOW))
        shelf.ledger.catalog.admit(SOURCE, CYCLE, end_of(CYCLE))
        back.append(shelf.ingested(CYCLE, "f000"))

    woken = shelf.purge(now=NOW, at=_once(point, sleep))

    assert [p.partition for p in others[0].done] == [CYCLE]
    assert (woken.done, woken.left) == ((), ())
    assert shelf.ledger.count("partitions_purged_total") == 1
    assert shelf.ledger.live(CYCLE) == {"f000": "e1"}
    shelf.check_readers()
    assert shelf.violations == []
    assert list(shelf.store.list_uris()) == [back[0].uri]


@pytest.mark.case(22)
def test_of_two_purges_at_once_each_takes_what_the_other_leaves(shelf: Shelf) -> None:
    """Else two schedules that overlap count twice, or take the newest that both meant to keep."""
    keys = shelf.ingested_cycles(6)
    now = end_of(keys[-1]) + KEEP + MOMENT
    policy = shelf.policy(keep_latest=1)
    others: list[Purged] = []
    both = [
        shelf.purge(
            policy, now=now, at=_once("before mark", lambda _: others.append(shelf.purge(policy, now=now)))
        ),
        *others,
    ]

    assert sorted(p.partition for purged in both for p in purged.done) == keys[:-1]
    assert shelf.ledger.count("partitions_purged_total") == len(keys) - 1
    assert shelf.open_partitions() == keys[-1:]


def test_a_deletion_longer_than_its_lease_keeps_it(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a second purge joins in on every tree that takes more than two minutes."""
    monkeypatch.setattr(retention, "LEASE", timedelta(seconds=0.3))
    shelf.ingested(CYCLE)
    seconds: list[Purged] = []

    def take_long(_: str) -> None:
        for _beat in range(3):
            shelf.ledger.clock.advance(timedelta(seconds=0.2))
            _wait_until(lambda: _lease_until(shelf) > shelf.ledger.clock.at + timedelta(seconds=0.2))
        seconds.append(shelf.purge(now=NOW))

    purged = shelf.purge(now=NOW, at=_once("delete", take_long))

    assert [p.partition for p in purged.done] == [CYCLE]
    assert seconds[0].done == ()


def test_while_many_purge_at_once_no_reader_meets_a_gap(shelf: Shelf) -> None:
    """Else a schedule, a launched job and a person at the command line disturb each other or the readers."""
    keys = shelf.ingested_cycles(12)
    now = end_of(keys[-1]) + KEEP + MOMENT
    taken: list[Purged] = []
    threads = [threading.Thread(target=lambda: taken.append(shelf.purge(now=now))) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        shelf.check_readers("beside")
    for thread in threads:
        thread.join()

    assert len(taken) == len(threads)
    assert sorted(p.partition for purged in taken for p in purged.done) == keys
    assert shelf.violations == []
    shelf.check_tidy()


def _once(point: str, do: Callable[[str], None]) -> Callable[[str], None]:
    """An `at` that does it at the first passage of the point."""
    left = [point]
    lock = threading.Lock()

    def at(passed: str) -> None:
        with lock:
            mine = passed in left
            if mine:
                left.remove(passed)
        if mine:
            do(passed)

    return at


def _lease_until(shelf: Shelf) -> datetime:
    (row,) = shelf.ledger.catalog.partitions(SOURCE)
    assert row.lease_until is not None
    return row.lease_until


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "no heartbeat came"
        time.sleep(0.01)
