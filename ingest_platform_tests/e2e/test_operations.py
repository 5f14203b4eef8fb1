"""Purge, reconcile and the ways back, as operators start them: by command, and from Dagster's launchpad."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from functools import partial

import dagster as dg
import pytest

from ingest_platform.catalog.model import Failed, Sighting
from ingest_platform.operations.defs import definitions
from ingest_platform.storage.store import store_of
from ingest_platform.weather.feed import once, open_rails
from ingest_platform.weather.read import NotPublished, open_weather
from ingest_platform_tests.e2e.dagster_instance import call
from ingest_platform_tests.e2e.place import Place, long_ago


@pytest.fixture
def aged(place: Place) -> tuple[str, ...]:
    """Three old hours of radar, the oldest first; retention spares the newest two."""
    assert place.models["mrms"].keep_latest == 2
    hours = []
    for days in (22, 21, 20):
        [made, *_] = place.publish("mrms", now=long_ago(days))
        then = (long_ago(days) + timedelta(minutes=20)).timestamp()
        with open_rails(place.settings, clock=partial(datetime.fromtimestamp, then, UTC)) as rails:
            (report,) = once(rails, [place.models["mrms"]], owner="test")
        assert not report.errors
        hours.append(place.partition(made))
    return tuple(hours)


def test_purge_says_beforehand_what_it_deletes_and_deletes_that(place: Place, aged: tuple[str, ...]) -> None:
    """Who is to delete two terabytes wants to see the list first, and to find it kept."""
    told = json.loads(call(place, "ingest", "purge", "--dry-run", "--json", check=True).stdout)
    assert open_weather("mrms", aged[0], environ=place.environ).sizes

    done = json.loads(call(place, "ingest", "purge", "--json", check=True).stdout)

    assert [row["partition"] for row in done["purged"]] == [aged[0]]
    assert done["purged"] == told["purged"]
    assert not (place.home / "data" / done["purged"][0]["uri"]).exists()
    with pytest.raises(NotPublished, match="purged"):
        open_weather("mrms", aged[0], environ=place.environ)
    assert all(open_weather("mrms", hour, environ=place.environ).sizes for hour in aged[1:])


def test_reconcile_fetches_again_what_the_disk_lost(place: Place, aged: tuple[str, ...]) -> None:
    """A folder removed by hand must come back by itself, and cron must hear of it."""
    with place.catalog() as catalog:
        live = catalog.published("weather.mrms", aged[2])
    assert live is not None
    shutil.rmtree(place.home / "data" / live.uri)

    found = call(place, "ingest", "reconcile", "--json")
    healed = call(place, "ingest", "reconcile", "--apply")
    call(place, "ingest", "once", "--models", "mrms", check=True)

    assert found.returncode == 1
    assert [row["partition"] for row in json.loads(found.stdout)["lost"]] == [aged[2]]
    assert healed.returncode == 0, healed.stdout
    assert call(place, "ingest", "reconcile").returncode == 0
    assert open_weather("mrms", aged[2], environ=place.environ).sizes


def test_requeue_gives_the_quarantined_another_try(place: Place) -> None:
    """The status page tells people to type this; it must do what it says."""
    now = datetime.now(UTC)
    seen = Sighting("noaa", "key", "etag", 1, now, "2026-11-21T00", now, "slot")
    with place.catalog() as catalog:
        catalog.see("weather.mrms", [seen])
        claim = catalog.claim("weather.mrms", seen.partition, owner="test")
        assert claim is not None
        catalog.fail(claim, [Failed(claim.objects[0], "damaged", permanent=True)])

    told = call(place, "ingest", "requeue", "--models", "mrms", check=True).stdout

    assert "mrms: 1 objects" in told
    with place.catalog() as catalog:
        assert catalog.overview("weather.mrms").objects.get("quarantined", 0) == 0


def test_unpin_hands_a_backfill_back_to_retention(place: Place, aged: tuple[str, ...]) -> None:
    """Else whatever was brought back for a day stays for ever."""
    call(place, "ingest", "purge", check=True)
    with place.catalog() as catalog:
        assert catalog.admit("weather.mrms", aged[0], place.models["mrms"].partition_end(aged[0]))

    told = call(place, "ingest", "unpin", "--models", "mrms", "--partition", aged[0], check=True).stdout

    assert "mrms: 1 partitions" in told
    with place.catalog() as catalog:
        assert not any(row.pinned for row in catalog.partitions("weather.mrms"))


def launched(
    place: Place, instance: dg.DagsterInstance, job: str, **config: object
) -> dg.ExecuteInProcessResult:
    """The job as the launchpad starts it, on the place's own ledger and store."""
    with place.catalog() as catalog:
        resources = {"catalog": catalog, "store": store_of(place.settings), "settings": place.settings}
        everything = dg.Definitions.merge(definitions(), dg.Definitions(resources=resources))
        asset = {"purge": "operations__retention", "reconcile": "operations__consistency"}[job]
        return everything.resolve_job_def(job).execute_in_process(
            run_config={"ops": {asset: {"config": config}}}, instance=instance, raise_on_error=False
        )


@pytest.mark.case(26)
def test_a_dry_run_from_the_launchpad_leaves_no_trace(place: Place, aged: tuple[str, ...]) -> None:
    """A materialization would say that something was purged; the plots would count it."""
    with dg.DagsterInstance.ephemeral() as instance:
        dry = launched(place, instance, "purge", dry_run=True)
        told = instance.get_latest_materialization_event(dg.AssetKey(["operations", "retention"]))
        wet = launched(place, instance, "purge", models=["mrms"])

    assert dry.success
    assert told is None
    (made,) = wet.asset_materializations_for_node("operations__retention")
    assert made.metadata["partitions"].value == 1
    with place.catalog() as catalog:
        assert catalog.published("weather.mrms", aged[0]) is None


def test_what_reconcile_finds_is_an_asset_check(place: Place, aged: tuple[str, ...]) -> None:
    """The operator looks at checks, not at logs."""
    with place.catalog() as catalog:
        live = catalog.published("weather.mrms", aged[0])
    assert live is not None
    shutil.rmtree(place.home / "data" / live.uri)

    with dg.DagsterInstance.ephemeral() as instance:
        found = launched(place, instance, "reconcile", apply=False)
        healed = launched(place, instance, "reconcile")

    (verdict,) = found.get_asset_check_evaluations()
    assert not verdict.passed
    assert "1 partitions lost" in str(verdict.description)
    (verdict,) = healed.get_asset_check_evaluations()
    assert verdict.passed


def test_a_refused_purge_fails_its_run(place: Place, aged: tuple[str, ...]) -> None:
    """A deletion that is denied for months fills the disk while every run is green."""
    with place.catalog() as catalog:
        live = catalog.published("weather.mrms", aged[0])
    assert live is not None
    kept = place.home / "data" / live.uri
    # A link is never followed: refused to everybody, root too.
    kept.rename(kept.with_suffix(".real"))
    kept.symlink_to(kept.with_suffix(".real"))

    with dg.DagsterInstance.ephemeral() as instance:
        refused = launched(place, instance, "purge")

    assert not refused.success
    with place.catalog() as catalog:
        assert catalog.partition_state("weather.mrms", aged[0]) == "purging"
