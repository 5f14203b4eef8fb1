"""No verb reads what was ingested: shown by the plans of both databases over a crowded ledger."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, text

from ingest_platform.catalog import engine as database
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.tables import metadata
from ingest_platform_tests.contract.ledger_crowd import SOON, fill
from ingest_platform_tests.contract.ledger_plans import BIG, Plan, Played, explain, play
from ingest_platform_tests.contract.ledger_world import PlayedClock, fresh_sqlite
from ingest_platform_tests.services.postgres import fresh_database

# Enough for PostgreSQL to prefer its indexes; SQLite, which keeps no statistics, always does.
OBJECTS = 20_000

SLOT = "ix_source_object_partition_id_slot"
DUE = "ix_source_object_due"
PENDING = "ix_source_object_pending"
QUARANTINED = "ix_source_object_quarantined"
OF_PARTITION = "uq_artifact_partition_id_name"

# What each verb cannot do without.
INTENDED: dict[str, set[str]] = {
    "see": {SLOT, "uq_source_object_source_bucket_key_etag"},
    "request": {DUE},
    "has_due": {DUE},
    "due_partitions": {DUE},
    "claim": {DUE},
    "commit": {SLOT, "ix_artifact_source_object_id"},
    "fail": set(),  # by primary key alone
    "requeue": {QUARANTINED, SLOT},
    "expirable": {OF_PARTITION},
    "expire": {OF_PARTITION},
    "erase": {OF_PARTITION, SLOT},
    "repair": {OF_PARTITION, SLOT},
    "gauges": {PENDING, QUARANTINED},
    "gauges of one source": {PENDING, QUARANTINED},
    "quarantined": {QUARANTINED},
    "retrying": {PENDING},
    "published": {OF_PARTITION, "pk_weather_grid"},
    "objects": {SLOT},
    "coverage": {OF_PARTITION, "pk_weather_grid"},
    "forget": set(),  # tombstones only
}


@dataclass(frozen=True, slots=True)
class Crowded:
    """A crowded ledger on which every verb was played."""

    engine: Engine
    played: Played

    def plans(self, *, without: str | None = None) -> dict[str, Plan]:
        """The plans by verb; `without`: as if this index had been dropped."""
        # A new connection: SQLite's keeps the plans that it has explained, whatever was dropped since.
        self.engine.dispose()
        with self.engine.connect() as tx:
            if without is not None:
                tx.execute(text(f"DROP INDEX {without}"))
            found = {verb: explain(tx, statements) for verb, statements in self.played.items()}
            tx.rollback()
        return found


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def crowded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path
) -> Iterator[Crowded]:
    if request.param == "sqlite":
        yield from _crowded(fresh_sqlite(sqlite_template, tmp_path_factory.mktemp("crowd")))
        return
    with fresh_database(request.getfixturevalue("postgres_url")) as url:
        yield from _crowded(url)


def _crowded(url: str) -> Iterator[Crowded]:
    engine = database.connect(url)
    database.upgrade(engine)
    fill(engine, OBJECTS)
    yield Crowded(engine, play(engine, Catalog(engine, now=PlayedClock(SOON))))
    engine.dispose()


def faults(plans: dict[str, Plan]) -> list[str]:
    """Every full read of a big table, and every verb that goes another way than intended."""
    read_whole = [f"{verb}: {line}" for verb, plan in plans.items() for line in plan.whole]
    missed = [
        f"{verb} without {index}"
        for verb, plan in plans.items()
        for index in sorted(INTENDED[verb] - plan.used)
    ]
    return read_whole + missed


@pytest.mark.case(37)
def test_every_verb_goes_by_its_index(crowded: Crowded) -> None:
    """Else each file would cost more than the one before it, until a poll takes minutes."""
    plans = crowded.plans()

    assert set(plans) == set(INTENDED)
    assert faults(plans) == []


@pytest.mark.case(37)
@pytest.mark.parametrize("index", [SLOT, DUE, PENDING, QUARANTINED, "ix_artifact_source_object_id"])
def test_without_an_index_the_plans_say_so(crowded: Crowded, index: str) -> None:
    """Else the test above could not fail, and an index lost in a migration would be found by its users."""
    assert any(index in fault for fault in faults(crowded.plans(without=index)))


@pytest.mark.case(37)
def test_what_a_deletion_takes_along_is_found_by_an_index(crowded: Crowded) -> None:
    """Else erase would search all grids for each artifact; PostgreSQL's plans show no foreign keys."""
    schema = inspect(crowded.engine)

    for name in BIG:
        table = metadata.tables[name]
        indexed = [index["column_names"][0] for index in schema.get_indexes(name)]
        indexed += [unique["column_names"][0] for unique in schema.get_unique_constraints(name)]
        indexed += schema.get_pk_constraint(name)["constrained_columns"][:1]
        assert {key.parent.name for key in table.foreign_keys} <= set(indexed)
