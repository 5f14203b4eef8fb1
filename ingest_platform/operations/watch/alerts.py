"""Failures as incidents, told once: which open, stay open in silence and close, and how a receiver hears.

Decides from endings of runs and ticks that somebody else gathered, and from what it decided before; the one
I/O is `send`. An incident opens with a failure of a job, sensor or schedule, and of a job it is one, however
many partitions fail: an outage must not open one for each. It closes with the success that leaves none of
these partitions failing; one that did not fail again for a day is waited for no longer. A message counts as
told when the receiver answered 2xx, not before: an answer that is lost doubles it, and `incident` in the
payload tells the receiver so.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from typing import Literal, Self
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ingest_platform.errors import TransientError

type Kind = Literal["job", "sensor", "schedule"]
type News = Literal["failed", "recovered"]
# Undecided: Dagster has not said yet whether it tries the run again. Retried: another run takes its place.
type Outcome = Literal["succeeded", "failed", "undecided", "retried"]

# A receiver that hangs may cost a tick this much; chat services answer within one second.
SEND_SECONDS = 5.0
# Dagster ends a tick after 60 s: enough for four receivers that hang, and time to gather and to answer.
DELIVERY_BUDGET_SECONDS = 20.0
# The first look, and the first after the state was lost: older failures are the operator's to read.
FIRST_LOOK = timedelta(hours=1)
# Who looks again after a rest tells the last day, not a month: Dagster's pages have the rest.
LONGEST_LOOK = timedelta(days=1)
# Each look reaches back behind the last: workers' clocks may differ by 5 min, a tick may last one.
OVERLAP = timedelta(minutes=6)
# Dagster decides about a retry a moment after the run's end. Without run retries it never says so.
DECISION_WITHIN = timedelta(minutes=1)
# What ended neither way for so long was renamed or switched off; it must not silence its namesake.
FORGET_AFTER = timedelta(days=30)
# A partition that is damaged for good is given up, or purged, and its success never comes.
PARTITION_WAITED_FOR = timedelta(days=1)
# The state is stored with every tick; when more fail, they fail for one reason, and the latest speak for all.
PARTITIONS_WAITED_FOR = 16
# The state is stored with every tick, and a chat shows no more either.
MESSAGE_CHARACTERS = 500
WILL_RETRY_TAG = "dagster/will_retry"


class Undelivered(TransientError):
    """The receiver did not answer 2xx. Nothing is lost: the message is sent again at the next tick."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How one run or tick ended."""

    id: str  # never used twice
    kind: Kind
    name: str
    at: datetime  # UTC
    outcome: Outcome
    message: str = ""
    link: str = ""  # to the page that shows it
    model: str | None = None
    partition: str | None = None
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Incident:
    """A job, sensor or schedule that failed and did not succeed since, or whose success was not told yet."""

    kind: Kind
    name: str
    since: datetime  # first failure
    last: datetime  # latest failure
    count: int  # failures so far
    message: str
    link: str
    model: str | None
    partition: str | None
    run_id: str | None
    # The latest failure of each partition that has not succeeded since; "": runs and ticks without one.
    failing: tuple[tuple[str, datetime], ...] = ()
    told: bool = False
    recovered_at: datetime | None = None

    @classmethod
    def opened_by(cls, failure: Ending) -> Self:
        return cls(
            failing=((failure.partition or "", failure.at),),
            kind=failure.kind,
            name=failure.name,
            since=failure.at,
            last=failure.at,
            count=1,
            message=failure.message[:MESSAGE_CHARACTERS],
            link=failure.link,
            model=failure.model,
            partition=failure.partition,
            run_id=failure.run_id,
        )

    @property
    def id(self) -> str:
        """The same in every attempt to tell it."""
        return f"{self.kind}/{self.name}/{self.since:%Y-%m-%dT%H:%M:%S.%fZ}"

    @property
    def news(self) -> News | None:
        """What the receiver has still to hear."""
        if not self.told:
            return "failed"
        return None if self.recovered_at is None else "recovered"

    def concerns(self, other: Ending | Incident) -> bool:
        return (self.kind, self.name) == (other.kind, other.name)


