"""gauges, quarantined, retrying, coverage: what metrics, page and checks read in their loops."""

from datetime import datetime, timedelta

import pytest

from ingest_platform.catalog.model import Artifact, Failed, Outcome, Postponed, Published, SourceGauges
from ingest_platform_tests.contract.ledger_world import (
    CYCLE,
    LEASE,
    MIDNIGHT,
    SOURCE,
    World,
    cycles,
    end_of,
    grid_details,
    published,
    sighting,
)


def gauges(ledger: World) -> SourceGauges:
    (found,) = ledger.catalog.gauges(SOURCE)
    return found


def test_the_gauges_tell_what_waits_and_why(ledger: World) -> None:
    """Else an operator could not tell a queue that moves from one that only fails."""
    ledger.seen(*(sighting(f"f{i:03d}", minute=i) for i in range(5)))
    claim = ledger.claimed(limit=3)
    good, slow, bad = claim.objects
    outcomes: list[Outcome] = [
        published(good),
        Postponed(slow, "503"),
        Failed(bad, "no GRIB", permanent=True),
    ]
    ledger.catalog.commit(claim, "s1", outcomes)

    seen = gauges(ledger)

    assert (seen.pending, seen.due, seen.retrying, seen.quarantined) == (3, 2, 1, 1)
    assert seen.oldest_due == MIDNIGHT + timedelta(minutes=3)
    assert (seen.at, seen.newest_commit) == (ledger.clock.at, ledger.clock.at)


def test_a_postponed_object_is_due_again_when_its_time_comes(ledger: World) -> None:
    """The oldest that is due tells how long the source's newest data has not reached readers."""
    ledger.seen(sighting())
    claim = ledger.claimed()
    ledger.catalog.fail(claim, [Postponed(claim.objects[0], "503")])
    before = gauges(ledger)

    ledger.clock.advance(timedelta(minutes=1))

    assert (before.due, before.oldest_due) == (0, None)
    assert (gauges(ledger).due, gauges(ledger).retrying, gauges(ledger).oldest_due) == (1, 1, MIDNIGHT)


def test_what_begins_afresh_is_not_counted_as_retrying(ledger: World) -> None:
    """Else the queue would look as if the source still failed, after a person had mended it."""
    ledger.seen(sighting())
    claim = ledger.claimed()
    ledger.catalog.fail(claim, [Failed(claim.objects[0], "no GRIB", permanent=True)])

    ledger.catalog.requeue(SOURCE)

    assert (gauges(ledger).pending, gauges(ledger).due, gauges(ledger).retrying) == (1, 1, 0)
    assert ledger.catalog.retrying(SOURCE) == ()


def test_the_gauges_count_partitions_leases_and_pins(ledger: World) -> None:
    """Else a partition that nobody ever gives back, or a pin that is forgotten, would be found by no one."""
    purged, pinned, held = cycles(3)
    ledger.ingested(sighting("a", partition=purged), partition=purged)
    ledger.purged(purged)
    ledger.catalog.admit(SOURCE, pinned, end_of(pinned))
    ledger.seen(sighting("b", partition=held))
    ledger.claimed(held)

    while_held = gauges(ledger)
    ledger.clock.advance(LEASE)

    assert while_held.partitions == {"open": 2, "purged": 1}
    assert (while_held.pinned, while_held.leases, while_held.horizon) == (
        1,
        1,
        end_of(purged) + timedelta(seconds=1),
    )
    assert gauges(ledger).leases == 0


def test_the_newest_partition_seen_and_the_newest_that_readers_can_open(ledger: World) -> None:
    """A cycle that has begun and is not published yet must not look like fresh data."""
    old, new = cycles(2)
    ledger.ingested(sighting("a", partition=old), partition=old)
    ledger.seen(sighting("b", partition=new))

    assert (gauges(ledger).newest_open, gauges(ledger).newest_published) == (new, old)


