"""Ten thousand small objects, two workers that die and sleep, a source that fails in every way, a purge and a
reconcile that never rest: in the end the platform holds what a run holds that nothing happened to.
"""

import os
import random
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.settings import Settings
from ingest_platform.storage.store import Store, store_of
from ingest_platform.weather import feed
from ingest_platform.weather.discover import Cursor
from ingest_platform.weather.model import Model
from ingest_platform_tests.crash.weather_scene import check_rows
from ingest_platform_tests.faulty_server import FaultyServer, faulty_server
from ingest_platform_tests.pressure.soak import (
    Crew,
    End,
    Misbehaviour,
    Thing,
    crew,
    end_of,
    keep_house,
    soak_model,
    things,
    wait_until_settled,
)

OBJECTS = int(os.environ.get("INGEST_SOAK_OBJECTS", "10000"))
SEED = int(os.environ.get("INGEST_SOAK_SEED", "20261121"))
WORKERS = 2
# Published from the start; the rest comes while the trouble lasts.
AT_FIRST = 0.7
UNDER_TROUBLE = 0.85  # of all objects, before the trouble ends
HOURS_PURGED = 2  # the oldest, which the source still lists
# Far beyond the longest lease and wait: whoever moves nothing for so long is stuck.
STUCK_SECONDS = 90.0


