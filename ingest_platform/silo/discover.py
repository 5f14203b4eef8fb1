"""What is new at an organism's backend: a conditional request for the head alone, and the hard refresh.

Two kinds of versions compete in an organism's one slot. A release is known by its ETag. A hard refresh says
"look at everything again, whatever the ETag says": data under the same ETag, lineage files, configuration.
Both are ordered by the moment they were seen, never by what the server's clock says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import ObjectRow, Sighting
from ingest_platform.catalog.tables import LIVE
from ingest_platform.errors import SourceUnavailable, StoreUnavailable
from ingest_platform.silo.model import Organism
from ingest_platform.silo.rails import Rails
from ingest_platform.silo.read import SOURCE, Live, live
from ingest_platform.silo.serve import standing

# What an object's key ends with, behind the organism's id: several organisms may share a backend, and one
# that is called otherwise begins anew.
RELEASE = "/get-released-data"
REFRESH = "/hard-refresh"
# A hard refresh has no version of its own. Two names in turn: the one that is not published can come again,
# and rows do not grow by one an hour.
REFRESHES = ("even", "odd")
# An organism never ends: beyond every cutoff of retention, before the last year that a zone's shift survives.
NEVER = datetime(9000, 1, 1, tzinfo=UTC)
# A backend that is away is asked every 15 minutes in the end: it is back for us within these.
LONGEST_WAIT = timedelta(minutes=15)
# A refresh for a doubt comes at once, then four times an hour at most: what no import mends, as replicas that
# disagree for days, must not cost the backend a download at every poll.
DOUBT_AGAIN = timedelta(minutes=15)
# Three killed importers or lost rows say nothing about tomorrow's memory or data, and nobody may be there to
# requeue: an hour is the hard refresh of most installations, and one download.
GIVEN_UP_AGAIN = timedelta(hours=1)
# Of a failure's text: the reason comes first, the rest is in the log.
WHY_CHARACTERS = 300
# Organisms that began together are this share of the interval apart after one interval.
SPREAD = 0.25


@dataclass(frozen=True, slots=True)
class Polled:
    """What one look at a backend showed."""

    organism: str
    what: Literal["not due", "unchanged", "known", "new release", "hard refresh"]
    etag: str | None = None  # the server's
    # Polls in a row that were answered with 200 although the ETag was the one that was sent: something on the
    # way makes conditional requests useless.
    unheeded: int = 0
    doubt: bool = False  # a hard refresh before its time: ledger, backend and output folder disagree

    @property
    def became_pending(self) -> bool:
        return self.what in ("new release", "hard refresh")


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier polls left in the source's cursor. Losing it costs one poll and one hard refresh."""

    asked_at: datetime | None = None
    ordered_at: datetime | None = None  # when an import of everything was last asked for
    doubted_at: datetime | None = None  # when that was for a doubt
    failures: int = 0  # polls in a row that failed
    failing_since: datetime | None = None  # the first of them
    why: str = ""  # the last of them
    unheeded: int = 0

    def due(self, now: datetime, every: timedelta) -> bool:
        """Whether the backend may be asked again. A clock that went back does not keep it waiting."""
        if self.asked_at is None:
            return True
        wait = max(every, min(every * 2 ** min(self.failures, 16), LONGEST_WAIT))
        return not timedelta(0) <= now - self.asked_at < wait

    def may_doubt(self, now: datetime) -> bool:
        """Whether a refresh may be ordered before its time."""
        return self.doubted_at is None or not timedelta(0) <= now - self.doubted_at < DOUBT_AGAIN

    def after(self, polled: Polled, now: datetime) -> Past:
        return Past(
            asked_at=now,
            ordered_at=now if polled.became_pending else self.ordered_at,
            doubted_at=now if polled.doubt else self.doubted_at,
            unheeded=polled.unheeded,
        )

    def after_failure(self, error: Exception, now: datetime) -> Past:
        """A first failure that lies in the future was written before the clock went back."""
        since = self.failing_since if self.failing_since and self.failing_since <= now else now
        why = str(error)[:WHY_CHARACTERS]
        return replace(self, asked_at=now, failures=self.failures + 1, failing_since=since, why=why)


