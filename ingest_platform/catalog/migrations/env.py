"""Alembic's entry point: runs the migrations on the connection that `engine.upgrade` hands over."""

from alembic import context

from ingest_platform.catalog.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # The caller's transaction holds the lock; a half-migrated ledger must never be seen.
    transactional_ddl=True,
)
context.run_migrations()
