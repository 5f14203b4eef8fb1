"""The organisms at a glance, from the ledger and the output folders: for checks, and for `ingest status`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import ObjectRow
from ingest_platform.silo.checks import State
from ingest_platform.silo.discover import past_of
from ingest_platform.silo.model import Organism
from ingest_platform.silo.read import SOURCE, live
from ingest_platform.silo.served import Index, indexes

# More releases than that do not wait: one slot an organism, and few installations have a hundred organisms.
UNFINISHED_ROWS = 1_000
ERRORS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class OrganismStatus:
    """Times are UTC. `lag_seconds` is the time since the live index was last confirmed."""

    organism: str
    rows: int | None  # None: nothing was imported yet
    built_at: datetime | None
    refreshed_at: datetime | None
    lag_seconds: float | None
    served: str | None  # the index that SILO's API finds
    waiting: int
    quarantined: int
    last_errors: tuple[str, ...]


def states(
    catalog: Catalog,
    organisms: Sequence[Organism],
    *,
    histories: Mapping[str, Sequence[int]],
    rows_in: Callable[[Organism, Index], int | None],
) -> tuple[State, ...]:
    """What the checks judge. `histories`: rows of each organism's imports, the oldest first; `rows_in` counts
    an index, or gives None where it cannot. OSError: an output folder cannot be read.
    """
    unfinished = _unfinished(catalog)
    return tuple(
        _state(catalog, organism, unfinished, histories.get(organism.id, ()), rows_in)
        for organism in organisms
    )


def _state(
    catalog: Catalog,
    organism: Organism,
    unfinished: Sequence[ObjectRow],
    history: Sequence[int],
    rows_in: Callable[[Organism, Index], int | None],
) -> State:
    served = _served(organism)
    return State(
        organism,
        live(catalog, organism.id),
        served,
        rows_in(organism, served) if served else None,
        tuple(row for row in unfinished if row.partition == organism.id),
        history,
        past_of(catalog, organism.id).unheeded,
    )


def status_of(catalog: Catalog, organisms: Sequence[Organism], now: datetime) -> tuple[OrganismStatus, ...]:
    """Each organism's state in the order given."""
    unfinished = _unfinished(catalog)
    return tuple(_status(catalog, organism, unfinished, now) for organism in organisms)


def _status(
    catalog: Catalog, organism: Organism, unfinished: Sequence[ObjectRow], now: datetime
) -> OrganismStatus:
    found, served = live(catalog, organism.id), _served(organism)
    mine = [row for row in unfinished if row.partition == organism.id]
    quarantined = sum(row.state == "quarantined" for row in mine)
    return OrganismStatus(
        organism.id,
        rows=found.rows if found else None,
        built_at=found.built_at if found else None,
        refreshed_at=found.refreshed_at if found else None,
        lag_seconds=(now - found.refreshed_at).total_seconds() if found else None,
        served=str(served.path) if served else None,
        waiting=len(mine) - quarantined,
        quarantined=quarantined,
        last_errors=tuple(row.error for row in mine if row.error)[:ERRORS_SHOWN],
    )


def _served(organism: Organism) -> Index | None:
    return next(reversed(indexes(organism.output)), None)


def _unfinished(catalog: Catalog) -> tuple[ObjectRow, ...]:
    """Releases that wait after an error, or were given up."""
    return (
        *catalog.quarantined(SOURCE, limit=UNFINISHED_ROWS),
        *catalog.retrying(SOURCE, limit=UNFINISHED_ROWS),
    )
