"""The ledger: source, partition, source_object, artifact, counter and the weather grids."""

import secrets

import sqlalchemy as sa
from alembic import op

from ingest_platform.catalog.tables import UtcTime

revision: str = "0001"
down_revision: str | None = None
branch_labels: None = None
depends_on: None = None

_PENDING = sa.text("state = 'pending'")
_QUARANTINED = sa.text("state = 'quarantined'")
_OPEN = sa.text("state = 'open'")
_PURGING = sa.text("state = 'purging'")


def upgrade() -> None:
    _create_ledger()
    _create_source()
    _create_partition()
    _create_source_object()
    _create_artifact()
    _create_counter()
    _create_weather_grid()


def downgrade() -> None:
    for table in ("weather_grid", "counter", "artifact", "source_object", "partition", "source", "ledger"):
        op.drop_table(table)


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def _create_ledger() -> None:
    ledger = op.create_table(
        "ledger",
        sa.Column("id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger"),
    )
    op.bulk_insert(ledger, [{"id": secrets.token_hex(16)}])


def _create_source() -> None:
    op.create_table(
        "source",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("horizon", UtcTime(), nullable=False),
        sa.Column("cursor", sa.String()),
        sa.PrimaryKeyConstraint("name", name="pk_source"),
    )


def _create_partition() -> None:
    op.create_table(
        "partition",
        _id(),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("event_end", UtcTime(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("uri", sa.String()),
        sa.Column("snapshot", sa.String()),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("lease_owner", sa.String()),
        sa.Column("lease_until", UtcTime()),
        sa.Column("claimed_at", UtcTime()),
        sa.Column("committed_at", UtcTime()),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("next_request_at", UtcTime()),
        sa.CheckConstraint("state IN ('open', 'purging', 'purged')", name="state"),
        sa.ForeignKeyConstraint(["source"], ["source.name"], name="fk_partition_source"),
        sa.PrimaryKeyConstraint("id", name="pk_partition"),
        sa.UniqueConstraint("source", "key", name="uq_partition_source_key"),
        sqlite_autoincrement=True,
    )
    _create_index("ix_partition_open", "partition", ["source", "event_end"], where=_OPEN)
    _create_index("ix_partition_purging", "partition", ["source"], where=_PURGING)


def _create_source_object() -> None:
    op.create_table(
        "source_object",
        _id(),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("bucket", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("etag", sa.String(), nullable=False),
        sa.Column("partition_id", sa.BigInteger(), nullable=False),
        sa.Column("slot", sa.String(), nullable=False),
        sa.Column("version_time", UtcTime(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("postponements", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", UtcTime(), nullable=False),
        sa.Column("error", sa.String()),
        sa.CheckConstraint(
            "state IN ('pending', 'ingested', 'partial', 'quarantined', 'superseded')", name="state"
        ),
        sa.ForeignKeyConstraint(["source"], ["source.name"], name="fk_source_object_source"),
        sa.ForeignKeyConstraint(["partition_id"], ["partition.id"], name="fk_source_object_partition_id"),
        sa.PrimaryKeyConstraint("id", name="pk_source_object"),
        sa.UniqueConstraint(
            "source", "bucket", "key", "etag", name="uq_source_object_source_bucket_key_etag"
        ),
        sqlite_autoincrement=True,
    )
    slot = ["partition_id", "slot"]
    _create_index("uq_source_object_pending_slot", "source_object", slot, where=_PENDING, unique=True)
    _create_index(
        "ix_source_object_due", "source_object", ["partition_id", "next_attempt_at"], where=_PENDING
    )
    _create_index("ix_source_object_quarantined", "source_object", ["source", "id"], where=_QUARANTINED)
    op.create_index("ix_source_object_partition_id_slot", "source_object", slot)
    op.create_index("ix_source_object_source_state", "source_object", ["source", "state"])


def _create_artifact() -> None:
    op.create_table(
        "artifact",
        _id(),
        sa.Column("partition_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("source_object_id", sa.BigInteger(), nullable=False),
        sa.Column("etag", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.String(), nullable=False),
        sa.Column("transform_version", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["partition_id"], ["partition.id"], name="fk_artifact_partition_id"),
        sa.ForeignKeyConstraint(
            ["source_object_id"], ["source_object.id"], name="fk_artifact_source_object_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_artifact"),
        sa.UniqueConstraint("partition_id", "name", name="uq_artifact_partition_id_name"),
    )
    op.create_index("ix_artifact_source_object_id", "artifact", ["source_object_id"])


def _create_counter() -> None:
    op.create_table(
        "counter",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("labels", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", name="pk_counter"),
    )


def _create_weather_grid() -> None:
    op.create_table(
        "weather_grid",
        sa.Column("artifact_id", sa.BigInteger(), nullable=False),
        *(
            sa.Column(name, sa.String(), nullable=False)
            for name in ("model", "variable", "parameter", "level", "window")
        ),
        sa.Column("reference_time", UtcTime(), nullable=False),
        sa.Column("valid_time", UtcTime(), nullable=False),
        sa.Column("lead_seconds", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("west", "south", "east", "north")),
        sa.Column("array", sa.String(), nullable=False),
        sa.Column("time_index", sa.Integer(), nullable=False),
        sa.Column("level_index", sa.Integer()),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifact.id"], name="fk_weather_grid_artifact_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("artifact_id", name="pk_weather_grid"),
    )
    asked_for = ["model", "variable", "valid_time"]
    op.create_index("ix_weather_grid_model_variable_valid_time", "weather_grid", asked_for)


def _create_index(
    name: str, table: str, columns: list[str], *, where: sa.TextClause, unique: bool = False
) -> None:
    op.create_index(name, table, columns, unique=unique, postgresql_where=where, sqlite_where=where)
