"""Are the organisms' indexes whole, plausible and fresh? One verdict a question, over all organisms.

Pure: `State` says what is known of an organism, `status.states` gathers it. Decides nothing about alarms:
that is the caller's, by `Verdict.passed` and `Verdict.severe`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal

from ingest_platform.catalog.model import ObjectRow
from ingest_platform.pages.verdict import Verdict
from ingest_platform.silo.discover import LONGEST_WAIT, Past
from ingest_platform.silo.model import Organism
from ingest_platform.silo.read import Live
from ingest_platform.silo.served import Index

# One refresh may fail and be tried again; by the second something is wrong.
STALE_AFTER_REFRESHES = 2
# With `hard_refresh_seconds: 0` every poll is one: then a few polls' time is what may pass.
SHORTEST_REFRESH = timedelta(minutes=5)
# A proxy that rewrites one ETag in passing is no finding; five in a row are a download at every poll.
UNHEEDED_POLLS = 5
# A restart or a migration is over by then, and the poll that sees so comes LONGEST_WAIT later at the latest.
LONGEST_OUTAGE = 2 * LONGEST_WAIT


@dataclass(frozen=True, slots=True)
class State:
    """What is known of one organism at this moment."""

    organism: Organism
    live: Live | None  # None: nothing was imported yet
    served: Index | None  # what the output folder offers to SILO's API
    served_rows: int | None = None  # in that index; None: nobody here can count them
    unfinished: tuple[ObjectRow, ...] = ()  # releases that wait after an error, or were given up
    history: Sequence[int] = ()  # rows of its imports, the oldest first
    past: Past = field(default_factory=Past)  # what its polls came to
    standing: Literal["served", "missing", "hidden"] = "served"  # the live index, as `serve.standing` has it
    unreadable: str = ""  # why the output folder could not be looked at, in a sentence


def verdicts(states: Sequence[State], now: datetime) -> Mapping[str, Verdict]:
    """Every check by its name."""
    return {
        "index_served": _over(states, index_served, "every organism's live index is served"),
        "rows_match": _over(states, rows_match, "every counted index has the rows of its snapshot"),
        "row_drop": _over(states, row_drop, "no organism lost more rows than it may"),
        "release_taken": _over(states, release_taken, "no release waits or was given up"),
        "fresh": _over(states, lambda s: fresh(s, now), "every organism was looked at in time"),
        "backend_answers": _over(states, lambda s: backend_answers(s, now), "every backend answers"),
        "conditional_requests": _over(
            states, conditional_requests, "backends answer 304 to what is known", severe=False
        ),
        "records_announced": _over(
            states, records_announced, "every live snapshot was counted against x-total-records", severe=False
        ),
        "lineages_known": _over(
            states, lineages_known, "the definitions know every lineage value", severe=False
        ),
    }


def _over(
    states: Sequence[State], look: Callable[[State], str | None], well: str, *, severe: bool = True
) -> Verdict:
    """One verdict of a look at each organism that says what is wrong, or None."""
    wrong = {state.organism.id: told for state in states if (told := look(state))}
    message = "; ".join(f"{name}: {told}" for name, told in wrong.items()) or well
    return Verdict(not wrong, message, severe, {"organisms": len(states), **wrong})


def index_served(state: State) -> str | None:
    """The output folder offers the index that the ledger names, finished, and no other one."""
    if state.unreadable:
        return state.unreadable
    if state.live is None:
        return None
    named = state.live.index_timestamp
    if state.served is None:
        return f"{state.organism.output} has no finished index, the ledger names {named}. Import again"
    if state.served.timestamp > named:
        return (
            f"the API serves {state.served.timestamp}, the ledger names {named}: another program writes to"
            f" {state.organism.output}, or an importer died. A poll orders an index above it"
        )
    if state.served.timestamp < named:
        return f"the API serves {state.served.timestamp}, the ledger names {named}. The next import mends it"
    if state.standing != "served":
        return (
            f"{state.served.path} is not whole any more: it has other bytes than the ledger says. A poll"
            " orders another one"
        )
    return None


def rows_match(state: State) -> str | None:
    """The served index has as many rows as its snapshot has records."""
    if state.live is None or state.served_rows is None or state.served_rows == state.live.rows:
        return None
    return (
        f"{state.served_rows:,} rows are served, the snapshot has {state.live.rows:,}. The engine lost"
        " some: read its log in the run's metadata"
    )


def row_drop(state: State) -> str | None:
    """The newest import did not lose more than `row_drop_limit` of the rows before it."""
    for before, after in [*pairwise(state.history)][-1:]:
        lost = (before - after) / before if before else 0.0
        if lost > state.organism.row_drop_limit:
            return (
                f"{before:,} → {after:,} rows, {lost:.0%} lost. If that is not meant, look at the backend:"
                " its data use terms and its pipeline version decide what is released"
            )
    return None


def release_taken(state: State) -> str | None:
    """What the backend released last was imported, and is not being tried for the nth time."""
    worst = sorted(state.unfinished, key=lambda row: row.state != "quarantined")
    for row in worst:
        told = "given up, `ingest requeue` tries it again" if row.state == "quarantined" else "tried again"
        return f"{row.error} ({told}; {row.attempts} attempts used)"
    return None


def fresh(state: State, now: datetime) -> str | None:
    """The live index was confirmed within twice the hard refresh."""
    if state.live is None:
        return "nothing was imported yet. The sensor does so: is it running, is the backend up?"
    refresh = max(timedelta(seconds=state.organism.hard_refresh_seconds), SHORTEST_REFRESH)
    age = now - state.live.refreshed_at
    if age <= STALE_AFTER_REFRESHES * refresh:
        return None
    return (
        f"last confirmed {age - age % timedelta(seconds=1)} ago, expected within"
        f" {STALE_AFTER_REFRESHES * refresh}. Is the sensor running, is the backend up?"
    )


def backend_answers(state: State, now: datetime) -> str | None:
    """Polls have not failed for longer than LONGEST_OUTAGE."""
    since = state.past.failing_since
    if since is None or now - since <= LONGEST_OUTAGE:
        return None
    return outage(state.past)


def outage(past: Past) -> str | None:
    """The polls that failed in a row, as a sentence."""
    if not past.failures:
        return None
    since = f" since {past.failing_since:%Y-%m-%d %H:%M:%S}Z" if past.failing_since else ""
    return f"{past.failures} polls in a row failed{since}: {past.why}"


def conditional_requests(state: State) -> str | None:
    """The backend takes its own ETag for its own: else each poll loads everything."""
    if state.past.unheeded < UNHEEDED_POLLS:
        return None
    return (
        f"the last {state.past.unheeded} polls were answered 200 with the very ETag that they named: each"
        " costs the backend a full query. A proxy that makes ETags weak does this; turn its compression off"
    )


def records_announced(state: State) -> str | None:
    """The live snapshot was counted against the backend's own number."""
    return next((told for told in _warnings(state) if "x-total-records" in told), None)


def lineages_known(state: State) -> str | None:
    """No lineage value was taken for null because its definition file does not know it."""
    return "; ".join(told for told in _warnings(state) if "lineage system" in told) or None


def _warnings(state: State) -> tuple[str, ...]:
    """What the import of the live snapshot remarked."""
    return state.live.warnings if state.live else ()
