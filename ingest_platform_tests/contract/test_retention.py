"""A purge takes what its policies keep no longer, all of it, nothing else, and readers never notice."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingest_platform.catalog.model import Sighting
from ingest_platform.errors import PermanentError
from ingest_platform.operations import retention
from ingest_platform.operations.retention import Policy, policies
from ingest_platform.storage.store import open_store
from ingest_platform.weather.config import load_models
from ingest_platform_tests.contract.ledger_world import SOURCE, World, cycles, end_of, sighting
from ingest_platform_tests.contract.retention_world import KEEP, Shelf, shelf_over

MOMENT = timedelta(microseconds=1)
OTHER = "weather.hrrr"


@pytest.fixture
def shelf(ledger: World, request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    return shelf_over(ledger, request, tmp_path)


def test_a_purge_frees_the_store_and_says_what_went(shelf: Shelf) -> None:
    """Else nobody knows whether retention works before the disk is full."""
    old, new = shelf.ingested_cycles(2)

    purged = shelf.purge(now=end_of(new) + KEEP)

    assert [(p.source, p.partition) for p in purged.done] == [(SOURCE, old)]
    assert (purged.artifacts, purged.size_bytes, purged.forgotten) == (2, 20, 1)
    assert purged.error is None
    facts = purged.facts()
    assert {name: facts[name] for name in ("partitions", "artifacts", "size_bytes", "refused")} == {
        "partitions": 1,
        "artifacts": 2,
        "size_bytes": 20,
        "refused": 0,
    }
    assert facts["purged"] == retention.rows(purged.done)
    assert json.dumps(facts)
    assert purged.facts(most=0)["purged"] == []
    assert shelf.ledger.count("bytes_purged_total") == purged.size_bytes
    assert shelf.state(old) == "forgotten"
    shelf.check_tidy()


@pytest.mark.case(25)
def test_each_source_keeps_its_own_hours_and_what_ends_at_the_cutoff(shelf: Shelf) -> None:
    """Else radar would fill the disk, or forecasts would go with it; or an hour more than was said."""
    keys = shelf.ingested_cycles(4)
    shelf.ingested_cycles(4, OTHER)
    now = end_of(keys[3])
    long, short = shelf.policy(timedelta(hours=12)), shelf.policy(timedelta(hours=6), source=OTHER)

    purged = shelf.purge(long, short, now=now)

    taken = [(SOURCE, keys[0]), (OTHER, keys[0]), (OTHER, keys[1])]
    assert [(p.source, p.partition) for p in purged.done] == taken
    assert shelf.open_partitions() == keys[1:]
    assert shelf.open_partitions(OTHER) == keys[2:]
    assert shelf.planned(long, short, now=now) == []
    assert shelf.planned(long, now=now + MOMENT) == [(SOURCE, keys[1])]


@pytest.mark.case(25)
def test_after_ten_days_without_a_source_the_newest_good_partitions_are_still_there(
    shelf: Shelf,
) -> None:
    """Else an outage at the source takes from users what they still have."""
    keys = shelf.ingested_cycles(5)
    for hollow in cycles(7)[5:]:
        shelf.ledger.seen(_sighting(hollow))
    guarded = shelf.policy(keep_latest=2)

    for days in range(1, 11):
        shelf.purge(guarded, now=end_of(keys[-1]) + timedelta(days=days))

    assert shelf.open_partitions() == keys[3:]
    shelf.check_readers()
    assert shelf.violations == []


@pytest.mark.case(25)
def test_what_is_pinned_stays(shelf: Shelf) -> None:
    """Else a case study that somebody asked for by name is gone the next morning."""
    pinned, other = cycles(2)
    shelf.ledger.catalog.admit(SOURCE, pinned, end_of(pinned))
    for key in (pinned, other):
        shelf.ingested(key)

    shelf.purge(now=end_of(other) + 10 * KEEP)

    assert shelf.open_partitions() == [pinned]
    shelf.check_tidy()


def test_a_purge_goes_on_until_nothing_is_left_to_take(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a backlog grows faster than one batch an interval can take."""
    monkeypatch.setattr(retention, "BATCH_PARTITIONS", 3)
    keys = shelf.ingested_cycles(8)

    purged = shelf.purge(now=end_of(keys[-1]) + KEEP + MOMENT)

    assert [p.partition for p in purged.done] == keys
    assert list(shelf.store.list_uris()) == []
    assert shelf.ledger.count("partitions_purged_total") == len(keys)


