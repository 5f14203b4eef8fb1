"""What an import runs on: ledger, store, folders, connections, clock. Opened by `feed`, passed on to all."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import urllib3

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.silo.backend import Backend
from ingest_platform.silo.engines.choice import engine_of
from ingest_platform.silo.engines.contract import Engine
from ingest_platform.silo.kept import Keeper
from ingest_platform.silo.model import Organism
from ingest_platform.storage.store import Store

# At midnight every organism's ETag changes at once: so many downloads, and one build, at a time. A build
# takes all cores and 1 GB; Dagster's runs are bounded by its pools.
DOWNLOADS_AT_ONCE = 4
BUILDS_AT_ONCE = 1


@dataclass(frozen=True, slots=True)
class Rails:
    """Shared by threads. `at` is told each point where a death must be survivable."""

    catalog: Catalog
    store: Store
    scratch: Path  # for what an import makes on the way
    kept: Path  # for verified bodies that wait for their index
    pool: urllib3.PoolManager
    environ: Mapping[str, str] = field(repr=False)  # what engines inherit of
    clock: Callable[[], datetime]  # UTC
    downloads: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(DOWNLOADS_AT_ONCE))
    builds: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(BUILDS_AT_ONCE))
    polls: threading.Lock = field(default_factory=threading.Lock)  # around the shared cursor
    # Set it, and downloads and builds under way end within a second or two, their work handed back.
    stop: threading.Event = field(default_factory=threading.Event)
    choose_engine: Callable[[Organism, Mapping[str, str]], Engine] = engine_of
    at: Callable[[str], None] = lambda _point: None

    def backend(self, organism: Organism) -> Backend:
        return Backend(organism.id, organism.backend_url, self.pool, organism.timeouts, stop=self.stop)

    def keeper(self, organism: Organism) -> Keeper:
        return Keeper(self.kept / organism.id)

    def engine(self, organism: Organism) -> Engine:
        return self.choose_engine(organism, self.environ)
