"""What exists in the NOAA buckets. Lists, never downloads; a listing that cannot be read raises.

Every tick lists the recent window; once an hour everything that retention still keeps. Both are bounded by
the clock only to the hour, and no object is judged by its age within them: what a listing shows and the
settings name is seen, in whatever order it was published. The ledger tells known from new, so the cursor is
a resume token and losing it costs one full pass.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol, Self

from ingest_platform.catalog.model import Sighting
from ingest_platform.weather.keys import Value, event_field, parse, template
from ingest_platform.weather.model import Kind, Model, Source

# A host's clock may be minutes behind the source's.
AHEAD = timedelta(hours=1)
# The recent window in deadlines of completeness. Four make 28 h for GFS (objects have been published again a
# day later), 10 h for HRRR (f18 comes 90 min after its cycle), 6 h for satellite and radar.
RECENT_DEADLINES = 4
FULL_PASS_EVERY = timedelta(hours=1)


class Listed(Protocol):
    """One object of a listing."""

    @property
    def key(self) -> str: ...
    @property
    def etag(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def last_modified(self) -> datetime: ...


class Lister(Protocol):
    """All that discovery needs of a bucket: pages in key order, one request each; a failure raises."""

    def list(self, prefix: str, *, start_after: str | None = None) -> Iterable[Sequence[Listed]]: ...


@dataclass(frozen=True, slots=True)
class Prefix:
    """One bounded listing: what it covers begins at `start` and lies in `partitions`."""

    bucket: str
    prefix: str
    start_after: str | None
    start: datetime
    partitions: tuple[str, ...]

    @property
    def place(self) -> tuple[datetime, str, str]:
        """Order of a pass: newest first, because a forecaster waits for the newest."""
        return (self.start, self.bucket, self.prefix)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a row of listings stopped when its time was up. `after` None: this prefix was finished."""

    start: datetime
    bucket: str
    prefix: str
    after: str | None

    @classmethod
    def parse(cls, stored: dict[str, str]) -> Self:
        return cls(_time(stored["start"]), stored["bucket"], stored["prefix"], stored["after"])

    @property
    def place(self) -> tuple[datetime, str, str]:
        return (self.start, self.bucket, self.prefix)


@dataclass(frozen=True, slots=True)
class Cursor:
    """What one tick tells the next. Losing it is harmless: the next tick makes a full pass."""

    listed_at: datetime | None = None  # last tick that ended well
    full_pass_at: datetime | None = None  # last full pass that reached its end
    newest: datetime | None = None  # newest partition seen: after an outage the window hangs on it
    recent: Position | None = None  # where the recent window stopped, if its time was up
    full: Position | None = None  # where the full pass stopped

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """The cursor that text() wrote; a fresh one for nothing, or for what another version wrote."""
        try:
            stored = json.loads(text or "{}")
            for name, value in stored.items():
                stored[name] = Position.parse(value) if isinstance(value, dict) else _time(value)
            return cls(**stored)
        except (ValueError, TypeError, AttributeError, KeyError):
            return cls()

    def text(self) -> str:
        """JSON of at most 1 kB, as long as keys have at most 250 characters."""
        stored = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(stored, default=datetime.isoformat)

    def due(self, now: datetime, every: timedelta) -> bool:
        """Is it time for the next listing? At once if the last one did not reach its end."""
        # abs(): a clock that was set back must not put the next listing off for as long.
        stopped = self.recent is not None or self.full is not None
        return stopped or self.listed_at is None or abs(now - self.listed_at) >= every

    def full_pass_is_due(self, now: datetime) -> bool:
        return self.full_pass_at is None or abs(now - self.full_pass_at) >= FULL_PASS_EVERY


@dataclass(frozen=True, slots=True)
class Discovery:
    """What one tick found."""

    cursor: Cursor
    listed: int  # keys in the listings
    seen: int  # sightings that `see` took for new
    list_calls: int  # LIST requests
    complete: bool  # False: time was up, the next tick goes on from the cursor


def discover(
    model: Model,
    open_bucket: Callable[[str], Lister],
    see: Callable[[Sequence[Sighting]], int],
    *,
    now: datetime,
    cursor: Cursor,
    budget: Callable[[], float],
) -> Discovery:
    """List what may have changed since the last tick and see() all of it that retention keeps, page by page.

    `see` returns how many sightings were new. `budget` returns the seconds left and is asked after each page,
    so every tick makes progress. What a listing or `see` raises goes through: the old cursor stays valid.
    """
    cutoff = now - timedelta(hours=model.retention_hours)
    done = Discovery(cursor, listed=0, seen=0, list_calls=0, complete=False)
    work = _work(model, now, cutoff, cursor)
    for of, prefix in work:
        for page in _pages(open_bucket(prefix.bucket), prefix):
            kept = [s for s in sightings(model, prefix.bucket, page) if s.event_end > cutoff]
            done = replace(
                done,
                cursor=replace(done.cursor, newest=_newest(model, done.cursor.newest, kept)),
                listed=done.listed + len(page),
                seen=done.seen + (see(kept) if kept else 0),
                list_calls=done.list_calls + 1,
            )
            if budget() <= 0:
                after = page[-1].key if page else None
                here = Position(prefix.start, prefix.bucket, prefix.prefix, after)
                stopped = {"recent": here} if of == "recent" else {"recent": None, "full": here}
                return replace(done, cursor=replace(done.cursor, listed_at=now, **stopped))
    full_pass_at = now if cursor.full_pass_is_due(now) else cursor.full_pass_at
    end = replace(done.cursor, listed_at=now, full_pass_at=full_pass_at, recent=None, full=None)
    return replace(done, cursor=end, complete=True)


