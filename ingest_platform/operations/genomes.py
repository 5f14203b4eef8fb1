"""SILO's organisms for Prometheus, from the ledger alone.

Where a metric of the weather models means the same, an organism has its samples there, with its id under the
label `organism` beside `model="silo"`; what only organisms have is named `silo_…`.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from prometheus_client import Metric

from ingest_platform.operations.families import CounterOf, gauges_by
from ingest_platform.silo import tally
from ingest_platform.silo.read import SOURCE, Live
from ingest_platform.silo.status import OrganismStanding, longest_unconfirmed

Sample = tuple[str, Mapping[str, str], float]  # family, labels, value


def beside_models(states: Sequence[OrganismStanding]) -> Iterator[Sample]:
    """Samples of organisms in families that models have, too."""
    for state in states:
        labels = {"model": SOURCE, "organism": state.organism.id}
        if state.committed_at is not None:
            yield "ingest_last_success_timestamp_seconds", labels, state.committed_at.timestamp()
        for queued, number in _queue(state).items():
            yield "ingest_queue_depth", {**labels, "state": queued}, number


def _queue(state: OrganismStanding) -> Mapping[str, int]:
    """An organism has one slot, so what waits after an error and is due again is one thing."""
    waiting = 0 if state.due else len(state.retrying)
    return {"due": int(state.due), "quarantined": len(state.quarantined), "waiting": waiting}


def gauges(states: Sequence[OrganismStanding], now: datetime) -> Iterator[Metric]:
    """Per organism."""
    return gauges_by("organism", GAUGES, {s.organism.id: _readings(s, now) for s in states})


def _readings(state: OrganismStanding, now: datetime) -> Mapping[str, datetime | float | None]:
    return {
        **dict.fromkeys(OF_INDEX),
        **(_of_index(state.live) if state.live else {}),
        "silo_refresh_limit_seconds": longest_unconfirmed(state.organism).total_seconds(),
        "silo_next_refresh_timestamp_seconds": state.refresh_due(now),
        "silo_last_poll_timestamp_seconds": state.past.asked_at,
        "silo_poll_failures": state.past.failures,
        "silo_polls_unheeded": state.past.unheeded,
    }


def _of_index(live: Live) -> Mapping[str, datetime | float]:
    return {
        "silo_index_rows": live.rows,
        "silo_index_bytes": live.index_bytes,
        "silo_release_bytes": live.body_bytes,
        "silo_index_built_timestamp_seconds": live.built_at,
        "silo_refreshed_timestamp_seconds": live.refreshed_at,
    }


OF_INDEX = {
    "silo_index_rows": "Records in the index that the ledger names.",
    "silo_index_bytes": "Its size in the output folder.",
    "silo_release_bytes": "Size of its release as the backend sent it.",
    "silo_index_built_timestamp_seconds": "When it was built, Unix time.",
    "silo_refreshed_timestamp_seconds": "When all was looked at last, changed or not, Unix time.",
}
GAUGES = {
    **OF_INDEX,
    "silo_refresh_limit_seconds": "The longest until the next look while all is well: two hard refreshes.",
    "silo_next_refresh_timestamp_seconds": "When all is looked at next, Unix time; in the past: overdue.",
    "silo_last_poll_timestamp_seconds": "When the backend was asked last, Unix time, answered or not.",
    "silo_poll_failures": "Polls in a row that failed.",
    "silo_polls_unheeded": "Polls in a row that were answered 200 with the very ETag that they named.",
}

COUNTERS = (
    CounterOf(
        tally.IMPORTS,
        "Imports by how they ended: imported, unchanged, postponed, failed.",
        ((tally.IMPORTS, ""),),
        ("organism", "status"),
        tally.STATUSES,
    ),
    CounterOf(
        tally.FAILURES,
        "Imports that were postponed or failed, by what stopped them.",
        ((tally.FAILURES, ""),),
        ("organism", "reason"),
        tally.REASONS,
    ),
    CounterOf(
        tally.SECONDS,
        "Time from claim to commit, or to giving back, added up over all imports.",
        ((tally.SECONDS, ""),),
        ("organism",),
    ),
    CounterOf(
        tally.ENGINE_SECONDS,
        "Time that engines took for indexes that were published.",
        ((tally.ENGINE_SECONDS, ""),),
        ("organism",),
    ),
    CounterOf(
        tally.LOADED,
        "Bytes of downloads that were whole, as the backend sent them.",
        ((tally.LOADED, ""),),
        ("organism",),
    ),
    CounterOf(
        "conditional_requests_unheeded_total",
        "Polls that were answered 200 with the very ETag that they named.",
        (("conditional_requests_unheeded_total", ""),),
        ("organism",),
    ),
)