@dataclass(frozen=True, slots=True)
class Watch:
    """What one look tells the next. Losing it tells once more what failed in the last hour."""

    looked_at: datetime
    seen: frozenset[str] = frozenset()  # endings of the overlap that were judged
    incidents: tuple[Incident, ...] = ()

    @classmethod
    def parse(cls, text: str | None, now: datetime) -> Self:
        """The watch that text() wrote; a fresh one for nothing, or for what another version wrote."""
        try:
            stored = json.loads(text or "")
            incidents = tuple(_incident(item) for item in stored["incidents"])
            return cls(_time(stored["looked_at"]), frozenset(stored["seen"]), incidents)
        except (ValueError, TypeError, KeyError):
            return cls(looked_at=now - FIRST_LOOK + OVERLAP)

    def text(self) -> str:
        """JSON: 10 bytes an ending of the last six minutes; an incident 300, its message, 60 a partition."""
        stored = {
            "looked_at": self.looked_at,
            "seen": sorted(self.seen),
            "incidents": [asdict(incident) for incident in self.incidents],
        }
        return json.dumps(stored, default=datetime.isoformat)

    def since(self, now: datetime) -> datetime:
        """Endings after this are wanted for a look; those already judged are known by their ids."""
        # A clock that was set back must not put the next look off for as long.
        return max(min(self.looked_at, now) - OVERLAP, now - LONGEST_LOOK)


def failed_run(tags: Mapping[str, str], ended_at: datetime, now: datetime) -> Outcome:
    """What a run's failure means, by the run's tags."""
    match tags.get(WILL_RETRY_TAG):
        case "true":
            return "retried"
        case None if now - ended_at < DECISION_WITHIN:
            return "undecided"
    return "failed"


def model_of(name: str, models: Iterable[str]) -> str | None:
    """The model whose id is part of this job's or sensor's name: the longest, as one may begin another."""
    named = [model for model in models if re.search(rf"(?<![a-z0-9]){model}(?![a-z0-9])", name)]
    return max(named, key=len, default=None)


def judge(watch: Watch, endings: Iterable[Ending], *, looked_at: datetime) -> Watch:
    """Open, count and close incidents by what ended, oldest first. Each ending is judged once."""
    incidents = [i for i in watch.incidents if i.news or looked_at - i.last < FORGET_AFTER]
    seen, undecided = set(), set()
    for ending in sorted(endings, key=lambda ending: ending.at):
        who = (ending.kind, ending.name)
        if ending.outcome == "undecided":
            undecided.add(who)
        # A success judged before an earlier failure would leave the failure open.
        if who in undecided:
            continue
        seen.add(ending.id)
        if ending.id not in watch.seen:
            incidents = _judged(incidents, ending)
    return Watch(looked_at, frozenset(seen), tuple(incidents))


def deliver(
    watch: Watch, post: Callable[[Mapping[str, object]], None], budget: Callable[[], float]
) -> tuple[Watch, Undelivered | None]:
    """Tell the receiver what it has not heard; the watch that knows what it has, and the last refusal.

    One message that the receiver refuses holds up no other, except what came later of the same job: a
    recovery that arrives after the next failure would be believed. `budget` returns the seconds left.
    """
    refusal = None
    kept: list[Incident | None] = []
    for incident in watch.incidents:
        left: Incident | None = incident
        waits = any(earlier and earlier.news and earlier.concerns(incident) for earlier in kept)
        try:
            while not waits and left is not None and left.news is not None and budget() > 0:
                post(payload(left))
                left = _heard(left)
        except Undelivered as error:
            refusal = error
        kept.append(left)
    return replace(watch, incidents=tuple(i for i in kept if i is not None)), refusal


def summary(watch: Watch, refusal: Undelivered | None) -> str:
    """One line for the tick's row in Dagster's pages."""
    waiting = sum(incident.news is not None for incident in watch.incidents)
    open_ones = sorted(i.name for i in watch.incidents if i.recovered_at is None)
    told = f"open: {', '.join(open_ones)}" if open_ones else "nothing is failing"
    return f"{told}; {waiting} not told yet. {refusal or ''}".rstrip() if waiting else told


def payload(incident: Incident) -> dict[str, object]:
    """The JSON of one message: `text` for chats as Slack's, every fact once more for programs."""
    return {
        "text": _text(incident),
        "event": incident.news,
        "incident": incident.id,
        "kind": incident.kind,
        "name": incident.name,
        "model": incident.model,
        "partition": incident.partition,
        "run_id": incident.run_id,
        "message": incident.message,
        "link": incident.link,
        "since": incident.since.isoformat(),
        "recovered_at": incident.recovered_at and incident.recovered_at.isoformat(),
        "count": incident.count,
    }