def poll(rails: Rails, organism: Organism, *, every: timedelta | None = None) -> Polled:
    """Ask the backend whether there is something new, and tell the ledger.

    `every` is the time between two polls, longer after failures; without it the backend is asked now.
    SourceUnavailable: nothing is known, and the next poll waits longer.
    """
    now = rails.clock()
    past = past_of(rails.catalog, organism.id)
    if every is not None and not past.due(now, every):
        return Polled(organism.id, "not due", unheeded=past.unheeded)
    try:
        polled = _look(rails, organism, now, past)
    except SourceUnavailable as error:
        _keep(rails, organism, past.after_failure(error, now))
        raise
    _keep(rails, organism, past.after(polled, now))
    return polled


def refresh(rails: Rails, organism: Organism) -> Polled:
    """Order a hard refresh now, on a person's word: also where the last one was given up."""
    now = rails.clock()
    rows = rails.catalog.objects(SOURCE, organism.id)
    polled = _order_refresh(rails, organism, rows, now)
    _keep(rails, organism, replace(past_of(rails.catalog, organism.id), ordered_at=now))
    return polled


def is_release(key: str) -> bool:
    """Whether a version's key is a release's, known by its ETag; else it is a hard refresh."""
    return key.endswith(RELEASE)


def past_of(catalog: Catalog, organism: str) -> Past:
    """For polls and checks."""
    return pasts(catalog).get(organism, Past())


def pasts(catalog: Catalog) -> Mapping[str, Past]:
    """Of every organism that was ever polled, in one read."""
    return {organism: _past(said) for organism, said in _read(catalog).items()}


def _past(said: Mapping[str, Any]) -> Past:
    return Past(
        asked_at=_time(said.get("asked_at")),
        ordered_at=_time(said.get("ordered_at")),
        doubted_at=_time(said.get("doubted_at")),
        failures=said.get("failures", 0),
        failing_since=_time(said.get("failing_since")),
        why=said.get("why", ""),
        unheeded=said.get("unheeded", 0),
    )


def next_refresh(
    organism: Organism, index: Live | None, past: Past, now: datetime, *, given_up: bool = False
) -> datetime | None:
    """When everything is to be looked at again; `now` if that is overdue. None: nothing was looked at yet.

    Between 0.75 and 1 of the interval after the last time, by the organism; where a version was `given_up`
    the interval is no longer than GIVEN_UP_AGAIN. Times that lie in the future were written before the clock
    went back: they count for nothing.
    """
    refreshed_at = index.refreshed_at if index else None
    times = [moment for moment in (past.ordered_at, refreshed_at) if moment is not None]
    if not times:
        # Given up, and then the cursor was lost: no poll would ever find it new.
        return now if given_up else None
    behind = [moment for moment in times if moment <= now]
    if not behind:
        return now
    interval = timedelta(seconds=organism.hard_refresh_seconds)
    interval = min(interval, GIVEN_UP_AGAIN) if given_up else interval
    return max(now, max(behind) + interval * _share(organism.id))


def _share(organism: str) -> float:
    place = int.from_bytes(hashlib.sha256(organism.encode()).digest()[:4]) / 2**32
    return 1 - SPREAD * place


def _look(rails: Rails, organism: Organism, now: datetime, past: Past) -> Polled:
    # Rows before the index: what an import commits in between still waits here, and causes no doubt.
    rows = rails.catalog.objects(SOURCE, organism.id)
    index = live(rails.catalog, organism.id)
    # What waits already is tried again by the ledger, and looks at everything too.
    if not any(row.state == "pending" for row in rows):
        if _is_due(organism, rows, index, past, now):
            return replace(_order_refresh(rails, organism, rows, now), unheeded=past.unheeded)
        if past.may_doubt(now) and index is not None and _is_hidden(index, organism):
            return replace(_order_refresh(rails, organism, rows, now, doubt=True), unheeded=past.unheeded)
    known = index.etag if index else None
    head = rails.backend(organism).changed(known)
    unheeded = past.unheeded + 1 if head is not None and head.unheeded else 0
    if unheeded:
        rails.catalog.add({("conditional_requests_unheeded_total", (("organism", organism.id),)): 1})
    return replace(
        _judge(rails, organism, rows, known, head.etag if head else known, now, past), unheeded=unheeded
    )


def _is_due(
    organism: Organism, rows: Sequence[ObjectRow], index: Live | None, past: Past, now: datetime
) -> bool:
    given_up = any(row.state == "quarantined" for row in rows)
    due = next_refresh(organism, index, past, now, given_up=given_up)
    return due is not None and due <= now


