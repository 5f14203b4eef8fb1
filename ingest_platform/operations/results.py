"""What purge and reconcile found last, kept in the ledger so that metrics and the status page can show it.

Each operation is a source without objects, and its cursor holds the result: no rule of the ledger reads it.
What was counted (bytes freed, orphans removed) is in the counters, which no later result overwrites.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import SourceGauges

# A page shows the beginning; the whole is in the operation's own report.
MESSAGE_CHARACTERS = 500

PURGE = "purge"
RECONCILE = "reconcile"


@dataclass(frozen=True, slots=True)
class Result:
    """One operation's end. `numbers`: what it found, by kind."""

    at: datetime
    numbers: Mapping[str, int]
    message: str = ""


def keep_purge(catalog: Catalog, *, at: datetime, refused: int, unfinished: int, message: str = "") -> None:
    """`refused`: partitions whose deletion the store denied; `unfinished`: the rest that stay marked."""
    _keep(catalog, PURGE, Result(at, {"refused": refused, "unfinished": unfinished}, message))


def keep_reconcile(
    catalog: Catalog, *, at: datetime, orphans: int, lost: int, troubles: int, message: str = ""
) -> None:
    """What is left: uris without a name, partitions without bytes, and what could not be judged or mended."""
    _keep(catalog, RECONCILE, Result(at, {"unnamed": orphans, "lost": lost, "trouble": troubles}, message))


def last(gauges: Iterable[SourceGauges], operation: str) -> Result | None:
    """The result that was kept last; None: none yet, or it was written by another version."""
    kept = next((of.cursor for of in gauges if of.source == _source(operation)), None)
    try:
        stored = json.loads(kept or "{}")
        numbers = {str(name): int(value) for name, value in stored["numbers"].items()}
        return Result(datetime.fromisoformat(stored["at"]), numbers, str(stored["message"]))
    except (ValueError, TypeError, AttributeError, KeyError):
        return None


def _keep(catalog: Catalog, operation: str, result: Result) -> None:
    text = json.dumps(
        {
            "at": result.at.isoformat(),
            "numbers": dict(result.numbers),
            "message": result.message[:MESSAGE_CHARACTERS],
        }
    )
    catalog.keep_cursor(_source(operation), text)


def _source(operation: str) -> str:
    return f"operations.{operation}"
