"""Claim (c): what the ledger costs does not grow with what was ingested.

`python -m benchmarks.ledger_at_scale [--rounds 60]`, with the tests' servers installed. On SQLite and on
PostgreSQL a thousand, a hundred thousand and a million objects, all but a few with a grid:

- file: see, claim and commit of one file with 86 grids, three transactions;
- tick: what a sensor asks of it when a listing of a thousand keys shows nothing new: see, keep_cursor,
  request (in the smallest a listing of two hundred, for it has no more of one source);
- gauges: what the exporter reads in each scrape;
- purge: expire and erase of 100,000 grids, in batches as retention makes them.

The ledgers take turns, file by file: what else the machine does meanwhile falls on all three alike.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from statistics import median

import click

from benchmarks.databases import DATABASES
from benchmarks.measure import Claim, measure, tell
from ingest_platform.catalog import engine as database
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Artifact, Published, Sighting
from ingest_platform_tests.contract.ledger_crowd import NEWEST, OBJECTS_PER_PARTITION, SOURCES, fill, key_of

SIZES = {"1k": 1_000, "100k": 100_000, "1M": 1_000_000}
SOURCE = SOURCES[0]
GRIDS_PER_FILE = 86  # a GFS lead of the shipped selection
FILES_PER_PARTITION = 209  # a GFS cycle
KEYS_PER_LISTING = 1_000
BATCH_PARTITIONS = 32  # operations.retention
PURGED_GRIDS = 100_000

# The last is the goal of a whole purge, its deletions in the store included: claim (f).
FILE_RATIO, TICK_SECONDS, GAUGES_MS, PURGE_SECONDS = 1.2, 1.0, 50.0, 60.0


@click.command()
@click.option("--rounds", default=60, show_default=True)
def main(rounds: int) -> None:
    """Fill, measure and tell, database by database."""
    for name, databases in DATABASES.items():
        with databases(SIZES) as urls:
            for size, url in urls.items():
                _fill(url, SIZES[size])
            done = measure("benchmarks.ledger_at_scale:take_turns", {"urls": urls, "rounds": rounds})
            purged = measure("benchmarks.ledger_at_scale:purge", {"url": urls["1M"]})
        _tell(name, done.result, purged.wall_seconds)


def _fill(url: str, objects: int) -> None:
    engine = database.connect(url)
    database.upgrade(engine)
    fill(engine, objects)
    engine.dispose()


def _tell(name: str, found: Mapping[str, Mapping[str, float]], purge_seconds: float) -> None:
    """`found`: median milliseconds by verb and size."""
    file, tick, gauges = found["file"], found["tick"], found["gauges"]
    ratio = file["1M"] / file["1k"]
    claims = (
        Claim(
            f"ledger on {name}: ms a file of {GRIDS_PER_FILE} grids, by objects in the ledger",
            file, None, ratio, f"1M : 1k ≤ {FILE_RATIO}", ratio <= FILE_RATIO,
        ),
        Claim(
            f"ledger on {name}: ms a sensor's tick that finds nothing new",
            tick, None, None, f"≤ {TICK_SECONDS:g} s at 100k", tick["100k"] <= 1_000 * TICK_SECONDS,
        ),
        Claim(
            f"ledger on {name}: ms for the gauges of a scrape",
            gauges, None, None, f"≤ {GAUGES_MS:g} ms at 1M", gauges["1M"] <= GAUGES_MS,
        ),
        Claim(
            f"ledger on {name}: s to mark and erase {PURGED_GRIDS:,} grids of a million",
            {"1M": round(purge_seconds, 1)}, None, None, f"≤ {PURGE_SECONDS:g} s",
            purge_seconds <= PURGE_SECONDS,
        ),
    )  # fmt: skip
    for claim in claims:
        tell(claim)


# What is measured, each in a process of its own.


def take_turns(urls: Mapping[str, str], rounds: int) -> Callable[[], dict[str, dict[str, float]]]:
    """Median milliseconds of each kind of work, by size."""
    catalogs = {size: Catalog.open(url) for size, url in urls.items()}
    listings = {size: _listing(SIZES[size]) for size in urls}

    def work() -> dict[str, dict[str, float]]:
        taken: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        # The first round warms the caches, which a worker, a sensor and an exporter keep.
        for number in range(rounds + 1):
            for size, catalog in catalogs.items():
                for kind, seconds in _turn(catalog, listings[size], number):
                    taken[kind][size] += [1_000 * seconds] if number else []
        return {
            kind: {size: round(median(times), 2) for size, times in by_size.items()}
            for kind, by_size in taken.items()
        }

    return work


def _turn(catalog: Catalog, listing: list[Sighting], number: int) -> Iterator[tuple[str, float]]:
    began = time.perf_counter()
    _file(catalog, number)
    yield "file", time.perf_counter() - began
    began = time.perf_counter()
    _tick(catalog, listing, number)
    yield "tick", time.perf_counter() - began
    began = time.perf_counter()
    catalog.gauges()
    yield "gauges", time.perf_counter() - began


def _file(catalog: Catalog, number: int) -> None:
    cycle, lead = divmod(number, FILES_PER_PARTITION)
    key = key_of(-1 - cycle)
    name = f"{key}/f{lead:03}"
    end = NEWEST + timedelta(hours=1 + cycle)
    catalog.see(SOURCE, [Sighting("noaa", name, "e1", 1_000, end, key, end, name)])
    claim = catalog.claim(SOURCE, key, owner="bench")
    if claim is None:
        raise RuntimeError(f"{key}: nothing to claim")
    catalog.commit(claim, "s", [Published(held, _grids(held.slot)) for held in claim.objects])


def _grids(slot: str) -> tuple[Artifact, ...]:
    return tuple(Artifact(f"{slot}/{i}", 10, "crc32:0", "1", _details(i)) for i in range(GRIDS_PER_FILE))


def _details(number: int) -> dict[str, object]:
    box = {"west": 0.0, "south": -90.0, "east": 360.0, "north": 90.0}
    times = {"reference_time": NEWEST, "valid_time": NEWEST, "lead_seconds": 0}
    words = {"model": "gfs", "parameter": "TMP", "level": f"{number} mb", "window": "instant"}
    variable = f"variable_{number % 30}"
    where = {"variable": variable, "array": f"/{variable}", "time_index": 0, "level_index": None}
    return {**box, **times, **words, **where}


def _listing(objects: int) -> list[Sighting]:
    """The newest objects of the source, all of them known."""
    each = objects // OBJECTS_PER_PARTITION // len(SOURCES)
    found = []
    for age in range(min(each, KEYS_PER_LISTING // OBJECTS_PER_PARTITION)):
        key, end = key_of(age), NEWEST - timedelta(hours=age)
        names = (f"{key}/f{number}" for number in range(OBJECTS_PER_PARTITION))
        found += [Sighting("noaa", name, "e1", 1_000, end, key, end, name) for name in names]
    return found


def _tick(catalog: Catalog, listing: list[Sighting], number: int) -> None:
    if catalog.see(SOURCE, listing):
        raise RuntimeError("the listing was to show nothing new")
    catalog.keep_cursor(SOURCE, f"page {number}")
    catalog.request(SOURCE)


def purge(url: str) -> Callable[[], int]:
    """Mark and erase, as retention does, but without a store."""
    catalog = Catalog.open(url)
    partitions = PURGED_GRIDS // OBJECTS_PER_PARTITION
    each = SIZES["1M"] // OBJECTS_PER_PARTITION // len(SOURCES)
    cutoff = NEWEST - timedelta(hours=each - partitions - 1)

    def work() -> int:
        left = partitions
        while left:
            marked = catalog.expire(
                SOURCE, cutoff=cutoff, keep_latest=2, owner="bench", limit=min(left, BATCH_PARTITIONS)
            )
            for one in marked:
                catalog.erase(one)
            left -= len(marked)
        return catalog.forget(SOURCE)

    return work


if __name__ == "__main__":
    main()
