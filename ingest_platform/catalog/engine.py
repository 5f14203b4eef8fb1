"""The ledger's database: connections, transactions, clock and schema. No verbs.

One address, two dialects: `sqlite:///path` and `postgresql[+psycopg2]://…`. A database error is raised
as SQLAlchemy raises it: never turned into an empty answer.
"""

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    cast,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    select,
    text,
    type_coerce,
)

from ingest_platform.catalog.rows import Clock
from ingest_platform.catalog.tables import UtcTime
from ingest_platform.errors import PermanentError

NowExpression = Callable[[], ColumnElement[datetime]]

# The newest file in migrations/versions; a test holds the two together. Knowing it here spares every
# open the import of Alembic (0.2 s).
HEAD = "0003"

# Verbs take milliseconds, a see of 1,000 sightings under a second: who waits longer waits for a process
# that was stopped inside its transaction, and should say so.
BUSY_TIMEOUT = timedelta(seconds=30)
# PostgreSQL ends such a session itself, before the waiting ones give up.
IDLE_IN_TRANSACTION_TIMEOUT = timedelta(seconds=20)

# Any constant will do, as long as no other program locks the same one: the bytes of "ingest".
_UPGRADE_LOCK = int.from_bytes(b"ingest")

_JULIAN_DAY_OF_1970 = 2440587.5


def connect(url: str) -> Engine:
    """An engine whose connections are durable and never wait for ever."""
    address = make_url(url)
    match address.get_backend_name():
        case "sqlite":
            return _sqlite(address)
        case "postgresql":
            return _postgresql(address)
        case other:
            raise PermanentError(
                f"ledger {address.render_as_string()}: dialect {other} is unknown; expected "
                "sqlite:///path or postgresql://…. Nothing was opened. Correct INGEST_CATALOG_URL."
            )


def _sqlite(address: URL) -> Engine:
    folder = Path(address.database or "").parent
    if not folder.is_dir():
        # Not made here: where a disk is not mounted, an empty ledger would look like an empty world.
        raise PermanentError(
            f"ledger {address.render_as_string()}: no folder {folder}. Nothing was opened. Make the folder, "
            "mount its disk, or correct INGEST_CATALOG_URL."
        )
    engine = create_engine(address, connect_args={"timeout": BUSY_TIMEOUT.total_seconds()})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transactions start too late: only at the first write, after the reads that guard it.
    connection.isolation_level = None
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("ledger_reads", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


# A server behind a firewall that drops everything would else hold a feed and its heartbeat for hours.
_UNANSWERED = {
    "connect_timeout": 10,  # seconds, as the next two
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}


def _postgresql(address: URL) -> Engine:
    # Pings: a server that restarted must not cost the next verb an error.
    engine = create_engine(address, pool_pre_ping=True, connect_args=_UNANSWERED)
    event.listen(engine, "connect", _set_up_postgresql)
    return engine


def _set_up_postgresql(connection: Any, _record: object) -> None:
    # Outside a transaction, or the first rollback would take the settings back.
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        cursor.execute("SET synchronous_commit = on")
        cursor.execute(
            f"SET idle_in_transaction_session_timeout = {_milliseconds(IDLE_IN_TRANSACTION_TIMEOUT)}"
        )
        cursor.execute(f"SET lock_timeout = {_milliseconds(BUSY_TIMEOUT)}")
    connection.autocommit = False


def _milliseconds(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads: on SQLite it neither waits for writers nor holds them up."""
    with engine.connect().execution_options(ledger_reads=True) as connection, connection.begin():
        yield connection


def clock(engine: Engine, now: NowExpression | None = None) -> Clock:
    """Reads the database's clock, so that all machines agree. `now`: another SQL expression, for tests."""
    expression = now or (_sqlite_now if engine.dialect.name == "sqlite" else _postgresql_now)

    def read(tx: Connection) -> datetime:
        return tx.execute(select(expression())).scalar_one()

    return read


def _postgresql_now() -> ColumnElement[datetime]:
    # Not now(): that is the transaction's start, before it waited for the lock.
    return func.clock_timestamp(type_=UtcTime)


def _sqlite_now() -> ColumnElement[datetime]:
    days = func.julianday("now") - _JULIAN_DAY_OF_1970
    # SQLite's clock has milliseconds.
    microseconds = cast(func.round(days * 86_400_000), BigInteger) * 1000
    return type_coerce(microseconds, UtcTime)


def upgrade(engine: Engine) -> None:
    """Bring the schema to HEAD in one transaction. Several processes may open a ledger at once."""
    with reading(engine) as tx:
        if _revision(tx) == HEAD:
            return
    with engine.begin() as tx:
        # SQLite's BEGIN IMMEDIATE is the same lock.
        if tx.dialect.name == "postgresql":
            tx.execute(select(func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
        found = _revision(tx)
        if found is None or found < HEAD:
            _run_migrations(tx)
        elif found > HEAD:
            raise PermanentError(
                f"ledger {tx.engine.url.render_as_string()}: schema {found}, expected at most {HEAD}. It was "
                "written by a newer version of this program and stays as it is. Install that version."
            )


def _revision(tx: Connection) -> str | None:
    if not inspect(tx).has_table("alembic_version"):
        return None
    return tx.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _run_migrations(tx: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    with as_file(files("ingest_platform.catalog") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.attributes["connection"] = tx
        command.upgrade(config, "head")


def random_name() -> str:
    """A name that nobody uses twice: 96 bits, in hexadecimal digits."""
    return secrets.token_hex(12)
