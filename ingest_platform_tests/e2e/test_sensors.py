"""A tick asks for what is due, once; what it could not find out it says by failing, and marks nothing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import dagster as dg
import pytest
import sqlalchemy as sa
from sqlalchemy import ColumnElement, literal
from sqlalchemy.exc import OperationalError

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Sighting
from ingest_platform.catalog.tables import UtcTime
from ingest_platform.errors import SourceUnavailable
from ingest_platform.storage.store import store_of
from ingest_platform.weather.defs import HOLD_OFF, definitions
from ingest_platform_tests.e2e.place import Place, recently
from ingest_platform_tests.services.processes import free_port


@dataclass
class Ticking:
    """The radar's sensor on a place of its own; its ledger has a clock that only the test moves."""

    place: Place
    at: datetime = field(default_factory=recently)
    reason: str = ""  # why the last tick asked for nothing

    def __post_init__(self) -> None:
        self.catalog = Catalog.open(self.place.settings.catalog_url, now=self._clock)
        self.instance = dg.DagsterInstance.ephemeral()

    def _clock(self) -> ColumnElement[datetime]:
        return literal(self.at, UtcTime())

    def tick(self, **settings: str) -> list[tuple[str | None, str | None]]:
        """Run keys and partitions that one tick asks for; raises what Dagster would show as its failure."""
        read = self.place.with_settings(**settings).settings
        parts = {"catalog": self.catalog, "store": store_of(read), "settings": read}
        sensors = {sensor.name: sensor for sensor in definitions(self.place.environ).sensors or ()}
        asked = sensors["mrms_sensor"](dg.build_sensor_context(instance=self.instance, resources=parts))
        match asked:
            case dg.SensorResult(run_requests=[*requests]):
                return [(request.run_key, request.partition_key) for request in requests]
            case dg.SkipReason(skip_message=reason):
                self.reason = reason or ""
                return []
        raise AssertionError(f"a tick answers with requests or a reason, not with {asked!r}")


@pytest.fixture
def ticking(place: Place) -> Iterator[Ticking]:
    """An hour of radar lies in the bucket, nobody has looked yet."""
    place.publish("mrms")
    ticking = Ticking(place)
    yield ticking
    ticking.catalog.close()


def test_a_second_tick_asks_for_nothing(ticking: Ticking) -> None:
    """Else every tick of a busy minute starts a run that finds nothing to do."""
    first = ticking.tick()

    second = ticking.tick()

    assert len(first) == 1
    assert second == []


def test_a_request_that_came_to_nothing_is_made_again(ticking: Ticking) -> None:
    """A run that died before its claim would otherwise be the last one: Dagster never forgets a run key."""
    [(first_key, partition)] = ticking.tick()

    ticking.at += HOLD_OFF + timedelta(seconds=1)
    [(second_key, again)] = ticking.tick()

    assert again == partition
    assert second_key != first_key


def test_what_was_ingested_is_not_asked_for_again(ticking: Ticking) -> None:
    """The ledger decides, not the number of ticks: without due work there is no run."""
    [(_, partition)] = ticking.tick()
    assert partition is not None
    claim = ticking.catalog.claim("weather.mrms", partition, owner="a run")
    assert claim is not None

    ticking.at += HOLD_OFF + timedelta(seconds=1)

    assert ticking.tick() == []


def test_a_fresh_ledger_on_an_old_instance_is_worked_off(ticking: Ticking) -> None:
    """Dagster never runs a key twice: the new ledger's first requests would be dropped without a word."""
    [(old_key, partition)] = ticking.tick()
    ticking.catalog.close()
    (ticking.place.home / "catalog.db").unlink()
    shutil.rmtree(ticking.place.home / "data")

    fresh = Ticking(ticking.place)
    [(new_key, again)] = fresh.tick()
    fresh.catalog.close()

    assert again == partition
    assert new_key != old_key


def test_what_dagster_has_no_partition_for_is_named(ticking: Ticking) -> None:
    """Due work that no run takes must not pass for nothing due; and it must not stop what can run."""
    old = ticking.at - timedelta(days=500)
    model = ticking.place.models["mrms"]
    partition = model.partition_key(old)
    ticking.catalog.admit(model.source_name, partition, model.partition_end(partition))
    seen = Sighting("b", "k", "e", 1, old, partition, model.partition_end(partition), "slot")
    assert ticking.catalog.see(model.source_name, [seen]) == 1

    [(_, asked)] = ticking.tick()
    ticking.at += HOLD_OFF + timedelta(seconds=1)
    assert asked is not None
    assert ticking.catalog.claim(model.source_name, asked, owner="a run") is not None

    assert asked != partition
    assert ticking.tick() == []
    assert partition in ticking.reason
    assert "`ingest once` takes them" in ticking.reason


def test_a_listing_that_fails_fails_the_tick(ticking: Ticking) -> None:
    """An unreachable source must not look like a quiet day."""
    with pytest.raises(SourceUnavailable, match="noaa-mrms-pds"):
        ticking.tick(INGEST_WEATHER_ENDPOINT=f"http://127.0.0.1:{free_port()}", MAX_RETRIES="0")

    assert ticking.catalog.cursor("weather.mrms") is None
    assert ticking.catalog.partitions("weather.mrms") == ()
    assert len(ticking.tick()) == 1


@pytest.mark.case(30)
def test_a_database_outage_fails_the_tick_and_marks_nothing(place: Place, fresh_database: str) -> None:
    """Read as "nothing known" it would ingest everything twice, read as "nothing due" it would hide."""
    place.publish("mrms")
    ticking = Ticking(place.with_settings(INGEST_CATALOG_URL=fresh_database))

    with outage(fresh_database), pytest.raises(OperationalError):
        ticking.tick()

    assert ticking.catalog.cursor("weather.mrms") is None
    assert ticking.catalog.partitions("weather.mrms") == ()
    assert len(ticking.tick()) == 1
    ticking.catalog.close()


@contextmanager
def outage(url: str) -> Iterator[None]:
    """The server ends all connections to this database and takes no new ones."""
    there = sa.make_url(url)
    engine = sa.create_engine(there.set(database="postgres"), isolation_level="AUTOCOMMIT")
    kill = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    with engine.connect() as admin:
        admin.execute(sa.text(f"ALTER DATABASE {there.database} ALLOW_CONNECTIONS false"))
        admin.execute(kill, {"name": there.database})
        yield
        admin.execute(sa.text(f"ALTER DATABASE {there.database} ALLOW_CONNECTIONS true"))
    engine.dispose()
