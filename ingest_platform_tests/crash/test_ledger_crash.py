"""A real process dies, or stops, inside a ledger verb. What it leaves is what the protocol says.

kill -9 at two points of every writing verb: before COMMIT nothing has happened; after it everything has,
though nobody was told. SIGSTOP past the lease: the sleeper is refused when it wakes.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import NoReturn

import pytest

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Claim, Failed
from ingest_platform.errors import LostLease
from ingest_platform_tests.contract.conftest import (  # noqa: F401 - fixtures
    ledger_url,
    postgresql_ledger,
    sqlite_template,
)
from ingest_platform_tests.contract.ledger_world import (
    CYCLE,
    LEASE,
    SOURCE,
    PlayedClock,
    World,
    end_of,
    published,
    sighting,
    world,
)

# Spawned, as the platform's own processes are: a forked one would share the parent's connections.
PROCESSES = multiprocessing.get_context("spawn")
CUTOFF = end_of(CYCLE) + timedelta(seconds=1)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[World]:  # noqa: F811
    with world(ledger_url) as played:
        yield played


def dies(url: str, clock: PlayedClock, verb: Callable[[Catalog], object], point: str) -> None:
    """Run the verb in a child that kills itself with -9 when it passes the point."""
    child = PROCESSES.Process(target=_run_and_die, args=(url, clock, verb, point))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL, f"the child was to die at {point}: {child.exitcode}"


def _run_and_die(url: str, clock: PlayedClock, verb: Callable[[Catalog], object], point: str) -> NoReturn:
    def die(passed: str) -> None:
        if passed == point:
            os.kill(os.getpid(), signal.SIGKILL)

    verb(Catalog.open(url, now=clock, at=die))
    raise SystemExit(f"never passed {point}")


def sees(catalog: Catalog) -> None:
    catalog.see(SOURCE, [sighting()])


def claims(catalog: Catalog) -> None:
    catalog.claim(SOURCE, CYCLE, owner="child", lease=LEASE)


def requests(catalog: Catalog) -> None:
    catalog.request(SOURCE, hold_off=LEASE)


def claims_and_commits(catalog: Catalog) -> None:
    claim = _claimed(catalog)
    catalog.commit(claim, "s1", [published(o) for o in claim.objects])


def claims_and_fails(catalog: Catalog) -> None:
    claim = _claimed(catalog)
    catalog.fail(claim, [Failed(o, "damaged", permanent=True) for o in claim.objects])


def expires(catalog: Catalog) -> None:
    catalog.expire(SOURCE, cutoff=CUTOFF, keep_latest=0, owner="child", lease=LEASE)


def expires_and_erases(catalog: Catalog) -> None:
    for purge in catalog.expire(SOURCE, cutoff=CUTOFF, keep_latest=0, owner="child", lease=LEASE):
        catalog.erase(purge)


def holds_and_repairs(catalog: Catalog) -> None:
    held = catalog.hold(SOURCE, CYCLE, owner="child", lease=LEASE)
    assert held is not None
    catalog.repair(held)


def _claimed(catalog: Catalog) -> Claim:
    claim = catalog.claim(SOURCE, CYCLE, owner="child", lease=LEASE)
    assert claim is not None
    return claim


@pytest.mark.case(21)
def test_killed_in_see_the_next_listing_takes_it_down(ledger: World) -> None:
    """Else an object seen once, by a process that died, would never be fetched."""
    dies(ledger.url, ledger.clock, sees, "see: before COMMIT")
    assert ledger.catalog.partition_state(SOURCE, CYCLE) is None

    dies(ledger.url, ledger.clock, sees, "see: after COMMIT")
    assert ledger.states() == {("f000", "e1"): "pending"}
    assert ledger.seen(sighting()) == 0


@pytest.mark.case(21)
def test_killed_in_request_the_next_one_has_another_number(ledger: World) -> None:
    """Else the orchestrator would refuse the used run key for ever."""
    ledger.seen()

    dies(ledger.url, ledger.clock, requests, "request: before COMMIT")
    dies(ledger.url, ledger.clock, requests, "request: after COMMIT")
    too_soon = ledger.catalog.request(SOURCE)
    ledger.clock.advance(LEASE)

    assert too_soon == []
    assert [r.number for r in ledger.catalog.request(SOURCE)] == [2]


@pytest.mark.case(21)
def test_killed_in_claim_the_partition_is_free_at_once_or_after_the_lease(ledger: World) -> None:
    """Else a partition would be locked by the dead."""
    ledger.seen()

    dies(ledger.url, ledger.clock, claims, "claim: before COMMIT")
    assert ledger.only_object().attempts == 0
    dies(ledger.url, ledger.clock, claims, "claim: after COMMIT")

    assert ledger.claim() is None
    ledger.clock.advance(LEASE)
    (taken,) = ledger.claimed().objects
    assert taken.attempts == 2


@pytest.mark.case(21)
def test_killed_before_the_commit_nothing_is_published_and_the_next_claim_heals(ledger: World) -> None:
    """Else half a batch would be visible."""
    ledger.seen(sighting("f000"), sighting("f001"))

    dies(ledger.url, ledger.clock, claims_and_commits, "commit: before COMMIT")

    assert ledger.catalog.published(SOURCE, CYCLE) is None
    assert set(ledger.states().values()) == {"pending"}
    assert ledger.count("files_ingested_total") == 0
    ledger.clock.advance(LEASE)
    ledger.commit(ledger.claimed())
    assert ledger.live() == {"f000": "e1", "f001": "e1"}


@pytest.mark.case(21)
def test_killed_after_the_commit_all_is_published_once(ledger: World) -> None:
    """Else a batch whose worker died a moment later would be done and counted twice."""
    ledger.seen(sighting("f000"), sighting("f001"))

    dies(ledger.url, ledger.clock, claims_and_commits, "commit: after COMMIT")

    assert ledger.live() == {"f000": "e1", "f001": "e1"}
    assert ledger.count("files_ingested_total") == 2
    assert ledger.claim() is None
    ledger.clock.advance(LEASE)
    assert ledger.claim() is None


@pytest.mark.case(21)
def test_killed_in_fail_the_lease_expires_or_the_rows_are_settled(ledger: World) -> None:
    """Else a batch that failed would be forgotten, or its partition locked."""
    ledger.seen()

    dies(ledger.url, ledger.clock, claims_and_fails, "fail: before COMMIT")
    assert ledger.states() == {("f000", "e1"): "pending"}
    ledger.clock.advance(LEASE)
    dies(ledger.url, ledger.clock, claims_and_fails, "fail: after COMMIT")

    assert ledger.states() == {("f000", "e1"): "quarantined"}
    ledger.seen(sighting("f001"))
    assert ledger.claim() is not None


@pytest.mark.case(22)
def test_killed_in_a_purge_the_next_one_finishes_it(ledger: World) -> None:
    """Else a partition would stay half deleted, or readers would open what is gone."""
    ledger.ingested(sighting())

    dies(ledger.url, ledger.clock, expires, "expire: before COMMIT")
    untouched = ledger.live()
    dies(ledger.url, ledger.clock, expires, "expire: after COMMIT")
    marked = ledger.catalog.partition_state(SOURCE, CYCLE)
    ledger.clock.advance(LEASE)
    dies(ledger.url, ledger.clock, expires_and_erases, "erase: before COMMIT")
    unerased = ledger.catalog.partition_state(SOURCE, CYCLE)
    ledger.clock.advance(LEASE)
    dies(ledger.url, ledger.clock, expires_and_erases, "erase: after COMMIT")

    assert (untouched, marked, unerased) == ({"f000": "e1"}, "purging", "purging")
    assert ledger.catalog.partition_state(SOURCE, CYCLE) == "purged"
    assert ledger.count("bytes_purged_total") == 10
    assert ledger.seen(sighting()) == 0


@pytest.mark.case(24)
def test_killed_in_repair_the_rows_are_all_live_or_all_pending(ledger: World) -> None:
    """Else rows would be live whose bytes are lost, with nobody to fetch them."""
    ledger.ingested(sighting("f000"), sighting("f001"))

    dies(ledger.url, ledger.clock, holds_and_repairs, "repair: before COMMIT")
    untouched = ledger.live()
    ledger.clock.advance(LEASE)
    dies(ledger.url, ledger.clock, holds_and_repairs, "repair: after COMMIT")

    assert untouched == {"f000": "e1", "f001": "e1"}
    assert ledger.live() == {}
    assert len(ledger.claimed().objects) == 2


@pytest.mark.case(21)
def test_a_worker_stopped_past_its_lease_is_refused_when_it_wakes(ledger: World) -> None:
    """Else a machine that was suspended would publish an old batch over a new one."""
    ledger.seen()
    ours, theirs = PROCESSES.Pipe()
    sleeper = PROCESSES.Process(target=_claim_and_commit_when_told, args=(ledger.url, ledger.clock, theirs))
    sleeper.start()
    assert ours.recv() == "claimed"
    assert sleeper.pid is not None

    os.kill(sleeper.pid, signal.SIGSTOP)
    ours.send("commit")
    ledger.clock.advance(LEASE)
    ledger.commit(ledger.claimed(owner="relief"), "of relief")
    os.kill(sleeper.pid, signal.SIGCONT)

    assert ours.recv() == ["LostLease", "LostLease", "nothing to do"]
    sleeper.join(60)
    snapshot = ledger.catalog.published(SOURCE, CYCLE)
    assert snapshot is not None
    assert snapshot.snapshot == "of relief"
    assert ledger.count("files_ingested_total") == 1


def _claim_and_commit_when_told(url: str, clock: PlayedClock, parent: Connection) -> None:
    with Catalog.open(url, now=clock) as catalog:
        claim = _claimed(catalog)
        parent.send("claimed")
        parent.recv()
        answers = []
        verbs: tuple[Callable[[], None], ...] = (
            lambda: catalog.heartbeat(claim),
            lambda: catalog.commit(claim, "of sleeper", [published(o) for o in claim.objects]),
        )
        for verb in verbs:
            try:
                verb()
                answers.append("done")
            except LostLease:
                answers.append("LostLease")
        answers.append("failed" if catalog.fail(claim, []) else "nothing to do")
        parent.send(answers)
