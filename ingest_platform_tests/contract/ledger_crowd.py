"""A ledger with as many rows as a test or a benchmark asks for, in seconds: the database makes them itself.

Its shape is that of years of ingesting: nearly everything was ingested and has a grid, in partitions of a
hundred objects; a thousandth waits for another try, a thousandth is in quarantine; the newest partition of
each source has ten due objects, whatever the size.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    String,
    Subquery,
    Table,
    case,
    cast,
    insert,
    join,
    literal,
    select,
    text,
    true,
)

from ingest_platform.catalog.tables import (
    DAWN,
    UtcTime,
    artifact,
    partition,
    source,
    source_object,
    weather_grid,
)

SOURCES = tuple(f"weather.{name}" for name in ("gfs", "hrrr", "mrms", "goes_east", "goes_west"))
OBJECTS_PER_PARTITION = 100
DUE_PER_SOURCE = 10
# The time of the newest partition's end; the clock of who plays with it stands a little later.
NEWEST = datetime(2026, 3, 1, tzinfo=UTC)
SOON = NEWEST + timedelta(hours=1)


def fill(engine: Engine, objects: int) -> None:
    """Fill a migrated, empty ledger with so many objects, a multiple of 500.

    PostgreSQL's planner then knows the tables, as its autovacuum sees to; nobody ever tells SQLite's.
    """
    partitions = objects // OBJECTS_PER_PARTITION
    with engine.begin() as tx:
        tx.execute(insert(source), [{"name": name, "horizon": DAWN} for name in SOURCES])
        tx.execute(insert(partition), [_partition(number) for number in range(partitions)])
        _insert_objects(tx)
        _insert_artifacts(tx)
        _insert_grids(tx)
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def key_of(number: int) -> str:
    """Key of the partition that is so many older than the newest of its source."""
    return f"{NEWEST - timedelta(hours=number):%Y-%m-%dT%H}"


def _partition(number: int) -> dict[str, object]:
    age, whose = divmod(number, len(SOURCES))
    return {
        "source": SOURCES[whose],
        "key": key_of(age),
        "event_end": NEWEST - timedelta(hours=age),
        "state": "open",
        "uri": f"{SOURCES[whose]}/{key_of(age)}/{number:024x}",
        "snapshot": f"S{number:011d}",
        "token": 1,
        "committed_at": NEWEST - timedelta(hours=age),
        "pinned": False,
        "requests": 1,
    }


def _insert_objects(tx: Connection) -> None:
    numbers = _numbers(OBJECTS_PER_PARTITION)
    number, older, tenth = numbers.c.i, partition.c.event_end < NEWEST, partition.c.id % 10
    due = ~older & (number >= OBJECTS_PER_PARTITION - DUE_PER_SOURCE)
    retrying = older & (tenth == 1) & (number == 7)
    quarantined = older & (tenth == 2) & (number == 7)
    name = partition.c.key + literal("/f") + cast(number, String)
    _insert(
        tx,
        source_object,
        join(partition, numbers, true()),
        source=partition.c.source,
        bucket=literal("noaa"),
        key=name,
        etag=literal("e1"),
        partition_id=partition.c.id,
        slot=name,
        version_time=partition.c.event_end,
        size_bytes=literal(1_000),
        state=case((due | retrying, "pending"), (quarantined, "quarantined"), else_="ingested"),
        attempts=case((retrying | quarantined, 1), else_=0),
        postponements=literal(0),
        next_attempt_at=case((retrying, _time(SOON + timedelta(days=1))), else_=_time(DAWN)),
        error=case((retrying | quarantined, "no GRIB"), else_=None),
    )


def _insert_artifacts(tx: Connection) -> None:
    _insert(
        tx,
        artifact,
        source_object,
        where=source_object.c.state == "ingested",
        partition_id=source_object.c.partition_id,
        name=source_object.c.slot + literal("/temperature_2m"),
        source_object_id=source_object.c.id,
        etag=source_object.c.etag,
        size_bytes=literal(10),
        checksum=literal("crc32:00000000"),
        transform_version=literal("1"),
    )


def _insert_grids(tx: Connection) -> None:
    _insert(
        tx,
        weather_grid,
        join(artifact, source_object, source_object.c.id == artifact.c.source_object_id),
        artifact_id=artifact.c.id,
        model=source_object.c.source,
        variable=literal("temperature_2m"),
        parameter=literal("TMP"),
        level=literal("2 m above ground"),
        window=literal("instant"),
        reference_time=source_object.c.version_time,
        valid_time=source_object.c.version_time,
        lead_seconds=literal(0),
        west=literal(0.0),
        south=literal(-90.0),
        east=literal(360.0),
        north=literal(90.0),
        array=literal("/temperature_2m"),
        time_index=literal(0),
    )


def _insert(
    tx: Connection,
    table: Table,
    rows: FromClause,
    *,
    where: ColumnElement[bool] | None = None,
    **columns: ColumnElement[Any],
) -> None:
    made = select(*columns.values()).select_from(rows).where(true() if where is None else where)
    tx.execute(insert(table).from_select(list(columns), made))


def _numbers(count: int) -> Subquery:
    """A row for each of 0 … count - 1, on either dialect."""
    first = select(literal(0).label("i")).cte(recursive=True)
    return select(first.union_all(select(first.c.i + 1).where(first.c.i < count - 1))).subquery()


def _time(moment: datetime) -> ColumnElement[datetime]:
    return literal(moment, UtcTime())
