"""An index for the gauges, and one less: what is ingested is counted as it happens, never in the rows."""

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: None = None
depends_on: None = None

_PENDING = sa.text("state = 'pending'")
_PENDING_COLUMNS = ["source", "next_attempt_at", "version_time", "state"]


def upgrade() -> None:
    op.drop_index("ix_source_object_source_state", "source_object")
    op.create_index(
        "ix_source_object_pending",
        "source_object",
        _PENDING_COLUMNS,
        postgresql_where=_PENDING,
        sqlite_where=_PENDING,
    )


def downgrade() -> None:
    op.drop_index("ix_source_object_pending", "source_object")
    op.create_index("ix_source_object_source_state", "source_object", ["source", "state"])
