"""The dry run names exactly what the purge then takes, whatever happened before, and changes nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, select

from ingest_platform.catalog.tables import metadata
from ingest_platform.operations.retention import Policy, plan, rows
from ingest_platform.storage.store import open_store
from ingest_platform_tests.contract.ledger_world import (
    LEASE,
    cycles,
    empty_postgresql,
    end_of,
    fresh_sqlite,
    sighting,
    world,
)
from ingest_platform_tests.contract.retention_world import Shelf

SOURCES = ("weather.gfs", "weather.hrrr")
CYCLES = cycles(5)
NOW = end_of(CYCLES[-1])
STEPS = ("see", "claim", "ingest", "pin", "mark", "purge", "wait")

Step = tuple[str, str, str]  # what, to which source, to which cycle
steps = st.lists(
    st.tuples(st.sampled_from(STEPS), st.sampled_from(SOURCES), st.sampled_from(CYCLES)), max_size=14
)
rules = st.tuples(*(st.tuples(st.integers(-1, 5), st.integers(0, 2)) for _ in SOURCES))

# A purge that died, a worker at work, a pin, a tombstone, and partitions to take and to keep.
BUSY: list[Step] = [
    *(("ingest", source, key) for source in SOURCES for key in CYCLES[:4]),
    ("purge", SOURCES[0], CYCLES[0]),
    ("mark", SOURCES[0], CYCLES[1]),
    ("wait", "", ""),
    ("pin", SOURCES[0], CYCLES[0]),
    ("claim", SOURCES[1], CYCLES[1]),
    ("see", SOURCES[1], CYCLES[4]),
]


@pytest.mark.case(26)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, rules=rules)
@example(steps=BUSY, rules=((0, 1), (1, 0)))
def test_a_purge_takes_exactly_what_the_dry_run_said(
    ledger_url: str, sqlite_template: Path, steps: list[Step], rules: tuple[tuple[int, int], ...]
) -> None:
    """Else a person approves one list and loses another."""
    policies = [
        Policy(source, 6 * hours * timedelta(hours=1), keep_latest)
        for source, (hours, keep_latest) in zip(SOURCES, rules, strict=True)
    ]
    with _after(steps, ledger_url, sqlite_template) as shelf:
        before, stored, counted = _dump(shelf), _stored(shelf), _bytes_purged(shelf)

        planned = plan(shelf.ledger.catalog, policies, now=NOW)
        again = plan(shelf.ledger.catalog, policies, now=NOW)
        after_plan = (_dump(shelf), _stored(shelf))
        purged = shelf.purge(*policies, now=NOW)

        assert again == planned
        assert after_plan == (before, stored)
        assert rows(purged.done) == rows(planned)
        assert purged.error is None
        assert stored - _stored(shelf) == {found.uri for found in planned} & stored
        assert _bytes_purged(shelf) - counted == sum(found.size_bytes for found in planned)
        assert plan(shelf.ledger.catalog, policies, now=NOW) == ()


@contextmanager
def _after(steps: list[Step], url: str, template: Path) -> Iterator[Shelf]:
    """A ledger and a folder to which all this happened."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        url = fresh_sqlite(template, folder) if url.startswith("sqlite") else empty_postgresql(url)
        with world(url) as ledger:
            ledger.clock.at = NOW
            shelf = Shelf(ledger, open_store((folder / "data").as_uri()))
            shelf.store.bind(ledger.catalog.ledger_id)
            for number, (what, source, key) in enumerate(steps):
                _do(shelf, number, what, source, key)
            yield shelf


def _do(shelf: Shelf, number: int, what: str, source: str, key: str) -> None:
    """One step, as far as the ledger lets it."""
    catalog = shelf.ledger.catalog
    match what:
        case "wait":
            shelf.ledger.clock.advance(LEASE)
        case "pin":
            catalog.admit(source, key, end_of(key))
        case "mark" | "purge":
            for marked in catalog.expire(
                source, cutoff=end_of(key), keep_latest=0, owner="dead", lease=LEASE, limit=2
            ):
                if what == "purge":
                    if marked.uri is not None:
                        shelf.store.delete_tree(marked.uri)
                    catalog.erase(marked)
        case _:
            catalog.see(source, [sighting(f"{source}/{key}/{number}", partition=key, slot=f"{number}")])
            if what == "see":
                return
            claim = catalog.claim(source, key, owner="worker", lease=LEASE)
            if claim is not None:
                shelf.write(claim)
                if what == "ingest":
                    shelf.ledger.commit(claim)


def _dump(shelf: Shelf) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    engine = create_engine(shelf.ledger.url)
    with engine.connect() as connection:
        found = {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
        }
    engine.dispose()
    return found


def _stored(shelf: Shelf) -> set[str]:
    return set(shelf.store.list_uris())


def _bytes_purged(shelf: Shelf) -> float:
    return shelf.ledger.count("bytes_purged_total")
