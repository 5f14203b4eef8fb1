"""What an ingest did, as amounts for the ledger's counters. Pure: who moves them says when.

A histogram is one counter a bucket, and an observation moves the one bucket that it falls into: a commit
then touches few rows. The exporter adds the buckets up.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal, get_args

from ingest_platform.catalog.counters import Increments
from ingest_platform.catalog.model import Failed, Outcome, Published
from ingest_platform.weather.model import Model, Rejected

# How a batch ended. `postponed`: nothing was published and nobody is to blame, as while the source is still
# writing; `failure`: an object is damaged and none is good, or something of ours broke.
Status = Literal["success", "partial", "postponed", "failure"]
STATUSES: tuple[Status, ...] = get_args(Status)

RUNS = "ingestion_runs_total"
REJECTS = "messages_rejected_total"
DURATION = "ingestion_duration_seconds"
VISIBLE = "publish_to_visible_seconds"

# Upper bounds, seconds. A radar mosaic takes half a second, sixteen GFS leads a minute; a batch is relieved
# after an hour.
DURATION_BOUNDS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
# Following, radar is visible after 4 s; through a sensor after half a minute; GFS is listed once an hour.
VISIBLE_BOUNDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)


def committed(
    model: Model,
    outcomes: Sequence[Outcome],
    rejected: Iterable[Rejected],
    *,
    seconds: float,
    now: datetime,
) -> Increments:
    """What a commit of these outcomes moves. `seconds`: since its claim; `now`: when readers see it, UTC."""
    whole = all(isinstance(outcome, Published) and outcome.error is None for outcome in outcomes)
    return {
        **_run(model, "success" if whole else "partial", seconds),
        **_rejects(model, rejected),
        **_histogram(VISIBLE, model, VISIBLE_BOUNDS, _delays(model, outcomes, now)),
    }


def handed_back(
    model: Model, outcomes: Sequence[Outcome], rejected: Iterable[Rejected], *, seconds: float, broken: bool
) -> Increments:
    """What a batch without a commit moves. `seconds`: since its claim; `broken`: something of ours was."""
    failed = broken or any(isinstance(outcome, Failed) for outcome in outcomes)
    return {**_run(model, "failure" if failed else "postponed", seconds), **_rejects(model, rejected)}


def _run(model: Model, status: Status, seconds: float) -> Increments:
    labels = (("source", model.source_name), ("status", status))
    return {(RUNS, labels): 1, **_histogram(DURATION, model, DURATION_BOUNDS, [seconds])}


def _rejects(model: Model, rejected: Iterable[Rejected]) -> Increments:
    kinds = Counter(message.kind for message in rejected)
    return {
        (REJECTS, (("source", model.source_name), ("reason", kind))): number for kind, number in kinds.items()
    }


def _delays(model: Model, outcomes: Iterable[Outcome], now: datetime) -> list[float]:
    """Seconds from each published version's upload until now.

    What is older than retention came by an explicit backfill: nobody waited for it since its upload.
    """
    kept = timedelta(hours=model.retention_hours)
    ages = [now - outcome.object.version_time for outcome in outcomes if isinstance(outcome, Published)]
    # Clocks differ by minutes: an upload from the future was visible at once.
    return [max(0.0, age.total_seconds()) for age in ages if age <= kept]


def _histogram(name: str, model: Model, bounds: Sequence[float], observed: Sequence[float]) -> Increments:
    """Counters `<name>_bucket`, by the upper bound that is next above each observation, and `<name>_sum`."""
    source = ("source", model.source_name)
    names = [*(f"{bound:g}" for bound in bounds), "+Inf"]
    buckets = Counter(names[bisect_left(bounds, value)] for value in observed)
    moved: Increments = {
        (f"{name}_bucket", (source, ("le", bound))): number for bound, number in buckets.items()
    }
    return {**moved, (f"{name}_sum", (source,)): sum(observed)}
