"""Runs that Dagster takes for running and that nobody works on: their machine is gone, so nobody ends them.

Dagster asks no worker on another machine whether it lives, and a run that never ends keeps its pool's
slot: its model stands still. The ledger knows better, for whoever works renews a lease. Decides only; a
wrong verdict costs a run and no data, for the ledger bears a worker's death at any point.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import PartitionRow

# A run without a lease lists its partition (40 s at most), begins or ends a batch, or draws its picture and
# tells Dagster: a minute or two. The clocks of ledger, Dagster and worker may each be five minutes off.
SILENCE = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Running:
    """A run as Dagster sees it."""

    run_id: str
    source: str  # the ledger's name
    partition: str
    started_at: datetime

    @property
    def owner(self) -> str:
        """How it signs its leases."""
        return f"run {self.run_id}"


@dataclass(frozen=True, slots=True)
class Ghost:
    """A run to be ended, and the reason for people."""

    run_id: str
    why: str


def ghosts(catalog: Catalog, running: Iterable[Running], *, now: datetime) -> tuple[Ghost, ...]:
    """The runs that gave no sign of life for longer than SILENCE. A ledger's error is raised."""
    runs = tuple(running)
    rows = {
        (row.source, row.partition): row
        for source in sorted({run.source for run in runs})
        for row in catalog.partitions(source)
    }
    judged = (judge(run, rows.get((run.source, run.partition)), now) for run in runs)
    return tuple(ghost for ghost in judged if ghost is not None)


def judge(run: Running, row: PartitionRow | None, now: datetime) -> Ghost | None:
    """None: it lives, or may. `row`: its partition in the ledger, if there is one.

    Its own lease is the surest sign: renewed while it works, so its end is when it fell silent. Without
    one it may not have claimed yet, be between two batches or behind the last, or have been relieved: then
    its start and the partition's last commit are the signs, whosever that was.
    """
    mine = row is not None and row.lease_owner == run.owner and row.lease_until is not None
    signs: Sequence[datetime | None]
    if row is not None and mine:
        signs = [row.lease_until]
    else:
        signs = [run.started_at, row.committed_at if row else None]
    silent = now - max(sign for sign in signs if sign is not None)
    return Ghost(run.run_id, _why(run, row, silent)) if silent > SILENCE else None


def _why(run: Running, row: PartitionRow | None, silent: timedelta) -> str:
    minutes = int(silent / timedelta(minutes=1))
    if row is not None and row.lease_owner == run.owner:
        fact = f"its lease on {run.source} {run.partition} ran out {minutes} minutes ago and was not renewed"
    elif row is not None and row.lease_owner is not None:
        fact = f"{row.lease_owner} has the lease on {run.source} {run.partition}, and this run none"
    else:
        fact = f"it has no lease on {run.source} {run.partition}"
    return (
        f"Nobody works on this run: {fact}; no sign of it for {minutes} minutes, expected one within"
        f" {int(SILENCE / timedelta(minutes=1))}. Its machine is gone or its process hangs. What it committed"
        " stands, what it had claimed is taken up by the next run. Nothing needs to be done."
    )
