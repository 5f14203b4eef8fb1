"""Retention of Dagster's own history: else one radar model adds 0.4 GB a day.

The ledger is the truth; what Dagster remembers is for people, and after a week nobody looks at it. Ticks are
Dagster's own to retain (`retention` in dagster.yaml). For runs it offers `delete_run`, which by version 1.13
leaves behind: what they printed; on SQLite their tags and the file of their events; everywhere the results of
checks. For the events of no run, which `ingest run` reports, it has no call but one that deletes today's
too. These go by SQL, as Dagster's own guide to a large event log does it. Knows Dagster by the few methods
below; a test holds them to the installed version.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, DateTime, bindparam, text

log = logging.getLogger(__name__)

# MRMS alone writes 0.4 GB a day on SQLite, 0.2 GB on PostgreSQL, most of it pictures: a week is 3 GB, a month
# would be 12. benchmarks/event_log.py
KEEP = timedelta(days=7)
# A page of run records is a few megabytes.
RUNS_PER_PAGE = 500

# The newest of each asset and kind stays: the asset's page shows it.
_RUNLESS = """
    run_id = '' AND timestamp < :before AND id NOT IN (
        SELECT MAX(id) FROM event_logs WHERE run_id = '' GROUP BY asset_key, dagster_event_type)
"""
_RUNLESS_TAGS = f"DELETE FROM asset_event_tags WHERE event_id IN (SELECT id FROM event_logs WHERE {_RUNLESS})"  # noqa: S608
_RUNLESS_EVENTS = f"DELETE FROM event_logs WHERE {_RUNLESS}"  # noqa: S608
# The newest result of each check stays: it is the check's state.
_CHECK_RESULTS = """
    DELETE FROM asset_check_executions WHERE create_timestamp < :before AND id NOT IN (
        SELECT MAX(id) FROM asset_check_executions GROUP BY asset_key, check_name)
"""
# SQLite enforces no foreign keys for Dagster, so that delete_run leaves these.
_LEFT_TAGS = "DELETE FROM run_tags WHERE run_id NOT IN (SELECT run_id FROM runs)"


class Run(Protocol):
    """Dagster's DagsterRun."""

    @property
    def run_id(self) -> str: ...
    @property
    def job_name(self) -> str: ...
    @property
    def is_finished(self) -> bool: ...


class RunRecord(Protocol):
    """Dagster's record of a run."""

    @property
    def dagster_run(self) -> Run: ...
    @property
    def create_timestamp(self) -> datetime: ...


class Instance(Protocol):
    """Dagster's DagsterInstance. `Any` where its types are not ours to name."""

    @property
    def event_log_storage(self) -> Any: ...
    @property
    def run_storage(self) -> Any: ...
    @property
    def compute_log_manager(self) -> Any: ...

    def get_run_records(
        self,
        filters: Any = None,
        limit: int | None = None,
        order_by: str | None = None,
        ascending: bool = False,
        cursor: str | None = None,
    ) -> Sequence[RunRecord]: ...

    def all_asset_keys(self) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class PastRun:
    """What decides whether a run is still wanted. Times are UTC."""

    run_id: str
    job: str
    created_at: datetime
    final: bool  # it succeeded, failed or was cancelled: nothing of it goes on


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What one retention of the history removed."""

    runs: int
    events: int  # of no run
    check_results: int
    seconds: float

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def retain(
    instance: Instance,
    *,
    of_job: Callable[[str], Any],
    now: datetime,
    keep: timedelta = KEEP,
    at: Callable[[str], None] = lambda _point: None,
) -> Forgotten:
    """Remove what is older than `keep`, but unfinished runs, and the latest of each job, asset and check.

    `of_job` makes Dagster's filter for the runs of one job. A death anywhere leaves what the next call
    finishes; `at` is told "run" after each run. Dagster's errors are raised as they come.
    """
    began = time.monotonic()
    gone = obsolete(_runs_before(instance, of_job, now - keep), now=now, keep=keep)
    for run_id in gone:
        delete(instance, run_id)
        at("run")
    events, results = _delete_runless(instance, now - keep)
    for key in instance.all_asset_keys():
        # Else the page shows partitions as materialized whose events are gone.
        instance.event_log_storage.wipe_asset_cached_status(key)
    forgotten = Forgotten(len(gone), events, results, round(time.monotonic() - began, 3))
    log.info("history retained", extra=forgotten.facts())
    return forgotten


def obsolete(runs: Iterable[PastRun], *, now: datetime, keep: timedelta) -> tuple[str, ...]:
    """Ids of the runs that may go, oldest first: final, older than `keep`, not the latest of their job."""
    in_order = sorted(runs, key=lambda run: (run.created_at, run.run_id))
    latest = {run.job: run.run_id for run in in_order}
    return tuple(
        run.run_id
        for run in in_order
        if run.final and run.created_at < now - keep and run.run_id != latest[run.job]
    )


def _runs_before(instance: Instance, of_job: Callable[[str], Any], before: datetime) -> Iterator[PastRun]:
    """Every run created before, and the latest of each of their jobs; the other younger ones are not read."""
    jobs: set[str] = set()
    for run in takewhile(lambda run: run.created_at < before, _oldest_first(instance)):
        jobs.add(run.job)
        yield run
    for job in sorted(jobs):
        yield from map(_past, instance.get_run_records(of_job(job), limit=1))


def _oldest_first(instance: Instance) -> Iterator[PastRun]:
    cursor = None
    while page := instance.get_run_records(limit=RUNS_PER_PAGE, ascending=True, cursor=cursor):
        yield from map(_past, page)
        cursor = page[-1].dagster_run.run_id


def _past(record: RunRecord) -> PastRun:
    run = record.dagster_run
    return PastRun(run.run_id, run.job_name, record.create_timestamp.astimezone(UTC), run.is_finished)


def delete(instance: Instance, run_id: str) -> None:
    """One run with all that it left. Its row goes last, where `delete_run` begins: by it a death is found."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.event_log_storage.delete_events(run_id)
    if _has_files(instance):
        shard = Path(instance.event_log_storage.path_for_shard(run_id))
        for path in (shard, *(shard.with_name(shard.name + end) for end in ("-wal", "-shm"))):
            path.unlink(missing_ok=True)
    instance.run_storage.delete_run(run_id)


def _delete_runless(instance: Instance, before: datetime) -> tuple[int, int]:
    """Events of no run, and results of checks. How many of each."""
    log_storage = instance.event_log_storage
    # Dagster's columns have no zone and hold UTC.
    moment = {"before": before.astimezone(UTC).replace(tzinfo=None)}
    with log_storage.index_connection() as connection:
        _execute(connection, _RUNLESS_TAGS, moment)
        events = _execute(connection, _RUNLESS_EVENTS, moment)
        results = _execute(connection, _CHECK_RESULTS, moment)
    if _has_files(instance):
        with log_storage.run_connection("") as connection:
            _execute(connection, _RUNLESS_EVENTS, moment)
    with instance.run_storage.connect() as connection:
        _execute(connection, _LEFT_TAGS, {})
    return events, results


def _has_files(instance: Instance) -> bool:
    """SQLite: a file for the events of each run, and one for those of none, beside the common index."""
    return hasattr(instance.event_log_storage, "path_for_shard")


def _execute(connection: Connection, statement: str, moment: Mapping[str, datetime]) -> int:
    """How many rows it deleted."""
    typed = text(statement).bindparams(*(bindparam(name, type_=DateTime()) for name in moment))
    return connection.execute(typed, moment).rowcount