def prefixes(model: Model, since: datetime, until: datetime) -> tuple[Prefix, ...]:
    """The listings that show every object with an event time in [since, until), newest first.

    A forecast cycle is one listing; observations take one per folder that carries their hour, or their day.
    Where the key goes on with the time, a listing starts after the keys before `since`.
    """
    found: dict[Prefix, None] = {}
    for source in model.sources:
        span = _folder_span(model, source)
        start = _floor(since, span)
        while start < until:
            if _may_hold(model, source, start, span):
                found |= dict.fromkeys(_prefixes_at(model, source, start, span, since, until))
            start += span
    return tuple(sorted(found, key=lambda p: p.place, reverse=True))


def partition_prefixes(model: Model, partition: str) -> tuple[Prefix, ...]:
    """The listings of one partition, as narrow as its keys allow."""
    start, span = model.partition_start(partition), timedelta(hours=model.partition_hours)
    found = {
        replace(prefix, start_after=None): None
        for source in model.sources
        if _may_hold(model, source, start, span)
        for prefix in _prefixes_at(model, source, start, span, start, start + span)
    }
    return tuple(sorted(found, key=lambda p: p.place, reverse=True))


def sightings(model: Model, bucket: str, listed: Iterable[Listed]) -> list[Sighting]:
    """The listed objects that the model's settings name. An empty object is seen too: ingest says why not."""
    seen = []
    for item in listed:
        if (file := parse(model, bucket, item.key)) is None:
            continue
        partition = model.partition_key(file.event_time)
        seen.append(
            Sighting(
                bucket=bucket,
                key=item.key,
                etag=item.etag,
                size_bytes=item.size_bytes,
                # Two files of one scan are two keys: the name tells which is newer, whenever it was copied.
                version_time=file.created or item.last_modified,
                partition=partition,
                event_end=model.partition_end(partition),
                slot=file.slot,
            )
        )
    return seen


def _work(
    model: Model, now: datetime, cutoff: datetime, cursor: Cursor
) -> Iterator[tuple[Literal["recent", "full"], Prefix]]:
    """This tick's listings: the recent window, then the full pass if it is due, from where it stopped."""
    window = RECENT_DEADLINES * timedelta(minutes=model.complete_after_minutes)
    since = max(min(now, cursor.newest or now) - window, cutoff)
    recent = prefixes(model, since, now + AHEAD)
    for prefix in _from_position(recent, cursor.recent):
        yield "recent", prefix
    if cursor.full_pass_is_due(now):
        rest = _from_position(prefixes(model, cutoff, now + AHEAD), cursor.full)
        yield from (("full", prefix) for prefix in rest if prefix not in recent)


def _from_position(listings: Sequence[Prefix], position: Position | None) -> Iterator[Prefix]:
    for prefix in listings:
        if position is None or prefix.place < position.place:
            yield prefix
        elif prefix.place == position.place and position.after is not None:
            yield replace(prefix, start_after=max(prefix.start_after or "", position.after))


def _pages(bucket: Lister, prefix: Prefix) -> Iterator[Sequence[Listed]]:
    """The pages of a listing, one for each request: of an empty listing one empty page."""
    is_empty = True
    for page in bucket.list(prefix.prefix, start_after=prefix.start_after):
        yield page
        is_empty = False
    if is_empty:
        yield ()


def _newest(model: Model, newest: datetime | None, kept: Iterable[Sighting]) -> datetime | None:
    starts = [model.partition_start(partition) for partition in {s.partition for s in kept}]
    return max([*starts, newest] if newest else starts, default=None)


def _folder_span(model: Model, source: Source) -> timedelta:
    """How much time one listing covers."""
    if model.kind is Kind.FORECAST or template(source.key).folder_has("H"):
        return timedelta(hours=model.partition_hours)
    return timedelta(days=1)


def _may_hold(model: Model, source: Source, start: datetime, span: timedelta) -> bool:
    if model.kind is Kind.FORECAST:
        return source.holds_at(start) and bool(model.expected_leads(start))
    return source.holds_at(start) or start < source.since < start + span


def _prefixes_at(
    model: Model, source: Source, start: datetime, span: timedelta, since: datetime, until: datetime
) -> Iterator[Prefix]:
    key, field = template(source.key), event_field(model.kind)
    partition, hours = timedelta(hours=model.partition_hours), model.partition_hours
    precision: Literal["day", "hour"] = "hour" if span <= partition else "day"
    held = [start + timedelta(hours=h) for h in range(0, int(span / timedelta(hours=1)), hours)]
    # A minute less, because what stands exactly at `start_after` is left out of a listing.
    earlier = _floor(since, partition) - timedelta(minutes=1)
    for known in _known_fields(model):
        prefix = key.prefix({**known, field: start}, precision)
        after = key.prefix({**known, field: earlier}, "minute") if start < earlier else prefix
        yield Prefix(
            bucket=source.bucket,
            prefix=prefix,
            start_after=after if after.startswith(prefix) and after != prefix else None,
            start=start,
            partitions=tuple(
                model.partition_key(moment)
                for moment in held
                if since < moment + partition and moment < until
            ),
        )


def _known_fields(model: Model) -> list[Mapping[str, Value]]:
    """The field values that settings name, one mapping for each: bands, products, or none."""
    match model.kind:
        case Kind.FORECAST:
            return [{}]
        case Kind.SATELLITE:
            return [{"band": p.band} for p in model.parameters if p.band is not None]
        case Kind.RADAR:
            return [{"product": p.product} for p in model.parameters if p.product is not None]


def _floor(moment: datetime, span: timedelta) -> datetime:
    midnight = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (moment - midnight) // span * span


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
