"""The organisms at a glance: for metrics and the status page from the ledger alone, for checks and for
`ingest status` from the output folders, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import ObjectRow
from ingest_platform.errors import StoreUnavailable
from ingest_platform.silo.checks import (
    SHORTEST_REFRESH,
    STALE_AFTER_REFRESHES,
    State,
    index_served,
    outage,
)
from ingest_platform.silo.discover import Past, next_refresh, pasts
from ingest_platform.silo.model import Organism
from ingest_platform.silo.read import SOURCE, Live, lives
from ingest_platform.silo.serve import standing
from ingest_platform.silo.served import Index, indexes

# More releases than that do not wait: one slot an organism, and few installations have a hundred organisms.
UNFINISHED_ROWS = 1_000
ERRORS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class OrganismStanding:
    """One organism as the ledger has it. Times are UTC; None: never, or nothing yet."""

    organism: Organism
    live: Live | None
    past: Past
    committed_at: datetime | None
    due: bool  # a version waits for an importer, or one has it in hand
    unfinished: tuple[ObjectRow, ...]  # versions that wait after an error, or were given up

    @property
    def quarantined(self) -> tuple[ObjectRow, ...]:
        return tuple(row for row in self.unfinished if row.state == "quarantined")

    @property
    def retrying(self) -> tuple[ObjectRow, ...]:
        return tuple(row for row in self.unfinished if row.state != "quarantined")

    def refresh_due(self, now: datetime) -> datetime | None:
        """When everything is to be looked at again; in the past if that is overdue."""
        due = self._next_refresh(now)
        if due is None or due > now:
            return due
        moments = (self.past.ordered_at, self.live.refreshed_at if self.live else None)
        behind = [moment for moment in moments if moment is not None and moment <= now]
        return self._next_refresh(max(behind)) if behind else now

    def _next_refresh(self, now: datetime) -> datetime | None:
        return next_refresh(self.organism, self.live, self.past, now, given_up=bool(self.quarantined))


def longest_unconfirmed(organism: Organism) -> timedelta:
    """The longest that a live index goes unconfirmed while all is well: as the check `fresh` has it."""
    refresh = timedelta(seconds=organism.hard_refresh_seconds)
    return STALE_AFTER_REFRESHES * max(refresh, SHORTEST_REFRESH)


def standings(catalog: Catalog, organisms: Sequence[Organism]) -> tuple[OrganismStanding, ...]:
    """Each organism in the order given. A ledger that cannot be read raises."""
    if not organisms:
        return ()
    past, index = pasts(catalog), lives(catalog)
    unfinished, due = _unfinished(catalog), set(catalog.due_partitions(SOURCE))
    rows = {row.partition: row for row in catalog.partitions(SOURCE)}
    now = catalog.clock()
    return tuple(
        OrganismStanding(
            organism,
            index.get(organism.id),
            past.get(organism.id, Past()),
            committed_at=row.committed_at if (row := rows.get(organism.id)) else None,
            due=organism.id in due or bool(row and row.lease_until and row.lease_until > now),
            unfinished=tuple(row for row in unfinished if row.partition == organism.id),
        )
        for organism in organisms
    )


@dataclass(frozen=True, slots=True)
class OrganismStatus:
    """Times are UTC. `lag_seconds` is the time since the live index was last confirmed."""

    organism: str
    rows: int | None  # None: nothing was imported yet
    built_at: datetime | None
    refreshed_at: datetime | None
    lag_seconds: float | None
    served: str | None  # the index that SILO's API finds
    poll_failures: int  # polls in a row that failed
    failing_since: datetime | None  # the first of them
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
    an index, or gives None where it cannot. An output folder that cannot be read is its own organism's.
    """
    return tuple(
        _looked_into(_state(found, histories.get(found.organism.id, ())), rows_in)
        for found in standings(catalog, organisms)
    )


def _state(found: OrganismStanding, history: Sequence[int] = ()) -> State:
    """As the ledger has it; nobody has looked into the output folder."""
    return State(
        found.organism, found.live, None, unfinished=found.unfinished, history=history, past=found.past
    )


def _looked_into(state: State, rows_in: Callable[[Organism, Index], int | None]) -> State:
    """With what the output folder shows."""
    try:
        found = standing(state.live, state.organism) if state.live else "served"
        served = next(reversed(indexes(state.organism.output)), None)
        rows = rows_in(state.organism, served) if served else None
    except StoreUnavailable as error:
        return replace(state, unreadable=str(error))
    except OSError as error:
        return replace(state, unreadable=f"{state.organism.output} cannot be read: {error}")
    return replace(state, served=served, standing=found, served_rows=rows)


def status_of(catalog: Catalog, organisms: Sequence[Organism], now: datetime) -> tuple[OrganismStatus, ...]:
    """Each organism's state in the order given."""
    return tuple(_status(standing, now) for standing in standings(catalog, organisms))


def _status(standing: OrganismStanding, now: datetime) -> OrganismStatus:
    found, past = standing.live, standing.past
    seen = _looked_into(_state(standing), lambda _organism, _index: None)
    errors = (outage(past), index_served(seen), *(row.error for row in standing.unfinished))
    return OrganismStatus(
        standing.organism.id,
        rows=found.rows if found else None,
        built_at=found.built_at if found else None,
        refreshed_at=found.refreshed_at if found else None,
        lag_seconds=(now - found.refreshed_at).total_seconds() if found else None,
        served=str(seen.served.path) if seen.served else None,
        poll_failures=past.failures,
        failing_since=past.failing_since,
        waiting=len(standing.retrying),
        quarantined=len(standing.quarantined),
        last_errors=tuple(error for error in errors if error)[:ERRORS_SHOWN],
    )


def _unfinished(catalog: Catalog) -> tuple[ObjectRow, ...]:
    """Releases that wait after an error, or were given up."""
    return (
        *catalog.quarantined(SOURCE, limit=UNFINISHED_ROWS),
        *catalog.retrying(SOURCE, limit=UNFINISHED_ROWS),
    )
