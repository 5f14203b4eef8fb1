"""What purge and reconcile found last, kept in the ledger so that metrics and the status page can show it.

Each is a source without objects, of purge one for each source that was purged, so that a purge of some wipes
nothing that was found in others; the cursor holds the result, and no rule of the ledger reads it.
What was counted (bytes freed, orphans removed) is in the counters, which no later result overwrites.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import SourceGauges

# A page shows the beginning; the whole is in the operation's own report.
MESSAGE_CHARACTERS = 500

PURGE = "purge"
RECONCILE = "reconcile"
# Four periods of the schedule: who was not purged for so long is in no policy, or nothing purges at all.
UNPURGED_AFTER = timedelta(days=1)
# An organism has no time that could be over: its partition stays as long as its entry, and no purge speaks
# of it.
NEVER_PURGED = "silo"


@dataclass(frozen=True, slots=True)
class Result:
    """One operation's end. `numbers`: what it found, by kind."""

    at: datetime
    numbers: Mapping[str, int]
    message: str = ""


def keep_purge(
    catalog: Catalog, source: str, *, at: datetime, refused: int, unfinished: int, message: str = ""
) -> None:
    """`refused`: partitions whose deletion the store denied; `unfinished`: others that it left marked."""
    numbers = {"refused": refused, "unfinished": unfinished}
    _keep(catalog, f"{PURGE}.{source}", Result(at, numbers, message))


def keep_reconcile(
    catalog: Catalog, *, at: datetime, orphans: int, lost: int, troubles: int, message: str = ""
) -> None:
    """What is left: uris without a name, partitions without bytes, and what could not be judged or mended."""
    _keep(catalog, RECONCILE, Result(at, {"unnamed": orphans, "lost": lost, "trouble": troubles}, message))


def last(gauges: Iterable[SourceGauges], operation: str) -> Result | None:
    """The result that was kept last, of purge over all sources; None: none yet, or of another version."""
    if operation == PURGE:
        return _together(purges(gauges).values())
    return next((_parsed(of.cursor) for of in gauges if of.source == _source(operation)), None)


def purges(gauges: Iterable[SourceGauges]) -> Mapping[str, Result]:
    """The last purge of each source. What it left counts as long as the ledger has it marked."""
    by_source = {of.source: of for of in gauges}
    found = {}
    for name, of in by_source.items():
        kept = by_source.get(_source(f"{PURGE}.{name}"))
        result = kept and _parsed(kept.cursor)
        if result:
            found[name] = replace(result, numbers=_still(result.numbers, of.partitions.get("purging", 0)))
    return found


def unpurged(gauges: Iterable[SourceGauges], now: datetime) -> tuple[str, ...]:
    """Sources that hold data and that no purge of the last day took care of, by name.

    A model that was renamed or whose file was removed: no policy speaks of its data any more.
    """
    gauges = tuple(gauges)
    ended = {name: result.at for name, result in purges(gauges).items()}
    return tuple(
        of.source
        for of in gauges
        if holds_data(of) and (of.source not in ended or now - ended[of.source] > UNPURGED_AFTER)
    )


def holds_data(gauges: SourceGauges) -> bool:
    """Whether retention has anything to do with it, now or later."""
    if gauges.source == NEVER_PURGED:
        return False
    return any(gauges.partitions.get(state) for state in ("open", "purging"))


def _still(numbers: Mapping[str, int], marked: int) -> Mapping[str, int]:
    refused = min(numbers.get("refused", 0), marked)
    return {"refused": refused, "unfinished": min(numbers.get("unfinished", 0), marked - refused)}


def _together(results: Iterable[Result]) -> Result | None:
    results = tuple(results)
    if not results:
        return None
    numbers: Counter[str] = Counter()
    for result in results:
        numbers.update(result.numbers)
    message = next((result.message for result in results if result.message), "")
    return Result(max(result.at for result in results), numbers, message)


def _parsed(kept: str | None) -> Result | None:
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
