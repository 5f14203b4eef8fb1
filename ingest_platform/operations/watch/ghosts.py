"""Runs that Dagster takes for running and that nobody works on: their machine is gone, so nobody ends them.

Dagster asks no worker on another machine whether it lives, and a run that never ends keeps its pool's
slot: its model stands still. The ledger knows better, for whoever works renews a lease. Decides only, and
only what two looks agree on; a wrong verdict costs a run and no data, for the ledger bears a worker's
death at any point.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import PartitionRow

# A run without a lease lists its partition (40 s at most), begins or ends a batch, or draws its picture and
# tells Dagster: a minute or two. The clocks of ledger and Dagster may each be five minutes off.
SILENCE = timedelta(minutes=15)
# One look may fall between two batches of a run that worked an hour on the first, or into the moment in which
# ledger and machines wake up together. A batch begins with its lease, and a lease is renewed every 30 s.
CONFIRMED_AFTER = timedelta(minutes=1)
# Looks come every minute. What was suspected before a longer gap says nothing about a run that went on since.
LOOKS_APART = timedelta(minutes=10)


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


@dataclass(frozen=True, slots=True)
class Suspects:
    """What the last look found: run id → since when every look has said so. Lies in a sensor's cursor."""

    looked_at: datetime | None = None
    since: Mapping[str, datetime] = field(default_factory=dict)

    @classmethod
    def parse(cls, cursor: str | None) -> Suspects:
        """None, and what cannot be read: nobody is suspected yet, so that a verdict only comes later."""
        try:
            kept = json.loads(cursor or "")
            since = {str(run): datetime.fromisoformat(at) for run, at in kept["since"].items()}
            return cls(datetime.fromisoformat(kept["looked_at"]), since)
        except (ValueError, TypeError, AttributeError, KeyError):
            return cls()

    def text(self) -> str:
        return json.dumps(
            {
                "looked_at": self.looked_at.isoformat() if self.looked_at else None,
                "since": {run: at.isoformat() for run, at in self.since.items()},
            }
        )


def confirm(before: Suspects, found: Sequence[Ghost], *, now: datetime) -> tuple[tuple[Ghost, ...], Suspects]:
    """The ghosts on whom all looks agreed for CONFIRMED_AFTER, and whom to suspect at the next."""
    fresh = before.looked_at is not None and timedelta(0) <= now - before.looked_at <= LOOKS_APART
    since = {ghost.run_id: before.since.get(ghost.run_id, now) if fresh else now for ghost in found}
    sure = tuple(ghost for ghost in found if now - since[ghost.run_id] >= CONFIRMED_AFTER)
    return sure, Suspects(now, since)


def ghosts(catalog: Catalog, running: Iterable[Running], *, now: datetime) -> tuple[Ghost, ...]:
    """The runs that gave no sign of life for longer than SILENCE, at this look. A ledger's error is raised.

    `now`: Dagster's clock, for when runs started; what the ledger wrote is compared with its own.
    """
    runs = tuple(running)
    sources = sorted({run.source for run in runs})
    # Before the rows: a lease that is renewed in between is only longer.
    clocks = {known.source: known.at for source in sources for known in catalog.gauges(source)}
    rows = {(row.source, row.partition): row for source in sources for row in catalog.partitions(source)}
    judged = (
        judge(run, rows.get((run.source, run.partition)), now=now, ledger_now=clocks.get(run.source, now))
        for run in runs
    )
    return tuple(ghost for ghost in judged if ghost is not None)


def judge(run: Running, row: PartitionRow | None, *, now: datetime, ledger_now: datetime) -> Ghost | None:
    """None: it lives, or may. `row`: its partition in the ledger, if there is one.

    Its own lease is the surest sign: renewed while it works, so its end is when it fell silent. Without
    one it may not have claimed yet, be between two batches or behind the last, or have been relieved: then
    its start and the partition's last commit are the signs, whosever that was.
    """
    silent = now - run.started_at
    if row is not None and row.lease_owner == run.owner and row.lease_until is not None:
        silent = ledger_now - row.lease_until
    elif row is not None and row.committed_at is not None:
        silent = min(silent, ledger_now - row.committed_at)
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