def test_what_was_never_published_is_taken_with_its_bytes(shelf: Shelf) -> None:
    """Else the repositories of workers that died in their first batch stay for ever."""
    seen, claimed = cycles(2)
    shelf.ledger.catalog.see(SOURCE, [_sighting(seen), _sighting(claimed)])
    shelf.write(shelf.ledger.claimed(claimed))
    shelf.ledger.clock.advance(timedelta(hours=1))

    purged = shelf.purge(now=end_of(claimed) + KEEP + MOMENT)

    assert [p.partition for p in purged.done] == [seen, claimed]
    assert purged.size_bytes == 0
    assert list(shelf.store.list_uris()) == []


def test_a_new_installation_has_nothing_to_purge_and_no_error(shelf: Shelf, tmp_path: Path) -> None:
    """Else the schedule is red until the first file was ingested."""
    shelf.store = open_store((tmp_path / "new").as_uri())

    assert shelf.purge(now=datetime(2026, 11, 21, tzinfo=UTC)).facts()["partitions"] == 0


def test_a_store_of_another_ledger_is_not_touched(shelf: Shelf, tmp_path: Path) -> None:
    """Else a test system with production's store URL deletes production; or an unmounted disk looks done."""
    old, new = shelf.ingested_cycles(2)
    own, before = shelf.store, shelf.ledger.catalog.partitions()
    shelf.store = open_store((tmp_path / "unmounted").as_uri())

    with pytest.raises(PermanentError, match="expected the marker of ledger"):
        shelf.purge(now=end_of(new) + KEEP)

    shelf.store = own
    assert shelf.ledger.catalog.partitions() == before
    shelf.check_readers()
    assert shelf.violations == []
    assert shelf.state(old) == "open"


@pytest.mark.case(27)
def test_what_is_purged_never_comes_back_by_itself_but_by_a_persons_word(shelf: Shelf) -> None:
    """Else the platform fetches and deletes the same files for ever; or a case study cannot be fetched."""
    old, new = shelf.ingested_cycles(2)
    now = end_of(new) + KEEP

    for _ in range(3):  # the source lists it at every poll, purge or not, with a new version and a new lead
        shelf.purge(now=now)
        listed = [_sighting(old, "f000"), _sighting(old, "f000", "e2"), _sighting(old, "f099")]
        assert shelf.ledger.catalog.see(SOURCE, listed) == 0
        assert shelf.ledger.catalog.claim(SOURCE, old, owner="worker") is None

    assert shelf.ledger.catalog.admit(SOURCE, old, end_of(old))
    back = shelf.ingested(old, "f000")
    kept = shelf.purge(now=now + 10 * KEEP)
    assert [p.partition for p in kept.done] == [new]
    assert shelf.open_partitions() == [old]
    assert back.uri in shelf.store.list_uris()


@pytest.mark.case(27)
def test_only_what_the_horizon_speaks_for_is_forgotten(shelf: Shelf) -> None:
    """Else a partition whose row is gone and that lies above the horizon would be ingested again."""
    old, new = shelf.ingested_cycles(2)
    with_tombstone = shelf.policy(KEEP * 3)

    purged = shelf.purge(now=end_of(new) + KEEP)
    later = shelf.purge(with_tombstone, now=end_of(new) + KEEP)

    assert (purged.forgotten, later.forgotten) == (1, 0)
    (row,) = shelf.ledger.catalog.partitions(SOURCE)
    assert (row.partition, row.state) == (new, "open")
    assert shelf.ledger.catalog.see(SOURCE, [_sighting(old, "f099")]) == 0
    assert shelf.ledger.catalog.see(SOURCE, [_sighting(new, "f099")]) == 1


def test_a_policy_says_what_a_models_file_says() -> None:
    """Else YAML and purge disagree about how long something is kept."""
    models = load_models()

    found = policies(models)

    assert found == tuple(
        Policy(m.source_name, timedelta(hours=m.retention_hours), m.keep_latest) for m in models
    )
    assert (
        found[0].cutoff(datetime(2026, 1, 8, tzinfo=UTC)) == datetime(2026, 1, 8, tzinfo=UTC) - found[0].keep
    )


def _sighting(key: str, name: str = "f000", etag: str = "e1") -> Sighting:
    return sighting(f"{SOURCE}/{key}/{name}", etag, partition=key, slot=name)
