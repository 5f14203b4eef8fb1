"""The feed of a model under everyday trouble: what it goes on with, whom it blames, when it ends."""

import gzip
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ingest_platform.catalog import lease
from ingest_platform.errors import SourceUnavailable, StoreUnavailable, TransientError
from ingest_platform.weather import feed, ingest
from ingest_platform.weather.checks import completeness
from ingest_platform.weather.ingest import Report
from ingest_platform.weather.model import Model
from ingest_platform.weather.status import status_of
from ingest_platform_tests.faulty_server import Refuse, faulty_server
from ingest_platform_tests.weather_world import (
    CYCLE,
    NOON,
    World,
    forecast,
    key_of,
    pocket,
    shipped,
    world,
)


@pytest.fixture
def radar() -> Model:
    return shipped("mrms")


@pytest.fixture
def gfs() -> Model:
    return pocket("gfs")


def publish(place: World, radar: Model, number: int, *, hour: int = 1) -> str:
    """So many observations of one hour before noon; its partition."""
    first = NOON - timedelta(hours=hour)
    for n in range(number):
        place.put_radar(radar, first + timedelta(seconds=10 * n))
    place.at = NOON
    return radar.partition_key(first)


def follow(
    place: World, radar: Model, report: Callable[[Report, threading.Event], None], *, interval: float = 60
) -> None:
    """A feed until `report` stops it."""
    stop = threading.Event()
    given_up = threading.Timer(60, stop.set)
    given_up.start()
    feed.follow(
        place.rails,
        [radar],
        owner="feed",
        interval_seconds=interval,
        stop=stop,
        report=lambda made: report(made, stop),
    )
    given_up.cancel()


def test_a_feed_that_is_asked_to_end_finishes_the_object_and_hands_back_the_rest(
    place: World, radar: Model
) -> None:
    """Else a deployment waits for a whole cycle, or kills it and its lease blocks the next worker."""
    hour = publish(place, radar, 40)
    place.poll(radar)
    stop = threading.Event()
    begun = []
    bucket = place.rails.open_bucket

    def stopping_at_the_third(name: str) -> object:
        begun.append(name)
        if len(begun) == 3:
            stop.set()
        return bucket(name)

    place.rails = replace(place.rails, open_bucket=stopping_at_the_third)  # type: ignore[arg-type]
    report = ingest.ingest_partition(place.rails, radar, hour, owner="feed", stop=stop.is_set)

    assert len(begun) <= 2 + ingest.OBJECTS_IN_FLIGHT
    assert report.published == len(begun)
    assert report.published + report.postponed == ingest.BATCH_OBJECTS
    (row,) = place.catalog.partitions()
    assert row.lease_owner is None
    assert {r.attempts for r in place.objects(radar, hour) if r.state == "pending"} == {0}
    place.advance(minutes=1)
    assert place.catalog.due_partitions(radar.source_name) == (hour,)


def test_what_appears_while_a_backlog_is_worked_off_comes_first(place: World, radar: Model) -> None:
    """Else after an outage the newest radar image waits for all the old ones."""
    old = publish(place, radar, 60, hour=3)
    order: list[str] = []

    def report(made: Report, stop: threading.Event) -> None:
        assert not made.errors, made.errors
        order.append(made.partition)
        if len(order) == 1:
            publish(place, radar, 2, hour=1)
        if sum(row.state == "ingested" for row in place.objects(radar, old)) == 60:
            stop.set()

    follow(place, radar, report, interval=0.01)

    new = radar.partition_key(NOON - timedelta(hours=1))
    assert order[:2] == [old, new]
    assert order.count(old) == 4


def test_a_report_that_nobody_takes_does_not_end_the_feed(place: World, radar: Model) -> None:
    """Else an outage of Dagster ends the ingestion that does not need it."""
    made_at: list[str] = []
    publish(place, radar, 1, hour=1)

    def report(made: Report, stop: threading.Event) -> None:
        made_at.append(made.partition)
        if len(made_at) == 1:
            publish(place, radar, 1, hour=2)
            raise TransientError("Dagster is away")
        stop.set()

    follow(place, radar, report, interval=0.05)

    assert made_at == [radar.partition_key(NOON - timedelta(hours=h)) for h in (1, 2)]


def test_a_report_that_nobody_foresaw_ends_the_feed_aloud(place: World, radar: Model) -> None:
    """Else the process runs on and ingests nothing."""
    publish(place, radar, 1)

    def report(made: Report, stop: threading.Event) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        follow(place, radar, report)