def send(url: str, message: Mapping[str, object], *, seconds: float = SEND_SECONDS) -> None:
    """POST one message as JSON. Undelivered unless 2xx comes; a redirection is none.

    The URL is a secret: no error, log or chained exception of this function shows any part of it. (urllib3
    would write its path to the debug log; the standard library also goes through the environment's proxy.)
    """
    told, headers = json.dumps(message).encode(), {"Content-Type": "application/json"}
    try:
        request = Request(url, data=told, headers=headers)  # noqa: S310  Settings takes http and https
        with build_opener(_NoRedirect).open(request, timeout=seconds):
            return
    # ValueError: of a malformed URL.
    except (OSError, HTTPException, ValueError) as error:
        why = _why(error)
    raise Undelivered(
        f"The receiver of INGEST_ALERT_WEBHOOK {why}. The alert is kept and sent again at the next tick: "
        "check the receiver, or the URL if this goes on."
    )


def redacted(text: str, secrets: Sequence[str]) -> str:
    """The text without any of these: a library's error may quote a URL with its password."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _judged(incidents: Sequence[Incident], ending: Ending) -> list[Incident]:
    match ending.outcome:
        case "failed":
            return _failed(incidents, ending)
        case "succeeded":
            return _closed(incidents, ending)
    return list(incidents)


def _failed(incidents: Sequence[Incident], failure: Ending) -> list[Incident]:
    """The open incident counts one more; one that closed before anybody heard of it opens again."""
    same = next((i for i in incidents if i.concerns(failure) and not (i.told and i.recovered_at)), None)
    if same is None:
        return [*incidents, Incident.opened_by(failure)]
    failing = {**dict(same.failing), failure.partition or "": failure.at}
    latest = sorted(failing.items(), key=lambda one: one[1])[-PARTITIONS_WAITED_FOR:]
    grown = replace(same, count=same.count + 1, last=failure.at, failing=tuple(latest), recovered_at=None)
    return [grown if incident is same else incident for incident in incidents]


def _closed(incidents: Sequence[Incident], success: Ending) -> list[Incident]:
    return [
        _without(incident, success) if incident.concerns(success) and not incident.recovered_at else incident
        for incident in incidents
    ]


def _without(incident: Incident, success: Ending) -> Incident:
    """The incident after a success, recovered if none is left that fails."""
    failing = tuple(
        (partition, at)
        for partition, at in incident.failing
        if partition != (success.partition or "") and success.at - at < PARTITION_WAITED_FOR
    )
    return replace(incident, failing=failing, recovered_at=None if failing else success.at)


def _heard(incident: Incident) -> Incident | None:
    """What is left to remember once the receiver has taken the news; after the recovery nothing."""
    return replace(incident, told=True, message="") if incident.news == "failed" else None


def _text(incident: Incident) -> str:
    what = f"{incident.kind} {incident.name}"
    if incident.partition:
        what += f", partition {incident.partition}"
    if incident.news == "recovered" and incident.recovered_at:
        lasted = timedelta(seconds=round((incident.recovered_at - incident.since).total_seconds()))
        told = f"Recovered: {what}, after {lasted} and {_times(incident.count)}."
    else:
        told = f"Failed: {what}, at {incident.since:%Y-%m-%d %H:%M} UTC. {incident.message}"
    # Chats give <, > and & a meaning: an error's text must not call everybody in the room.
    return f"{html.escape(told, quote=False)} {incident.link}".strip()


def _times(count: int) -> str:
    return "one failure" if count == 1 else f"{count} failures"


class _NoRedirect(HTTPRedirectHandler):
    """A followed redirection asks with GET: its 200 would pass for a delivery."""

    def redirect_request(self, *_: object) -> None:
        return None


def _why(error: OSError | HTTPException | ValueError) -> str:
    """What went wrong in words that cannot hold the URL: their texts may."""
    if isinstance(error, HTTPError):
        error.close()
        return f"answered {error.code}, expected 2xx"
    cause = error.reason if isinstance(error, URLError) else error
    return f"gave no answer ({type(cause).__name__})"


def _incident(stored: dict[str, object]) -> Incident:
    times = {name: _time(stored[name]) for name in ("since", "last", "recovered_at") if stored[name]}
    failing = tuple((str(partition), _time(at)) for partition, at in stored["failing"])  # type: ignore[attr-defined]
    return Incident(**{**stored, **times, "failing": failing})  # type: ignore[arg-type]


def _time(text: object) -> datetime:
    return datetime.fromisoformat(str(text)).astimezone(UTC)
