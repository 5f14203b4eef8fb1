"""The ledger's tables, indexes and column types. No statements, no I/O.

`source`, `partition`, `source_object`, `artifact` and `counter` serve every source alike. A typed table
beside `artifact` carries what one family of sources is asked for; commit fills it from
`Artifact.details` without knowing what the columns mean.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

ObjectState = Literal["pending", "ingested", "partial", "quarantined", "superseded"]

LIVE: Final[tuple[ObjectState, ...]] = ("ingested", "partial")

# Before every event: the horizon of a source that nothing was purged from, the time of what is due at once.
DAWN = datetime(1, 1, 1, tzinfo=UTC)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UtcTime(TypeDecorator[datetime]):
    """Aware UTC datetimes, exact to the microsecond, in order of time on both dialects.

    SQLite has no such type: microseconds since 1970 keep order and precision, where its Julian day
    numbers would round to 40 µs and flip the order of two versions.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        kind: TypeEngine[Any] = BigInteger() if dialect.name == "sqlite" else DateTime(timezone=True)
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> object:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"the ledger takes aware times only, not {value!r}: say which zone it is in")
        return (value - _EPOCH) // timedelta(microseconds=1) if dialect.name == "sqlite" else value

    def process_result_value(self, value: object, _dialect: Dialect) -> datetime | None:
        if isinstance(value, int):
            return _EPOCH + timedelta(microseconds=value)
        return value.astimezone(UTC) if isinstance(value, datetime) else None


# SQLite numbers rows by itself only in a column of the exact type INTEGER.
_Id = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# One row: who this ledger is. The store's marker object carries the same id.
ledger = Table("ledger", metadata, Column("id", String, primary_key=True))

source = Table(
    "source",
    metadata,
    Column("name", String, primary_key=True),
    Column("horizon", UtcTime, nullable=False),
    # Where discovery goes on, so that sensor, cron and daemon share it. No rule of the ledger reads it.
    Column("cursor", String),
)

