"""Completeness as people see it: one cell for each lead of a cycle, or each scan or observation of an hour.

From the ledger's objects alone; pure. What counts for the alarm is the completeness check.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Literal

from ingest_platform.catalog.model import ObjectRow
from ingest_platform.weather.model import Kind, Model

# From the best to the worst that can be said of a cell.
Mark = Literal["present", "partial", "waiting", "quarantined", "missing", "expected"]

# Of one object's versions the first of these speaks: what readers have, then what is being done about it.
_MARK_OF_STATE: Mapping[str, Mark] = {
    "ingested": "present",
    "partial": "partial",
    "pending": "waiting",
    "quarantined": "quarantined",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One lead, scan or observation."""

    name: str  # f006, or 06:35
    mark: Mark


@dataclass(frozen=True, slots=True)
class Group:
    """Cells that belong together: a forecast's day, an observation's band or product."""

    title: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One partition."""

    partition: str
    groups: tuple[Group, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(cell for group in self.groups for cell in group.cells)

    @property
    def title_width(self) -> int:
        """Characters of the longest title."""
        return max((len(group.title) for group in self.groups), default=0)

    @property
    def live(self) -> int:
        """Cells that readers have, whole or in part."""
        return sum(cell.mark in ("present", "partial") for cell in self.cells)

    @property
    def told(self) -> str:
        """The row in words: by name what is neither whole nor still to be expected. Empty: nothing is."""
        parts = []
        for mark in _TOLD:
            places = [place for place, cell in enumerate(self.cells) if cell.mark == mark]
            if places:
                parts.append(f"{mark}: {', '.join(self._ranges(places))}")
        return "; ".join(parts)

    def _ranges(self, places: Sequence[int]) -> Iterator[str]:
        """Neighbours of one channel as first–last."""

        def run(numbered: tuple[int, int]) -> tuple[int, str]:
            number, place = numbered
            return place - number, self.cells[place].name.rpartition(" ")[0]

        for _, numbered in groupby(enumerate(places), run):
            first, *rest = [self.cells[place].name for _, place in numbered]
            yield first if not rest else f"{first}–{rest[-1].rpartition(' ')[2]}"


_TOLD: tuple[Mark, ...] = ("partial", "waiting", "quarantined", "missing")


def row_of(model: Model, partition: str, objects: Iterable[ObjectRow], now: datetime) -> Row:
    """The partition's cells. `missing` after the deadline of the completeness check, `expected` before it."""
    start = model.partition_start(partition)
    overdue = now > start + timedelta(minutes=model.complete_after_minutes)
    absent: Mark = "missing" if overdue else "expected"
    marks = _marks(model, objects)
    groups = _days(model, start) if model.kind is Kind.FORECAST else _channels(model, start)
    return Row(
        partition,
        tuple(
            Group(title, tuple(Cell(name, marks.get(place, absent)) for name, place in cells))
            for title, cells in groups
        ),
    )


# Where a cell lies: band or product (none of a forecast), and lead hour or slot of the hour.
_Place = tuple[str, int]
_Places = Iterator[tuple[str, list[tuple[str, _Place]]]]


def _marks(model: Model, objects: Iterable[ObjectRow]) -> dict[_Place, Mark]:
    """What can be said of each place that has an object."""
    states: dict[_Place, set[Mark]] = defaultdict(set)
    for known in objects:
        if known.state in _MARK_OF_STATE:
            states[_place(model, known.slot)].add(_MARK_OF_STATE[known.state])
    return {
        place: next(mark for mark in _MARK_OF_STATE.values() if mark in found)
        for place, found in states.items()
    }


def _place(model: Model, slot: str) -> _Place:
    what = slot.partition("/")[2]
    if model.kind is Kind.FORECAST:
        return "", int(what.removeprefix("f"))
    return what, event_time(slot).minute // model.cadence_minutes


def event_time(slot: str) -> datetime:
    """Cycle, scan start or valid time: every slot begins with it. To parse the keys takes 0.2 ms each."""
    return datetime.strptime(slot.partition("/")[0], "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)


def _days(model: Model, cycle: datetime) -> _Places:
    """A forecast by days: 24 cells while it is hourly, eight where it has steps of three hours."""
    for day, leads in groupby(model.expected_leads(cycle), lambda lead: lead // 24):
        yield f"day {day + 1}", [(f"f{lead:03d}", ("", lead)) for lead in leads]


def _channels(model: Model, hour: datetime) -> _Places:
    """An hour of observations by band or product."""
    for parameter in model.parameters:
        channel = f"C{parameter.band:02d}" if parameter.band is not None else parameter.product or ""
        times = [hour + timedelta(minutes=minute) for minute in range(0, 60, model.cadence_minutes)]
        title = channel if parameter.band is not None else parameter.name
        yield title, [(f"{title} {time:%H:%M}", (channel, slot)) for slot, time in enumerate(times)]
