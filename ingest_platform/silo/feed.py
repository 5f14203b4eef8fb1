"""Organisms as a feed: poll the backends when a poll is due, import what the ledger calls due.

The same functions serve Dagster's sensor and runs, `ingest once` for cron, and `silo-import` in a container.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ingest_platform.catalog.lease import LEDGER_AWAY
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.errors import IngestError
from ingest_platform.settings import Settings
from ingest_platform.silo.discover import poll, refresh
from ingest_platform.silo.ingest import Report, import_organism
from ingest_platform.silo.model import Organism
from ingest_platform.silo.rails import Rails
from ingest_platform.silo.stopping import Stopped, raise_if_stopped
from ingest_platform.storage.http import open_pool
from ingest_platform.storage.store import Store, store_of

log = logging.getLogger(__name__)

# What another round may find mended.
AWAY = (IngestError, OSError, *LEDGER_AWAY)
# Kept open to one host; of more organisms on it, the others open one for each poll.
CONNECTIONS = 32
# A poll that comes a little early is no poll too many; one that is skipped comes a whole interval late.
EARLY = 0.9


@contextmanager
def open_rails(
    settings: Settings,
    *,
    clock: Callable[[], datetime] | None = None,
    environ: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Rails]:
    """Everything an import runs on, from the environment's settings; closed at the end. As rails_over."""
    settings.home.mkdir(parents=True, exist_ok=True)
    catalog = Catalog.open(settings.catalog_url)
    try:
        yield rails_over(catalog, store_of(settings), settings, clock=clock, environ=environ, stop=stop)
    finally:
        catalog.close()


def rails_over(
    catalog: Catalog,
    store: Store,
    settings: Settings,
    *,
    clock: Callable[[], datetime] | None = None,
    environ: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
) -> Rails:
    """Rails over parts that somebody else opened. PermanentError if the store belongs to another ledger.

    `environ`: what engines inherit of; by default this process's. `stop`: once set, imports under way end
    within seconds and hand their work back.
    """
    if catalog.has_published():
        store.verify(catalog.ledger_id)
    else:
        store.bind(catalog.ledger_id)
    return Rails(
        catalog=catalog,
        store=store,
        scratch=Path(settings.home) / "scratch",
        kept=Path(settings.home) / "silo",
        pool=open_pool(CONNECTIONS, settings.ca_file),
        environ=os.environ if environ is None else environ,
        clock=clock or (lambda: datetime.now(UTC)),
        stop=stop or threading.Event(),
    )


def once(
    rails: Rails, organisms: Sequence[Organism], *, owner: str, accept_row_drop: bool = False
) -> Iterator[Report]:
    """Poll each organism and import what is due; a report each, as they end. One stops no other.

    Raises a ledger that is away. When the rails are stopped, each organism's report says so.
    `accept_row_drop`: look at everything again, and publish however few rows.
    """
    with ThreadPoolExecutor(max(1, len(organisms)), thread_name_prefix="organism") as threads:
        shifts = [
            threads.submit(_once_one, rails, organism, owner, accept_row_drop) for organism in organisms
        ]
        for shift in as_completed(shifts):
            yield shift.result()


def _once_one(rails: Rails, organism: Organism, owner: str, accept_row_drop: bool) -> Report:
    """A backend that cannot be asked does not keep what is known from being imported."""
    unasked = None
    try:
        if accept_row_drop:
            refresh(rails, organism)
        else:
            poll(rails, organism)
        raise_if_stopped(rails.stop, organism.id)
    except Stopped as stopped:
        return Report(organism.id, "failed", error=stopped)
    except LEDGER_AWAY:
        raise
    except Exception as error:  # noqa: BLE001 - as in _failed
        unasked = _failed(organism, error).error
    try:
        report = import_organism(rails, organism, owner=owner, accept_row_drop=accept_row_drop)
    except LEDGER_AWAY:
        raise
    except Exception as error:  # noqa: BLE001 - as in _failed
        report = _failed(organism, error)
    if unasked is not None and report.error is None:
        report.error = unasked
        if report.what == "nothing due":
            report.what = "failed"
    return report


def _failed(organism: Organism, error: Exception) -> Report:
    """An organism's round that broke, told to whoever watches, so that no poisoned release stops the others.

    What nobody foresaw is a fault of ours: its traceback goes to the log. It has used one of the release's
    attempts, so it is not met for ever.
    """
    if not isinstance(error, AWAY):
        log.error("nobody foresaw this", exc_info=error, extra={"organism": organism.id})
    return Report(organism.id, "failed", error=error)


def follow(
    rails: Rails,
    organisms: Sequence[Organism],
    *,
    owner: str,
    report: Callable[[Report], None],
    stop: threading.Event | None = None,
    interval_seconds: float | None = None,
) -> None:
    """Poll and import until `stop` is set, a thread an organism: one that is slow or fails delays no other.

    Whatever keeps an organism from being imported is told to `report`, and tried again. `stop` is the rails'
    own by default, which ends an import under way, too; with another one it comes to its end. What `report`
    raises, but for an IngestError, stops all and is raised.
    """
    stop = stop or rails.stop
    with ThreadPoolExecutor(max(1, len(organisms)), thread_name_prefix="organism") as threads:
        feeds = [
            threads.submit(_follow_one, rails, organism, owner, interval_seconds, stop, report)
            for organism in organisms
        ]
        ended, _ = wait(feeds, return_when=FIRST_EXCEPTION)
        stop.set()
    for feed in ended:
        feed.result()


def _follow_one(
    rails: Rails,
    organism: Organism,
    owner: str,
    interval_seconds: float | None,
    stop: threading.Event,
    report: Callable[[Report], None],
) -> None:
    interval = interval_seconds or organism.poll_interval_seconds
    while not stop.is_set():
        next_poll = time.monotonic() + interval
        for made in _round(rails, organism, owner, timedelta(seconds=interval * EARLY)):
            try:
                report(made)
            # Its reader is away; the index is published all the same.
            except IngestError as error:
                log.warning("a report was not taken", extra={"organism": organism.id, "why": str(error)})
        stop.wait(max(0.0, next_poll - time.monotonic()))


def _round(rails: Rails, organism: Organism, owner: str, every: timedelta) -> Iterator[Report]:
    """One poll, if it is due, and one import. Only what is worth telling."""
    try:
        poll(rails, organism, every=every)
    except Stopped:
        return
    except Exception as error:  # noqa: BLE001 - as in _failed
        yield _failed(organism, error)
    if rails.stop.is_set():
        return
    try:
        made = import_organism(rails, organism, owner=owner)
    except Exception as error:  # noqa: BLE001 - as in _failed
        made = _failed(organism, error)
    if made.what != "nothing due" or made.error or made.warnings:
        yield made
