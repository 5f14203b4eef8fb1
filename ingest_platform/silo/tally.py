"""What an import did, as amounts for the ledger's counters. Pure: who moves them says when.

The counters' names are those that Prometheus sees.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy.exc import SQLAlchemyError

from ingest_platform.catalog.counters import Increments
from ingest_platform.catalog.model import Failed, Outcome
from ingest_platform.errors import (
    Damaged,
    Incomplete,
    PermanentError,
    SourceChanged,
    SourceUnavailable,
    StoreUnavailable,
)
from ingest_platform.silo.engines.contract import EngineError

# How an import ended. `postponed`: nobody blames the release, and it is tried again as long as it takes;
# `failed`: the release is to blame, and an attempt is used.
Good = Literal["imported", "unchanged"]
Status = Literal["imported", "unchanged", "postponed", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)

# Who must act: the backend's or the lineage server's people, those of the data, of the definitions, who says
# whether a loss of rows is meant, the engine's, the machine's, the database's, who configured us; or us.
Reason = Literal[
    "source", "release", "lineages", "rows_lost", "engine", "store", "ledger", "settings", "other"
]
REASONS: tuple[Reason, ...] = get_args(Reason)

IMPORTS = "silo_imports_total"
FAILURES = "silo_import_failures_total"
SECONDS = "silo_import_seconds_total"
ENGINE_SECONDS = "silo_engine_seconds_total"
LOADED = "silo_downloaded_bytes_total"

# The first that fits: what an engine refuses is damaged, too.
_REASON_OF: tuple[tuple[Reason, tuple[type[BaseException], ...]], ...] = (
    ("engine", (EngineError,)),
    ("source", (SourceUnavailable, SourceChanged)),
    ("lineages", (Incomplete,)),
    ("release", (Damaged,)),
    ("settings", (PermanentError,)),
    ("store", (StoreUnavailable, OSError, MemoryError)),
    ("ledger", (SQLAlchemyError,)),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one import took, from its claim on."""

    seconds: float
    engine_seconds: float  # of a build that was published
    loaded_bytes: int  # of a download that was whole, as the backend sent it


def committed(organism: str, what: Good, cost: Cost) -> Increments:
    """What a commit moves."""
    return _ended(organism, what, cost)


def handed_back(organism: str, error: BaseException, outcomes: Iterable[Outcome], cost: Cost) -> Increments:
    """What an import without a commit moves. `outcomes`: what the error means for the version; none: an
    attempt is used.
    """
    outcomes = tuple(outcomes)
    given_up = any(isinstance(outcome, Failed) and outcome.permanent for outcome in outcomes)
    blamed = not outcomes or any(isinstance(outcome, Failed) for outcome in outcomes)
    reason: Reason = "rows_lost" if given_up else reason_of(error)
    labels = (("organism", organism), ("reason", reason))
    return {**_ended(organism, "failed" if blamed else "postponed", cost), (FAILURES, labels): 1}


def reason_of(error: BaseException) -> Reason:
    """Who must act, by the kind of error alone. `other`: interrupted, or not foreseen."""
    return next((reason for reason, kinds in _REASON_OF if isinstance(error, kinds)), "other")


def _ended(organism: str, status: Status, cost: Cost) -> Increments:
    mine = ("organism", organism)
    return {
        (IMPORTS, (mine, ("status", status))): 1,
        (SECONDS, (mine,)): cost.seconds,
        (ENGINE_SECONDS, (mine,)): cost.engine_seconds,
        (LOADED, (mine,)): cost.loaded_bytes,
    }