@pytest.mark.timeout(1500)
def test_ten_thousand_objects_end_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Else a year of radar has holes that no single accident explains."""
    model = soak_model(tmp_path / "models")
    last = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    objects = things(model, OBJECTS, last, random.Random(SEED))
    oldest = model.partition_start(model.partition_key(objects[-1].valid))
    purge_before = oldest + timedelta(hours=HOURS_PURGED)
    print(f"seed {SEED}, {OBJECTS} objects, {len({o.valid.hour for o in objects})} hours")  # noqa: T201
    with faulty_server() as source:
        began = time.monotonic()
        suffered = spoiled_run(tmp_path, source, model, objects, purge_before)
        between = time.monotonic()
        calm = calm_run(tmp_path, source, model, objects)
        walls = f"spoiled {between - began:.0f} s, calm {time.monotonic() - between:.0f} s"
        print(f"{walls}; {processor()}")  # noqa: T201

    lasting = {o.key for o in objects if o.valid >= purge_before}
    first_kept = model.partition_key(purge_before)
    kept = {name: crc for name, crc in calm.grids.items() if name >= first_kept}
    assert suffered.open == {partition for partition in calm.open if partition >= first_kept}
    assert suffered.counters["partitions_purged_total"] == HOURS_PURGED == len(calm.open - suffered.open)
    assert suffered.states == {key: state for key, state in calm.states.items() if key in lasting}
    assert suffered.grids == kept
    assert set(suffered.states.values()) == {"ingested", "quarantined"}


def spoiled_run(
    root: Path, source: FaultyServer, model: Model, objects: list[Thing], purge_before: datetime
) -> End:
    """The run that everything happens to; its final state, once it is left alone and has read everything."""
    chance, stop = random.Random(SEED + 1), threading.Event()
    condemned = [o for o in objects if o.valid < purge_before]
    lasting = [o for o in objects if o.valid >= purge_before]
    publish(source, condemned, earlier=True)
    with (
        crew(root / "spoiled", source, root / "models", WORKERS) as workers,
        ThreadPoolExecutor(1) as housekeeping,
    ):
        settings = Settings.from_environment(workers.environ)
        Catalog.open(settings.catalog_url).close()
        assert wait_until_settled(settings, model, [o.key for o in condemned], STUCK_SECONDS), workers.logs()
        publish(source, lasting[int(len(lasting) * (1 - AT_FIRST)) :], earlier=True)
        misbehaviour = source.rule = Misbehaviour({o.key: o for o in lasting}, random.Random(SEED + 2))
        keep = datetime.now(UTC) - purge_before - timedelta(seconds=1)
        house = housekeeping.submit(keep_house, settings, model, keep, stop)
        try:
            torment(source, workers, chance, lasting[: int(len(lasting) * (1 - AT_FIRST))], settings, model)
            source.rule = lambda _: None
            publish(source, lasting, earlier=False)
            settled = wait_until_settled(settings, model, [o.key for o in lasting], STUCK_SECONDS)
        finally:
            stop.set()
            house.result()
        assert settled, workers.logs()
        if victims := requeue_victims(settings, model):
            assert wait_until_settled(settings, model, [o.key for o in lasting], STUCK_SECONDS), (
                workers.logs()
            )
        assert workers.dismiss() == [0] * WORKERS, workers.logs()
    look_once_more(settings, model)
    print(f"faults {dict(misbehaviour.told)}")  # noqa: T201
    print(f"workers {dict(workers.deaths)}, objects requeued after three deaths: {victims}")  # noqa: T201
    check_bytes(settings, model)
    return end_of(settings, model)


def torment(
    source: FaultyServer,
    workers: Crew,
    chance: random.Random,
    rest: list[Thing],
    settings: Settings,
    model: Model,
) -> None:
    """Publish the rest in steps while workers die and sleep, until most objects are in all the same."""
    steps = 8
    for step in count():
        publish(source, rest[step::steps] if step < steps else [], earlier=True)
        time.sleep(chance.uniform(3, 6))
        workers.suffer(chance)
        done = end_counts(settings, model).get("ingested", 0)
        if step >= steps and done >= UNDER_TROUBLE * OBJECTS:
            return


def requeue_victims(settings: Settings, model: Model) -> int:
    """An object in whose presence three workers died is taken for their murderer; here it was us.

    In life a person says so. Returns how many there were; any other good object in quarantine stays there,
    and is found by the comparison.
    """
    with Catalog.open(settings.catalog_url) as catalog:
        partitions = [row.partition for row in catalog.partitions(model.source_name)]
        rows = [row for partition in partitions for row in catalog.objects(model.source_name, partition)]
        victims = [
            row for row in rows if row.state == "quarantined" and "the worker died" in (row.error or "")
        ]
        for partition in {row.partition for row in victims}:
            catalog.requeue(model.source_name, partition)
    return len(victims)


def calm_run(root: Path, source: FaultyServer, model: Model, objects: list[Thing]) -> End:
    """The same crew on the same source, and nothing happens."""
    with crew(root / "calm", source, root / "models", WORKERS) as workers:
        settings = Settings.from_environment(workers.environ)
        assert wait_until_settled(settings, model, [o.key for o in objects], STUCK_SECONDS), workers.logs()
    return end_of(settings, model)


def processor() -> str:
    """What it cost, on however busy a machine."""
    workers, own = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    seconds = [usage.ru_utime + usage.ru_stime for usage in (workers, own)]
    return f"CPU of workers {seconds[0]:.0f} s, of source and housekeeping {seconds[1]:.0f} s"


def publish(source: FaultyServer, objects: list[Thing], *, earlier: bool) -> None:
    """`earlier`: of two versions the first one, which gives way to the second when it is read."""
    for thing in objects:
        body = thing.earlier if earlier and thing.earlier is not None else thing.body
        if earlier or source.buckets[thing.bucket][thing.key].body != body:
            source.put(thing.bucket, thing.key, body, datetime.now(UTC))


def look_once_more(settings: Settings, model: Model) -> None:
    """The hourly full pass, at once: it sees what was published again after the last one."""
    with feed.open_rails(settings) as rails:
        rails.catalog.keep_cursor(model.source_name, Cursor().text())
        for report in feed.once(rails, [model], owner="last"):
            assert report.partition, report.errors


def end_counts(settings: Settings, model: Model) -> dict[str, int]:
    with Catalog.open(settings.catalog_url) as catalog:
        return dict(catalog.overview(model.source_name).objects)


def check_bytes(settings: Settings, model: Model) -> None:
    """What the ledger names lies in the store, bit for bit."""
    store: Store = store_of(settings)
    with Catalog.open(settings.catalog_url) as catalog:
        for row in catalog.partitions(model.source_name):
            if (named := catalog.published(model.source_name, row.partition)) is not None:
                check_rows(store, named)
