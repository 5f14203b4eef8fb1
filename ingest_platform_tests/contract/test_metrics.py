"""Metrics over the real ledger, on both dialects, and over what real ingests and purges leave in it."""

from collections.abc import Mapping
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, select

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.tables import artifact
from ingest_platform.operations.metrics import render
from ingest_platform.settings import Settings
from ingest_platform_tests.contract.ledger_world import SOURCE, World, cycles, end_of, grid, sighting
from ingest_platform_tests.status_world import models
from ingest_platform_tests.weather_world import CYCLE, NOON, key_of, pocket
from ingest_platform_tests.weather_world import World as WeatherWorld

MODELS = list(models().values())
VALID = NOON - timedelta(minutes=10)

Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


def counters(catalog: Catalog) -> Samples:
    """Everything in the exposition that may only grow."""
    text = render(catalog, MODELS, now=NOON).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        if family.type in ("counter", "histogram")
        for sample in family.samples
    }


def total(samples: Samples, name: str, **labels: str) -> float:
    return sum(v for (n, of), v in samples.items() if n == name and labels.items() <= dict(of).items())


@pytest.mark.case(35)
def test_the_bytes_freed_are_the_sum_of_the_sizes_purged(ledger: World) -> None:
    """Else nobody can tell from the metrics whether the store's growth is explained."""
    sizes = {}
    for number, key in enumerate(cycles(3)):
        names = [f"{key}/f{lead:03d}" for lead in range(number + 2)]
        ledger.seen(*(sighting(f"{key}/{n}", partition=key, slot=n) for n in names))
        claim = ledger.claimed(key)
        ledger.commit(claim)
        sizes[key] = sum(grid(name).size_bytes for name in names)

    ledger.purged(cycles(3)[1])
    freed = counters(ledger.catalog)

    assert total(freed, "purge_bytes_freed_total") == sizes[cycles(3)[0]] + sizes[cycles(3)[1]]
    assert total(freed, "purge_files_deleted_total") == 2 + 3
    assert total(freed, "purge_partitions_deleted_total", model="gfs") == 2
    assert stored_bytes(ledger.url) == sizes[cycles(3)[2]]


def stored_bytes(url: str) -> int:
    engine = create_engine(url)
    with engine.connect() as tx:
        sizes = tx.scalars(select(artifact.c.size_bytes)).all()
    engine.dispose()
    return sum(sizes)


@pytest.mark.case(35)
def test_counters_never_go_back_whatever_happens_and_whoever_asks(ledger: World) -> None:
    """A counter that falls looks like a restart to Prometheus, and it adds everything once more."""
    before = counters(ledger.catalog)

    for happens in (
        lambda: ledger.ingested(sighting("f000")),
        lambda: ledger.ingested(sighting("f000", "e2", minute=1)),
        lambda: ledger.purged(),
        lambda: ledger.catalog.forget(SOURCE),
    ):
        happens()
        # Another process: nothing is remembered but what is in the ledger.
        with Catalog.open(ledger.url) as fresh:
            after = counters(fresh)
        assert {name: value for name, value in before.items() if after.get(name, -1) < value} == {}
        before = after

    assert total(before, "files_ingested_total", model="gfs") == 2


def test_the_gauges_of_one_source_are_its_own(ledger: World) -> None:
    """Else the alarm names the wrong model."""
    ledger.seen(sighting("f000"), sighting("f001"))

    text = render(ledger.catalog, MODELS, now=end_of(cycles(1)[0])).decode()

    assert 'ingest_queue_depth{model="gfs",state="due"} 2.0' in text
    assert 'ingest_queue_depth{model="hrrr"' not in text  # its source was never listed
    assert 'ingest_partitions{model="gfs",state="open"} 1.0' in text


@pytest.mark.case(35)
def test_an_ingest_counts_its_batch_its_files_and_their_way_to_the_reader(place: WeatherWorld) -> None:
    """Scraped while nothing runs: the run that counted is over, and its process with it."""
    mrms = pocket("mrms", ["reflectivity_composite"])
    place.put_radar(mrms, VALID)
    place.put_radar(mrms, VALID + timedelta(minutes=2))
    place.advance(seconds=20)

    place.ingest(mrms)
    with Catalog.open(Settings.from_environment(place.environ).catalog_url) as another:
        counted = counters(another)

    assert total(counted, "ingestion_runs_total", model="mrms") == 1
    assert total(counted, "ingestion_runs_total", model="mrms", status="success") == 1
    assert total(counted, "ingestion_duration_seconds_count", model="mrms") == 1
    assert total(counted, "files_ingested_total", model="mrms") == 2
    assert total(counted, "publish_to_visible_seconds_count", model="mrms") == 2
    # Uploaded 21 and 20 s before the commit.
    assert total(counted, "publish_to_visible_seconds_sum", model="mrms") == 41
    assert total(counted, "publish_to_visible_seconds_bucket", model="mrms", le="15") == 0
    assert total(counted, "publish_to_visible_seconds_bucket", model="mrms", le="30") == 2


def test_a_damaged_file_counts_as_a_failure_and_its_message_by_reason(place: WeatherWorld) -> None:
    """Else the alarm over failing batches never sounds."""
    mrms = pocket("mrms", ["reflectivity_composite"])
    whole = place.put_radar(mrms, VALID).read_bytes()
    place.put_radar(mrms, VALID, content=whole[: len(whole) // 2])

    place.ingest(mrms)
    counted = counters(place.catalog)

    assert total(counted, "ingestion_runs_total", model="mrms", status="failure") == 1
    assert total(counted, "ingest_attempts_total", model="mrms", outcome="failed") == 1
    assert total(counted, "publish_to_visible_seconds_count", model="mrms") == 0


def test_a_rejected_message_among_good_ones_is_counted_with_the_commit(place: WeatherWorld) -> None:
    """Its neighbours are published, so nothing else would tell."""
    gfs = pocket("gfs")
    whole = place.put_lead(gfs, 3).read_bytes()
    damaged = whole.replace(b"7777", b"OOPS", 1)
    place.put(gfs.sources[-1].bucket, key_of(gfs, CYCLE, 3), damaged)

    place.ingest(gfs)
    counted = counters(place.catalog)

    assert total(counted, "ingestion_runs_total", model="gfs", status="partial") == 1
    assert total(counted, "messages_rejected_total", model="gfs", reason="framing") == 1
    assert total(counted, "files_ingested_total", model="gfs") == 1
