"""Empty databases that a benchmark fills, by size: SQLite files, or databases of one PostgreSQL server.

A folder and a server of their own for each benchmark, gone at the end.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

type Databases = Callable[[Iterable[str]], AbstractContextManager[dict[str, str]]]


@contextmanager
def sqlite(sizes: Iterable[str]) -> Iterator[dict[str, str]]:
    """The URL of a file for each size."""
    with tempfile.TemporaryDirectory(prefix="ingest-bench-") as folder:
        yield {size: f"sqlite:///{folder}/{size}.db" for size in sizes}


@contextmanager
def postgresql(sizes: Iterable[str]) -> Iterator[dict[str, str]]:
    """The URL of a database for each size, on a server of the tests' programs."""
    from ingest_platform_tests.services.postgres import fresh_database, start_postgres
    from ingest_platform_tests.services.processes import stop_all

    folder = Path(tempfile.mkdtemp(prefix="ingest-bench-"))
    folder.chmod(0o755)  # PostgreSQL's own user passes through
    try:
        server = start_postgres(folder)
        with ExitStack() as opened:
            yield {size: opened.enter_context(fresh_database(server)) for size in sizes}
    finally:
        stop_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


# Both, by the names that people know.
DATABASES: Mapping[str, Databases] = {"SQLite": sqlite, "PostgreSQL": postgresql}