def test_a_listing_that_fails_does_not_delay_what_is_known(place: World, radar: Model) -> None:
    """Else a bucket that may not be listed for an hour costs what was listed before."""
    publish(place, radar, 2)
    place.poll(radar)
    shutil.move(place.root / "mirror", place.root / "elsewhere")
    bucket = world(place.root, INGEST_WEATHER_ENDPOINT=(place.root / "elsewhere").as_uri()).rails.open_bucket
    reports: list[Report] = []

    class Unlisted:
        def __init__(self, name: str) -> None:
            self.read = bucket(name).read

        def list(self, prefix: str, *, start_after: str | None = None) -> object:
            raise SourceUnavailable(f"{prefix}: cannot be listed")

    def report(made: Report, stop: threading.Event) -> None:
        reports.append(made)
        if made.published:
            stop.set()

    place.rails = replace(place.rails, open_bucket=Unlisted)  # type: ignore[arg-type]
    follow(place, radar, report)

    assert "cannot be listed" in reports[0].errors[0]
    assert reports[1].published == 2


@pytest.mark.parametrize("status", [400, 403])
def test_a_bucket_that_refuses_blames_no_object(tmp_path: Path, radar: Model, status: int) -> None:
    """Else one wrong policy at the source quarantines a day of radar."""
    with faulty_server() as source:
        place = world(tmp_path, INGEST_WEATHER_ENDPOINT=source.endpoint)
        path = place.put_radar(radar, NOON)
        bucket = radar.sources[-1].bucket
        source.put(bucket, path.relative_to(place.root / "mirror" / bucket).as_posix(), path.read_bytes())
        place.poll(radar)
        source.rule = lambda request: Refuse(status) if request.key else None

        for _ in range(5):
            place.ingest(radar)
            place.advance(hours=1)
        (refused,) = place.objects(radar, radar.partition_key(NOON))
        source.rule = lambda _: None
        place.ingest(radar)

    assert (refused.state, refused.attempts) == ("pending", 0)
    assert f"refused with {status}" in (refused.error or "")
    assert place.states(radar, radar.partition_key(NOON)) == ["ingested"]


def test_an_object_that_the_settings_dropped_waits_for_them(place: World) -> None:
    """Else a mistake in a YAML file, found a day later, is paid with quarantine."""
    radar, hour = shipped("mrms"), shipped("mrms").partition_key(NOON)
    place.put_radar(radar, NOON, product=1)
    place.poll(radar)
    cut = radar.model_copy(update={"parameters": radar.parameters[:1]})

    for _ in range(5):
        place.ingest(cut)
        place.advance(hours=1)
    (dropped,) = place.objects(radar, hour)
    place.ingest(radar)

    assert (dropped.state, dropped.attempts) == ("pending", 0)
    assert "no longer in the configuration" in (dropped.error or "")
    assert place.states(radar, hour) == ["ingested"]


def test_half_an_object_without_inventory_is_seen_and_read_ever_more_rarely(place: World, gfs: Model) -> None:
    """Else half a gigabyte is read four times an hour until retention takes it, and nobody is told."""
    file = forecast(gfs, CYCLE, 3)
    place.put(gfs.sources[-1].bucket, key_of(gfs, CYCLE, 3), file.grib[:-200])
    place.put_lead(gfs, 4)

    reads = 0
    for _ in range(48 * 4):
        place.advance(minutes=15)
        if place.catalog.due_partitions(gfs.source_name) or not reads:
            reads += sum(report.postponed for report in place.ingest(gfs))
    now = CYCLE + timedelta(hours=48)
    partition = gfs.partition_key(CYCLE)

    assert reads <= 10
    assert sorted(place.states(gfs)) == ["ingested", "pending"]
    assert "not complete" in status_of(place.catalog, gfs, now).last_errors[0]
    verdict = completeness(gfs, place.catalog.coverage(gfs.source_name, partition=partition), now)
    assert not verdict.passed
    assert "2026-11-20T06: [0, 1, 2, 3, 5," in verdict.message

    place.put_lead(gfs, 3)
    place.ingest(gfs)
    assert sorted(place.states(gfs)) == ["ingested", "ingested", "superseded"]


