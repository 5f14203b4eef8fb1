"""An organism with its backend, ledger, store and output folder, under a clock that only the test moves.

States are reached through the real functions; only the engine is a stand-in, unless a test asks for another.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import ColumnElement, literal

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import ObjectRow
from ingest_platform.catalog.tables import UtcTime
from ingest_platform.settings import Settings
from ingest_platform.silo import feed
from ingest_platform.silo.discover import Polled, poll
from ingest_platform.silo.engines.contract import Built, the_index
from ingest_platform.silo.ingest import Report, import_organism
from ingest_platform.silo.inputs import Inputs
from ingest_platform.silo.model import Organism, Timeouts
from ingest_platform.silo.rails import Rails
from ingest_platform.silo.read import SOURCE, Live, live
from ingest_platform.silo.served import VERSION_FILE, Index, indexes
from ingest_platform.silo.stopping import NEVER
from ingest_platform.storage.store import store_of
from ingest_platform_tests.silo_world import TWELVE, Loculus, Request, answer, loculus, write_database

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
QUICK = Timeouts(connect_seconds=5, read_seconds=5, total_seconds=20)


@dataclass
class ScriptedEngine:
    """Builds in a millisecond, or fails as told; keeps what it was given."""

    clock: Any
    version: str = "1"
    failures: list[Exception] = field(default_factory=list)  # of the next builds
    builds: list[Mapping[str, bytes]] = field(default_factory=list)  # file name → content

    @property
    def identity(self) -> str:
        return f"scripted {self.version}"

    def build(
        self, inputs: Inputs, staging: Path, *, timeout_seconds: float, stop: threading.Event = NEVER
    ) -> Built:
        self.builds.append({path.name: path.read_bytes() for path in inputs.folder.iterdir()})
        if self.failures:
            raise self.failures.pop(0)
        number = int(self.clock().timestamp())
        folder = staging / str(number)
        folder.mkdir()
        (folder / "default.silo").write_text(f"{inputs.rows} rows")
        (folder / VERSION_FILE).write_text(f"timestamp: {number}\nserializationVersion: 7\n")
        return Built(the_index(staging, ""), f"{inputs.rows} rows\n", 0.001)


@dataclass
class Runner(ScriptedEngine):
    """An engine in another container: it writes straight into the output folder."""

    output: Path = Path()

    def build(
        self, inputs: Inputs, staging: Path, *, timeout_seconds: float, stop: threading.Event = NEVER
    ) -> Built:
        built = super().build(inputs, staging, timeout_seconds=timeout_seconds, stop=stop)
        path = built.index.path.rename(self.output / built.index.path.name)
        return replace(built, index=replace(built.index, path=path))


@dataclass
class Station:
    """Release with `server`, look with `poll`, work with `ingest`, read with `live` and `served`."""

    root: Path
    server: Loculus
    organism: Organism
    rails: Rails
    engine: ScriptedEngine
    at: datetime = NOON

    @property
    def catalog(self) -> Catalog:
        return self.rails.catalog

    def advance(self, **by: float) -> None:
        self.at += timedelta(**by)

    def configure(self, **changes: Any) -> None:
        self.organism = self.organism.model_copy(update=changes)

    def poll(self, *, every: timedelta | None = None) -> Polled:
        self.at += timedelta(seconds=1)
        return poll(self.rails, self.organism, every=every)

    def ingest(self, **how: Any) -> Report:
        return import_organism(self.rails, self.organism, owner="test", **how)

    def round(self, **how: Any) -> Report:
        """One look, then what is due."""
        self.poll()
        return self.ingest(**how)

    def import_twelve(self) -> None:
        """Twelve records under "e1", indexed and served; then ten minutes pass."""
        self.server.release(answer(TWELVE, '"e1"'))
        self.round()
        self.advance(minutes=10)

    @property
    def live(self) -> Live | None:
        return live(self.catalog, self.organism.id)

    @property
    def index(self) -> Live:
        found = self.live
        assert found is not None
        return found

    @property
    def served(self) -> Index | None:
        found = indexes(self.organism.output)
        return found[-1] if found else None

    @property
    def rows(self) -> tuple[ObjectRow, ...]:
        return self.catalog.objects(SOURCE, self.organism.id)

    @property
    def downloads(self) -> list[Request]:
        """Requests for a whole release: those without a condition. The first poll is one too."""
        return [request for request in self.server.requests if "if-none-match" not in request.headers]

    def output_tree(self) -> dict[str, float]:
        """Path → modification time of all that the output folder shows."""
        output = self.organism.output
        return {
            str(path.relative_to(output)): path.stat().st_mtime
            for path in output.rglob("*")
            if not path.name.startswith(".")
        }


@contextmanager
def station(
    root: Path,
    server: Loculus,
    *,
    environ: Mapping[str, str] | None = None,
    at: Callable[[str], None] = lambda _point: None,
    **organism: Any,
) -> Iterator[Station]:
    """SQLite and a folder unless `environ` says otherwise. `at` is told the points of import and ledger."""
    settings = Settings.from_environment({"INGEST_HOME": str(root / "home"), **(environ or {})})
    settings.home.mkdir(parents=True, exist_ok=True)
    if not (ledger := settings.home / "catalog.db").exists():
        ledger.write_bytes(_empty_ledger())
    described = Organism(
        **{
            "id": "organism",
            "backend_url": server.url,
            "output": root / "out",
            "preprocessing_config": write_database(root / "config"),
            "timeouts": QUICK,
            **organism,
        }
    )
    made: list[Station] = []

    def now() -> datetime:
        return made[0].at if made else NOON

    def ledger_now() -> ColumnElement[datetime]:
        return literal(now(), UtcTime())

    with Catalog.open(settings.catalog_url, now=ledger_now, at=at) as catalog:
        engine = ScriptedEngine(now)
        rails = feed.rails_over(catalog, store_of(settings), settings, clock=now, environ={})
        rails = replace(rails, choose_engine=lambda _organism, _environ: engine, at=at)
        made.append(Station(root, server, described, rails, engine))
        yield made[0]


@cache
def _empty_ledger() -> bytes:
    """A migrated one; migrating each test's own takes longer than an import."""
    with TemporaryDirectory() as folder:
        Catalog.open(f"sqlite:///{folder}/catalog.db").close()
        return Path(folder, "catalog.db").read_bytes()


@contextmanager
def new_station(
    root: Path, *, environ: Mapping[str, str] | None = None, **organism: Any
) -> Iterator[Station]:
    """With a backend of its own."""
    with loculus() as server, station(root, server, environ=environ, **organism) as made:
        yield made