def test_every_source_has_its_own_gauges(ledger: World) -> None:
    """Else the queue of one model would be shown as another's."""
    ledger.seen(sighting("a"), sighting("b"))
    ledger.catalog.see("audio", [sighting("c")])
    ledger.catalog.keep_cursor("weather.mrms", "page 2")

    found = {each.source: (each.pending, each.partitions, each.cursor) for each in ledger.catalog.gauges()}

    assert found == {
        "audio": (1, {"open": 1}, None),
        "weather.gfs": (2, {"open": 1}, None),
        "weather.mrms": (0, {}, "page 2"),
    }
    assert ledger.catalog.gauges("never seen") == ()


def test_lists_are_limited_and_begin_with_the_latest(ledger: World) -> None:
    """A page shows a screenful; after an outage of a source thousands wait."""
    for number in range(3):
        ledger.seen(sighting(f"bad{number}"))
        claim = ledger.claimed()
        ledger.catalog.fail(claim, [Failed(claim.objects[0], f"no GRIB {number}", permanent=True)])
    ledger.seen(*(sighting(f"slow{number}") for number in range(3)))
    claim = ledger.claimed()
    waits = [Postponed(o, "503", retry_after=timedelta(hours=i + 1)) for i, o in enumerate(claim.objects)]
    ledger.catalog.fail(claim, waits)

    given_up = ledger.catalog.quarantined(SOURCE, limit=2)
    waiting = ledger.catalog.retrying(SOURCE, limit=2)

    assert [(row.key, row.error) for row in given_up] == [("bad2", "no GRIB 2"), ("bad1", "no GRIB 1")]
    assert [(row.key, row.partition) for row in waiting] == [("slow2", CYCLE), ("slow1", CYCLE)]


def artifact(variable: str, level: str, *, lead_hours: int) -> Artifact:
    valid = MIDNIGHT + timedelta(hours=lead_hours)
    details = grid_details(variable) | {
        "level": level,
        "valid_time": valid,
        "lead_seconds": 3600 * lead_hours,
    }
    return Artifact(f"{variable}/{level}/{lead_hours}", 10, "sum", "1", details)


def test_coverage_counts_what_readers_find(ledger: World) -> None:
    """A cycle of 18,000 grids must not be loaded to learn which of its leads are there."""
    ledger.seen(sighting("f000"), sighting("f003"))
    claim = ledger.claimed()
    first, second = claim.objects
    zero = (artifact("t", "2 m", lead_hours=0), artifact("gh", "500 mb", lead_hours=0))
    three = (artifact("gh", "500 mb", lead_hours=3), artifact("gh", "850 mb", lead_hours=3))
    ledger.catalog.commit(claim, "s1", [Published(first, zero), Published(second, three)])

    (found,) = ledger.catalog.coverage(SOURCE)

    assert (found.partition, found.event_end, found.snapshot) == (CYCLE, end_of(CYCLE), "s1")
    assert found.leads == {0: 2, 10_800: 2}
    assert found.grids == {"t": 1, "gh": 3}
    assert found.times == {"t": 1, "gh": 2}
    assert found.newest == MIDNIGHT


def test_coverage_names_open_partitions_without_a_grid_too(ledger: World) -> None:
    """Else a cycle of which nothing was published would be missing nothing."""
    purged, whole, empty = cycles(3)
    for key in (purged, whole):
        ledger.ingested(sighting(f"{key}/f", partition=key), partition=key)
    ledger.purged(purged)
    ledger.seen(sighting("f", partition=empty))

    found = ledger.catalog.coverage(SOURCE)

    assert [(each.partition, sum(each.grids.values())) for each in found] == [(whole, 1), (empty, 0)]
    assert found[1].newest is None


@pytest.mark.parametrize(("since", "kept"), [(end_of(CYCLE), 2), (end_of(CYCLE) + timedelta(seconds=1), 1)])
def test_coverage_is_of_what_retention_keeps(ledger: World, since: datetime, kept: int) -> None:
    """Else a check would speak of partitions that the next purge takes."""
    for key in cycles(2):
        ledger.seen(sighting(f"{key}/f", partition=key))

    assert len(ledger.catalog.coverage(SOURCE, since=since)) == kept
    assert len(ledger.catalog.coverage(SOURCE, partition=CYCLE)) == 1