def _is_hidden(index: Live, organism: Organism) -> bool:
    """Whether SILO's API takes what the ledger does not name: only an import gets a number above that."""
    try:
        return standing(index, organism) == "hidden"
    except StoreUnavailable:
        # Checks and imports tell of a folder that cannot be read; the backend can be asked all the same.
        return False


def _judge(
    rails: Rails,
    organism: Organism,
    rows: Sequence[ObjectRow],
    known: str | None,
    offered: str | None,
    now: datetime,
    past: Past,
) -> Polled:
    """What it means that the backend offers this ETag while the live index has `known`."""
    if _contradicts(rows, known, offered) and past.may_doubt(now):
        return replace(_order_refresh(rails, organism, rows, now, doubt=True), etag=offered)
    if offered is None or offered == known:
        return Polled(organism.id, "unchanged", offered)
    if _is_known(rows, offered) or not _see(rails, organism, rows, RELEASE, offered, now):
        return Polled(organism.id, "known", offered)
    return Polled(organism.id, "new release", offered)


def _contradicts(rows: Sequence[ObjectRow], known: str | None, offered: str | None) -> bool:
    """Whether only a look at everything can tell what the backend really has.

    It took back a release that waits or was given up: that one must not be published. Or it offers the one
    that was published, but whose download came with another ETag, as from a replica that lagged behind.
    """
    newest = max(rows, key=_rank, default=None)
    if newest is None or (newest.state not in LIVE and not is_release(newest.key)):
        return False  # a refresh waits, or was given up: it has its own time
    if offered == known:
        return newest.state not in LIVE and newest.etag != offered
    return _is_published(rows, offered)


def _is_known(rows: Sequence[ObjectRow], etag: str) -> bool:
    """Whether this release is published, or, since the live one, waits, was given up, or gave way to a
    refresh.
    """
    published = [row for row in rows if row.state in LIVE]
    releases = [
        row for row in rows if is_release(row.key) and all(_rank(row) > _rank(other) for other in published)
    ]
    newest = max(releases, key=_rank, default=None)
    return _is_published(rows, etag) or (newest is not None and newest.etag == etag)


def _is_published(rows: Sequence[ObjectRow], etag: str | None) -> bool:
    return any(is_release(row.key) and row.state in LIVE and row.etag == etag for row in rows)


def _rank(row: ObjectRow) -> tuple[datetime, int]:
    return row.version_time, row.id


def _order_refresh(
    rails: Rails, organism: Organism, rows: Sequence[ObjectRow], now: datetime, *, doubt: bool = False
) -> Polled:
    published = {row.etag for row in rows if not is_release(row.key) and row.state in LIVE}
    name = next(name for name in REFRESHES if name not in published)
    _see(rails, organism, rows, REFRESH, name, now)
    return Polled(organism.id, "hard refresh", doubt=doubt)


def _see(
    rails: Rails, organism: Organism, rows: Sequence[ObjectRow], kind: str, etag: str, now: datetime
) -> bool:
    """As the newest version of the slot, even if the clock went back since the last one.

    Whether it became pending; what is published or waits does not.
    """
    after_all = [row.version_time + timedelta(microseconds=1) for row in rows]
    sighting = Sighting(
        bucket=organism.backend_url,
        key=f"{organism.id}{kind}",
        etag=etag,
        size_bytes=0,  # nobody knows before it has come
        version_time=max([now, *after_all]),
        partition=organism.id,
        event_end=NEVER,
        slot=organism.id,
    )
    return rails.catalog.see(SOURCE, [sighting]) > 0


def _keep(rails: Rails, organism: Organism, past: Past) -> None:
    """Organisms share the source's cursor. A process that wrote in between costs one early poll."""
    said = {
        "asked_at": past.asked_at and past.asked_at.isoformat(),
        "ordered_at": past.ordered_at and past.ordered_at.isoformat(),
        "doubted_at": past.doubted_at and past.doubted_at.isoformat(),
        "failures": past.failures,
        "failing_since": past.failing_since and past.failing_since.isoformat(),
        "why": past.why,
        "unheeded": past.unheeded,
    }
    with rails.polls:
        rails.catalog.keep_cursor(SOURCE, json.dumps(_read(rails.catalog) | {organism.id: said}))


def _read(catalog: Catalog) -> dict[str, Any]:
    try:
        said = json.loads(catalog.cursor(SOURCE) or "{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
