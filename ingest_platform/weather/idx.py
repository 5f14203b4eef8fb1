"""What a GRIB file holds, in wgrib2's words, and which of its messages a parameter means.

Parses inventories (.idx) and decides; reads no bytes of GRIB. The choice works on identities alone, so
an inventory and an own scan of the file choose the same messages.

A line is `number:offset:d=reference:variable:level:window:`. The inventory is an object of its own and
may speak of another version of its GRIB: what it says is checked against the object's size here, and
against every message in fetch.py.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ingest_platform.errors import Damaged
from ingest_platform.weather.framing import SECTION_0_BYTES
from ingest_platform.weather.model import Parameter, Window

INSTANT = "instant"
UNITS = {
    "sec": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}
ZERO = timedelta(0)


class IndexMismatch(Damaged):
    """The inventory cannot belong to this object: it is stale, or the object is not complete yet."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a message holds, in wgrib2's words: `APCP`, `surface`, `6-7 hour acc fcst`."""

    variable: str
    level: str
    window: str


@dataclass(frozen=True, slots=True)
class WindowSpan:
    """A window text, understood. Times count from the reference time; an instant starts where it ends."""

    statistic: str  # instant, acc, ave, max, min
    start: timedelta
    end: timedelta


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line: where a message lies, and what it holds."""

    number: int
    field: int  # 0, or the position of a field that shares its message with others
    offset: int
    length: int  # of the whole message
    reference_time: datetime
    identity: Identity


@dataclass(frozen=True, slots=True)
class Choice:
    """The message for one level of a parameter, by its position among the identities."""

    parameter: Parameter
    level: str
    position: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """The inventory's line for one level of a parameter."""

    parameter: Parameter
    level: str
    entry: IndexEntry


def parse_index(text: str, object_size: int) -> tuple[IndexEntry, ...]:
    """The lines of an inventory of an object of `object_size` bytes; the last message ends with the object.

    Damaged if the text is no inventory. IndexMismatch if its offsets do not grow, or reach beyond the object.
    """
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if not lines:
        raise Damaged("the inventory is empty; expected one line a message")
    heads = [_parse_line(number, line) for number, line in enumerate(lines, 1)]
    ends = _ends(heads, object_size)
    return tuple(
        IndexEntry(
            head.number, head.field, head.offset, end - head.offset, head.reference_time, head.identity
        )
        for head, end in zip(heads, ends, strict=True)
    )


def select(entries: Sequence[IndexEntry], parameters: Iterable[Parameter]) -> list[Wanted]:
    """The lines that hold the parameters' grids, in the parameters' order; what is absent is left out."""
    choices = choose([entry.identity for entry in entries], parameters)
    return [Wanted(choice.parameter, choice.level, entries[choice.position]) for choice in choices]


def choose(identities: Sequence[Identity], parameters: Iterable[Parameter]) -> list[Choice]:
    """For each level of each parameter the message of its window, if there is one.

    Among several that fit, the window with the latest start wins, then the latest end, then the first
    in the file: NCEP writes APCP twice, and at the first lead after a reset both are the same.
    """
    spans: dict[tuple[str, str], list[tuple[int, WindowSpan]]] = {}
    for position, identity in enumerate(identities):
        if span := parse_window(identity.window):
            spans.setdefault((identity.variable, identity.level), []).append((position, span))
    return [
        Choice(parameter, level, max(fitting, key=lambda at: (at[1].start, at[1].end, -at[0]))[0])
        for parameter in parameters
        for level in parameter.levels()
        if parameter.variable
        and (
            fitting := [
                at for at in spans.get((parameter.variable, level), ()) if fits(at[1], parameter.window)
            ]
        )
    ]


def fits(span: WindowSpan, window: Window) -> bool:
    """Whether a message's window is of the kind that a parameter asks for.

    An empty window (`0-0 day acc fcst` of an analysis) holds no statistic and fits none.
    """
    match window:
        case Window.INSTANT:
            return span.statistic == INSTANT
        case Window.ACC_RUN:
            return span.statistic == "acc" and span.start == ZERO < span.end
        case Window.ACC_RECENT | Window.AVE_RECENT | Window.MAX_RECENT | Window.MIN_RECENT:
            return span.statistic == window.value.removesuffix(" recent") and span.start < span.end


def absent(
    identities: Sequence[Identity], parameters: Iterable[Parameter]
) -> tuple[tuple[Parameter, str], ...]:
    """Levels of parameters that no message holds. An analysis is not asked for what exists only later."""
    parameters = tuple(parameters)
    there = {(choice.parameter.name, choice.level) for choice in choose(identities, parameters)}
    ends = [span.end for identity in identities if (span := parse_window(identity.window))]
    analysis = bool(ends) and max(ends) == ZERO
    return tuple(
        (parameter, level)
        for parameter in parameters
        for level in parameter.levels()
        if parameter.variable
        and (parameter.name, level) not in there
        and not (analysis and parameter.not_at_lead_zero)
    )


def parse_window(text: str) -> WindowSpan | None:
    """`anl`, `8 hour fcst`, `480-495 min acc fcst`, `0-1 day acc fcst`; None for what we do not know."""
    if text == "anl":
        return WindowSpan(INSTANT, ZERO, ZERO)
    matched = re.fullmatch(r"(?:(\d+)-)?(\d+) (sec|min|hour|day)(?: (acc|ave|max|min))? fcst", text)
    if matched is None or (matched[1] is None) != (matched[4] is None):
        return None
    unit = UNITS[matched[3]]
    end = int(matched[2]) * unit
    start = end if matched[1] is None else int(matched[1]) * unit
    return WindowSpan(matched[4] or INSTANT, start, end) if start <= end else None


@dataclass(frozen=True, slots=True)
class _Head:
    number: int
    field: int
    offset: int
    reference_time: datetime
    identity: Identity


def _parse_line(line_number: int, line: str) -> _Head:
    parts = line.split(":")
    number = re.fullmatch(r"(\d+)(?:\.(\d+))?", parts[0])
    reference = re.fullmatch(r"d=(\d{10}(?:\d\d){0,2})", parts[2]) if len(parts) >= 6 else None
    if number is None or reference is None or not parts[1].isascii() or not parts[1].isdigit():
        raise Damaged(
            f"the inventory's line {line_number} is {line[:120]!r}; expected"
            " number:offset:d=YYYYMMDDHH:variable:level:window:"
        )
    # More fields (ensemble member, probability) make another grid of it: they stay part of the window.
    window = ":".join(parts[5:]).rstrip(":")
    return _Head(
        int(number[1]),
        int(number[2] or 1) - 1,
        int(parts[1]),
        _reference_time(reference[1], line_number),
        Identity(parts[3], parts[4], window),
    )


def _reference_time(digits: str, line_number: int) -> datetime:
    try:
        return datetime.strptime(digits.ljust(14, "0"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise Damaged(
            f"the inventory's line {line_number} has the reference time d={digits}: {error}"
        ) from error


def _ends(heads: Sequence[_Head], object_size: int) -> list[int]:
    """Where each message ends: at the next message, or with the object. Fields of one message share it."""
    ends: list[int] = []
    end, later = object_size, None
    for head in reversed(heads):
        if later and head.number != later.number:
            end = later.offset
        if head.offset + SECTION_0_BYTES > end or (
            later and head.number == later.number and head.offset != later.offset
        ):
            raise IndexMismatch(
                f"the inventory's message {head.number} begins at byte {head.offset:,}, the next or the"
                f" end is at {end:,}; the object has {object_size:,} bytes"
            )
        ends.append(end)
        later = head
    return ends[::-1]
