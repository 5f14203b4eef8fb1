"""A scrape costs the same over a million ledger rows as over none: at most 50 ms.

`python -m benchmarks.metrics [--rounds 30]`, with the tests' servers installed. On SQLite and on PostgreSQL
a day of all five models, once alone and once on top of a million older objects, all but a few with a grid.
Beside the scrape the status page, which people open and nobody polls.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median

import click

from benchmarks.databases import DATABASES
from benchmarks.measure import Claim, measure, tell
from ingest_platform.catalog import engine as database
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.operations.metrics import render
from ingest_platform.operations.page import page
from ingest_platform_tests.contract.ledger_crowd import fill
from ingest_platform_tests.status_world import NOW, StatusWorld, live_a_day, models

OLDER_OBJECTS = {"0": 0, "1M": 1_000_000}
SCRAPE_MS = 50.0


@click.command()
@click.option("--rounds", default=30, show_default=True)
def main(rounds: int) -> None:
    """Fill, measure and tell, database by database."""
    for name, databases in DATABASES.items():
        with databases(OLDER_OBJECTS) as urls:
            for size, url in urls.items():
                _fill(url, OLDER_OBJECTS[size])
            done = measure("benchmarks.metrics:look", {"urls": urls, "rounds": rounds})
        _tell(name, done.result)


def _fill(url: str, older: int) -> None:
    engine = database.connect(url)
    database.upgrade(engine)
    if older:
        fill(engine, older)
    engine.dispose()
    world = StatusWorld(url)
    live_a_day(world)
    world.close()


def _tell(name: str, found: Mapping[str, Mapping[str, float]]) -> None:
    """`found`: milliseconds by what is looked at and older objects."""
    scrape = found["scrape"]
    tell(
        Claim(
            f"metrics on {name}: ms a scrape, by older objects in the ledger",
            scrape, None, scrape["1M"] / scrape["0"], f"≤ {SCRAPE_MS:g} ms at 1M", scrape["1M"] <= SCRAPE_MS,
        )
    )  # fmt: skip
    click.echo(f"  the status page: {dict(found['page'])} ms")


def look(urls: Mapping[str, str], rounds: int) -> Callable[[], dict[str, dict[str, float]]]:
    """Milliseconds of a scrape and of a page, by size; the ledgers take turns."""
    catalogs = {size: Catalog.open(url) for size, url in urls.items()}
    known = list(models().values())
    looks: Mapping[str, Callable[[Catalog], object]] = {
        "scrape": lambda catalog: render(catalog, known, now=NOW),
        "page": lambda catalog: page(catalog, known, now=NOW),
    }

    def work() -> dict[str, dict[str, float]]:
        taken: dict[str, dict[str, list[float]]] = {kind: {size: [] for size in urls} for kind in looks}
        # The first round warms what a server keeps warm.
        for number in range(rounds + 1):
            for size, catalog in catalogs.items():
                for kind, look_at in looks.items():
                    began = time.perf_counter()
                    look_at(catalog)
                    taken[kind][size] += [1_000 * (time.perf_counter() - began)] if number else []
        return {
            kind: {name: round(ms, 1) for size, times in by_size.items() for name, ms in _told(size, times)}
            for kind, by_size in taken.items()
        }

    return work


def _told(size: str, times: Sequence[float]) -> Iterator[tuple[str, float]]:
    yield size, median(times)
    # What it costs when nothing else wants the processor: on a busy machine the median is the machine's.
    yield f"{size}, fastest", min(times)


if __name__ == "__main__":
    main()