def test_a_disk_that_is_not_mounted_is_never_taken_for_an_empty_store(place: World, radar: Model) -> None:
    """Else grids are written under the mount point, and hidden when the disk is back."""
    publish(place, radar, 2, hour=2)
    place.ingest(radar)
    store = place.rails.store.folder
    assert store is not None
    newest = publish(place, radar, 2, hour=1)

    away = store.rename(store.with_name("away"))
    store.mkdir()
    place.poll(radar)
    with pytest.raises(StoreUnavailable, match=r"expected the marker.*mounted"):
        list(feed.work_off(place.rails, radar, owner="feed"))
    assert list(store.iterdir()) == []
    store.rmdir()
    away.rename(store)

    (report,) = feed.work_off(place.rails, radar, owner="feed")
    assert (report.partition, report.published) == (newest, 2)
    assert {row.attempts for row in place.objects(radar, newest)} == {1}


def test_a_disk_that_goes_while_a_batch_is_written_publishes_nothing(place: World, radar: Model) -> None:
    """Else the ledger names a snapshot that lies under the mount point."""
    hour = publish(place, radar, 2)
    store = place.rails.store.folder
    assert store is not None

    def unmount(point: str) -> None:
        if point == "during fetch":
            shutil.copytree(store, store.with_name("beneath"), ignore=lambda *_: ["ledger-id"])
            store.rename(store.with_name("away"))
            store.with_name("beneath").rename(store)

    place.rails = replace(place.rails, at=unmount)
    place.poll(radar)
    with pytest.raises(StoreUnavailable, match="expected the marker"):
        ingest.ingest_partition(place.rails, radar, hour, owner="feed")

    assert place.catalog.published(radar.source_name, hour) is None
    assert {(row.state, row.attempts) for row in place.objects(radar, hour)} == {("pending", 0)}


@pytest.mark.case(35)
def test_what_the_source_answered_is_in_the_ledger(tmp_path: Path, radar: Model) -> None:
    """Else a throttled source is seen by nobody, because runs are too short to be scraped."""
    with faulty_server() as source:
        place = world(tmp_path, INGEST_WEATHER_ENDPOINT=source.endpoint)
        bucket = radar.sources[-1].bucket
        path = place.put_radar(radar, NOON)
        key = path.relative_to(place.root / "mirror" / bucket).as_posix()
        source.put(bucket, key, path.read_bytes())
        source.put(bucket, key.replace("1200", "1159"), gzip.compress(b"no weather"))
        tired = iter([Refuse(503, "0")])
        source.rule = lambda request: next(tired, None) if request.key else None

        place.ingest(radar)
        answered = len(source.requests)

    counted = {c.labels["code"]: c.value for c in place.catalog.counts() if c.name.startswith("source_http")}
    assert {c.labels.get("bucket") for c in place.catalog.counts() if c.name.startswith("source_http")} == {
        bucket
    }
    assert (counted["503"], counted["206"]) == (1, 2)
    assert sum(counted.values()) == answered


def test_one_look_holds_one_report_at_a_time(place: World, radar: Model) -> None:
    """Else a backfill of a month holds the pictures of all its hours."""
    publish(place, radar, 2, hour=1)
    publish(place, radar, 2, hour=2)

    reports = feed.once(place.rails, [radar], owner="cron")
    first = next(reports)

    assert (first.published, first.headline) == (2, None)
    assert len(place.catalog.due_partitions(radar.source_name)) == 1
    assert [r.published for r in reports] == [2]


def test_a_ledger_that_is_away_for_a_moment_costs_no_attempt(
    place: World, radar: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else three restarts of the database quarantine what was under way."""
    from ingest_platform_tests.crash.weather_worker import database_error

    hour = publish(place, radar, 2)
    place.poll(radar)
    monkeypatch.setattr(lease, "HAND_BACK_EVERY_SECONDS", 0.01)
    back_at = time.monotonic() + 0.3
    fail = place.catalog.fail

    def away(*_: object, **__: object) -> None:
        raise database_error("the server is away")

    monkeypatch.setattr(place.catalog, "commit", away)
    monkeypatch.setattr(
        place.catalog,
        "fail",
        lambda *told, **moved: fail(*told, **moved) if time.monotonic() > back_at else away(),
    )
    with pytest.raises(type(database_error(""))):
        ingest.ingest_partition(place.rails, radar, hour, owner="feed")

    assert {(row.state, row.attempts) for row in place.objects(radar, hour)} == {("pending", 0)}
    assert place.catalog.partitions()[0].lease_owner is None