partition = Table(
    "partition",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("source", String, ForeignKey("source.name"), nullable=False),
    Column("key", String, nullable=False),
    Column("event_end", UtcTime, nullable=False),
    Column("state", String, nullable=False),
    Column("uri", String),
    Column("snapshot", String),
    Column("token", BigInteger, nullable=False),
    Column("lease_owner", String),
    Column("lease_until", UtcTime),
    Column("claimed_at", UtcTime),
    Column("committed_at", UtcTime),
    Column("pinned", Boolean, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("next_request_at", UtcTime),
    UniqueConstraint("source", "key"),
    CheckConstraint("state IN ('open', 'purging', 'purged')", name="state"),
    # Or SQLite gives the id of a forgotten partition to the next one, and a sleeper's token fits it.
    sqlite_autoincrement=True,
)

source_object = Table(
    "source_object",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("source", String, ForeignKey("source.name"), nullable=False),
    Column("bucket", String, nullable=False),
    Column("key", String, nullable=False),
    Column("etag", String, nullable=False),
    Column("partition_id", BigInteger, ForeignKey("partition.id"), nullable=False),
    Column("slot", String, nullable=False),
    Column("version_time", UtcTime, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    # Postponed gives its attempt back, so the attempts cannot tell how long to wait.
    Column("postponements", Integer, nullable=False),
    # DAWN: at once. Not NULL: "is null or <=" would keep SQLite from the index, and a request over a million
    # rows took 165 ms instead of 6.
    Column("next_attempt_at", UtcTime, nullable=False),
    Column("error", String),
    UniqueConstraint("source", "bucket", "key", "etag"),
    CheckConstraint("state IN ('pending', 'ingested', 'partial', 'quarantined', 'superseded')", name="state"),
    sqlite_autoincrement=True,
)

artifact = Table(
    "artifact",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("partition_id", BigInteger, ForeignKey("partition.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("source_object_id", BigInteger, ForeignKey("source_object.id"), nullable=False),
    Column("etag", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("checksum", String, nullable=False),
    Column("transform_version", String, nullable=False),
    UniqueConstraint("partition_id", "name"),
)

counter = Table(
    "counter",
    metadata,
    Column("name", String, primary_key=True),
    Column("labels", String, primary_key=True),  # JSON object, keys sorted
    Column("value", Double, nullable=False),
)

weather_grid = Table(
    "weather_grid",
    metadata,
    Column("artifact_id", BigInteger, ForeignKey("artifact.id", ondelete="CASCADE"), primary_key=True),
    Column("model", String, nullable=False),
    Column("variable", String, nullable=False),  # array name in the dataset
    Column("parameter", String, nullable=False),  # GRIB short name, radar product or satellite band
    Column("level", String, nullable=False),
    Column("window", String, nullable=False),
    Column("reference_time", UtcTime, nullable=False),
    Column("valid_time", UtcTime, nullable=False),
    Column("lead_seconds", Integer, nullable=False),
    Column("west", Double, nullable=False),  # degrees, as the three below
    Column("south", Double, nullable=False),
    Column("east", Double, nullable=False),
    Column("north", Double, nullable=False),
    Column("array", String, nullable=False),  # path in the repository
    Column("time_index", Integer, nullable=False),
    Column("level_index", Integer),
)

# One row a partition: the index that readers may open, and the state that only it moves.
silo_index = Table(
    "silo_index",
    metadata,
    Column("artifact_id", BigInteger, ForeignKey("artifact.id", ondelete="CASCADE"), primary_key=True),
    Column("rows", BigInteger, nullable=False),
    Column("body_bytes", BigInteger, nullable=False),  # as the backend sent it
    Column("content_bytes", BigInteger, nullable=False),  # decompressed
    Column("index_bytes", BigInteger, nullable=False),
    Column("content_hash", String, nullable=False),  # of the records
    Column("index_hash", String, nullable=False),  # of all that the index is made of
    Column("release_etag", String, nullable=False),  # sent with the next conditional request
    Column("pipeline_versions", String, nullable=False),  # JSON: version, "" for none → records
    Column("lineages", String, nullable=False),  # JSON: [{system, version, url, sha256}]
    Column("warnings", String, nullable=False),  # JSON: [text]
    Column("engine", String, nullable=False),
    Column("engine_seconds", Double, nullable=False),
    Column("log_tail", String, nullable=False),  # what the engine said last
    Column("built_at", UtcTime, nullable=False),
    Column("refreshed_at", UtcTime, nullable=False),  # when all was looked at last, changed or not
    Column("index_timestamp", BigInteger, nullable=False),  # name of its folder for SILO's API
)

# The family is what stands before the first dot of the source's name.
TYPED_TABLES: Final = {"weather": weather_grid, "silo": silo_index}


def typed_table(source_name: str) -> Table | None:
    """The table beside `artifact` of this source's family; None if it has none."""
    return TYPED_TABLES.get(source_name.partition(".")[0])


# A literal, not a bound value: SQLite uses a partial index only where it can read the state in the text.
PENDING = source_object.c.state == literal_column("'pending'")
# An error always names a time for the next attempt; a row that begins afresh is due at DAWN.
RETRYING = PENDING & (source_object.c.next_attempt_at > DAWN)
QUARANTINED = source_object.c.state == literal_column("'quarantined'")
OPEN = partition.c.state == literal_column("'open'")
PURGING = partition.c.state == literal_column("'purging'")


def _partial(name: str, *columns: Column[object], where: str, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, postgresql_where=text(where), sqlite_where=text(where))


# Two pending versions of one slot would let the older be published after the newer.
_partial(
    "uq_source_object_pending_slot",
    source_object.c.partition_id,
    source_object.c.slot,
    where="state = 'pending'",
    unique=True,
)
# request, claim and has_due look at pending rows only: few, however many millions were ingested.
_partial(
    "ix_source_object_due",
    source_object.c.partition_id,
    source_object.c.next_attempt_at,
    where="state = 'pending'",
)
_partial(
    "ix_source_object_quarantined",
    source_object.c.source,
    source_object.c.id,
    where="state = 'quarantined'",
)
# gauges: the state stands in it too, or SQLite reads each row to check what the index promises.
_partial(
    "ix_source_object_pending",
    source_object.c.source,
    source_object.c.next_attempt_at,
    source_object.c.version_time,
    source_object.c.state,
    where="state = 'pending'",
)
# see and commit: all versions of a slot.
Index(None, source_object.c.partition_id, source_object.c.slot)
_partial("ix_partition_open", partition.c.source, partition.c.event_end, where="state = 'open'")
_partial("ix_partition_purging", partition.c.source, where="state = 'purging'")
Index(None, artifact.c.source_object_id)
Index(None, weather_grid.c.model, weather_grid.c.variable, weather_grid.c.valid_time)
