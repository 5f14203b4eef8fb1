"""What a purge says lasts as long as it is true: a refusal, data that nobody speaks for, a wrong clock."""

import errno
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from ingest_platform.errors import PermanentError
from ingest_platform.operations import results
from ingest_platform.operations.retention import CLOCKS_APART, Purged, plan, purge
from ingest_platform.storage.store import open_store
from ingest_platform_tests.contract.ledger_world import LEASE, SOURCE, World, cycles, end_of
from ingest_platform_tests.contract.retention_world import KEEP, Shelf

MOMENT = timedelta(microseconds=1)
KEY = cycles(1)[0]
NOW = end_of(KEY) + KEEP + MOMENT
OTHER = "weather.hrrr"


@pytest.fixture
def shelf(ledger: World, tmp_path: Path) -> Shelf:
    ledger.clock.at = NOW
    made = Shelf(ledger, open_store((tmp_path / "data").as_uri()))
    made.store.bind(ledger.catalog.ledger_id)
    made.ingested(KEY)
    return made


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The disk under the store denies every deletion, until `undo`."""

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    return monkeypatch


def refusals(shelf: Shelf) -> dict[str, int]:
    """What metrics show of each source."""
    kept = results.purges(shelf.ledger.catalog.gauges())
    return {source: result.numbers["refused"] for source, result in kept.items()}


@pytest.mark.parametrize("wrong", [-timedelta(days=1), -CLOCKS_APART - MOMENT, CLOCKS_APART + MOMENT])
def test_a_host_that_lives_in_another_time_purges_nothing(shelf: Shelf, wrong: timedelta) -> None:
    """Else one dead battery takes what is new, and the horizon refuses it for as many days."""
    catalog = shelf.ledger.catalog
    before = (catalog.partitions(), catalog.gauges())
    now = NOW + wrong

    with pytest.raises(PermanentError, match="clock"):
        purge(catalog, shelf.store, [shelf.policy(timedelta(0))], now=now, owner="purge")
    with pytest.raises(PermanentError, match="clock"):
        plan(catalog, [shelf.policy(timedelta(0))], now=now)

    assert (catalog.partitions(), catalog.gauges()) == before
    shelf.check_readers()
    assert shelf.violations == []


def test_a_host_that_is_less_than_an_hour_wrong_purges(shelf: Shelf) -> None:
    """Else a store fills up because of a few minutes."""
    purged = purge(shelf.ledger.catalog, shelf.store, [shelf.policy()], now=NOW + CLOCKS_APART, owner="purge")

    assert [p.partition for p in purged.done] == [KEY]


def test_a_purge_right_after_a_refused_one_says_so_too(shelf: Shelf, read_only: pytest.MonkeyPatch) -> None:
    """Else who tries again at once sees success, and the alarm is off, while nothing was freed."""
    shelf.purge(now=NOW)

    again = shelf.purge(now=NOW)
    shown = refusals(shelf)
    read_only.undo()
    shelf.ledger.clock.advance(LEASE)
    healed = shelf.purge(now=NOW)

    assert (again.done, again.left, again.facts()["refused"]) == ((), (), 1)
    assert isinstance(again.error, PermanentError)
    assert SOURCE in str(again.error)
    assert shown == {SOURCE: 1}
    assert (healed.error, healed.facts()["refused"]) == (None, 0)
    assert set(refusals(shelf).values()) <= {0}


def test_a_purge_of_one_model_wipes_nothing_of_another(shelf: Shelf, read_only: pytest.MonkeyPatch) -> None:
    """Else an hourly purge of the radar hides that the forecasts' disk denies every deletion."""
    shelf.purge(now=NOW)
    shelf.ingested(KEY, source=OTHER)
    read_only.undo()

    other = shelf.purge(shelf.policy(source=OTHER), now=NOW)

    assert other.error is None
    assert refusals(shelf)[SOURCE] == 1
    kept = results.last(shelf.ledger.catalog.gauges(), results.PURGE)
    assert kept is not None
    assert kept.numbers["refused"] == 1
    assert "could not delete" in kept.message


def test_a_purge_beside_another_one_counts_its_work_and_does_not_fail(shelf: Shelf) -> None:
    """Else cron and Dagster at the same minute wake somebody up."""
    beside: list[Purged] = []

    def look(point: str) -> None:
        if point == "after mark" and not beside:
            beside.append(purge(shelf.ledger.catalog, shelf.store, [shelf.policy()], now=NOW, owner="cron"))

    purged = shelf.purge(now=NOW, at=look)

    (other,) = beside
    assert (other.error, other.facts()["elsewhere"], other.facts()["refused"]) == (None, 1, 0)
    assert [p.partition for p in purged.done] == [KEY]
    assert refusals(shelf)[SOURCE] == 0


def test_data_that_no_policy_speaks_for_is_named(shelf: Shelf) -> None:
    """Else the data of a model whose file was renamed fills the disk, unnoticed, for ever."""
    shelf.ingested(cycles(5)[4], source=OTHER)

    alone = shelf.purge(now=NOW)
    both = shelf.purge(shelf.policy(), shelf.policy(source=OTHER), now=NOW)
    same_day = shelf.purge(now=NOW + results.UNPURGED_AFTER)
    day_later = shelf.purge(now=NOW + results.UNPURGED_AFTER + MOMENT)
    shelf.purge(shelf.policy(source=OTHER), now=NOW + 3 * KEEP)
    emptied = shelf.purge(now=NOW + 9 * KEEP)

    assert alone.facts()["without_policy"] == [OTHER]
    assert (both.without_policy, same_day.without_policy) == ((), ())
    assert day_later.without_policy == (OTHER,)
    assert emptied.without_policy == ()
