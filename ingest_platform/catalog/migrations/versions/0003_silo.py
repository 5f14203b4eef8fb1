"""The typed table of SILO's indexes."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from ingest_platform.catalog.tables import UtcTime

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_table(
        "silo_index",
        sa.Column("artifact_id", sa.BigInteger(), nullable=False),
        *_columns(sa.BigInteger, "rows", "body_bytes", "content_bytes", "index_bytes"),
        *_columns(sa.String, "content_hash", "index_hash", "release_etag"),
        *_columns(sa.String, "pipeline_versions", "lineages", "warnings", "engine"),
        sa.Column("engine_seconds", sa.Double(), nullable=False),
        *_columns(sa.String, "log_tail"),
        sa.Column("built_at", UtcTime(), nullable=False),
        sa.Column("refreshed_at", UtcTime(), nullable=False),
        *_columns(sa.BigInteger, "index_timestamp"),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifact.id"], name="fk_silo_index_artifact_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("artifact_id", name="pk_silo_index"),
    )


def downgrade() -> None:
    op.drop_table("silo_index")


def _columns(kind: type[sa.String] | type[sa.BigInteger], *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind(), nullable=False) for name in names]
