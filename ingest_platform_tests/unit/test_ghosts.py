"""Which runs are ghosts: the whole truth table, and that no living run is one, whatever the clocks say."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.catalog.model import PartitionRow
from ingest_platform.operations.watch.ghosts import (
    CONFIRMED_AFTER,
    LOOKS_APART,
    SILENCE,
    Ghost,
    Running,
    Suspects,
    confirm,
    judge,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
RUN = Running("r1", "weather.gfs", "2026-11-21T06", NOW - timedelta(hours=3))
FREE = PartitionRow(
    source=RUN.source,
    partition=RUN.partition,
    event_end=NOW,
    state="open",
    uri="weather.gfs/2026-11-21T06/n",
    snapshot=None,
    pinned=False,
    requests=1,
    lease_owner=None,
    lease_until=None,
    committed_at=None,
)
LONG, SHORT = SILENCE + timedelta(seconds=1), SILENCE
# The workers' longest lease, renewed every third of it; how far Dagster's and the ledger's clock may differ.
LEASE, SKEW = timedelta(minutes=2), timedelta(minutes=5)


def row(
    owner: str | None = None, *, until: timedelta | None = None, committed: timedelta | None = None
) -> PartitionRow:
    """`until` from now, `committed` ago."""
    return replace(
        FREE,
        lease_owner=owner,
        lease_until=NOW + until if until is not None else None,
        committed_at=NOW - committed if committed is not None else None,
    )


def started(ago: timedelta) -> Running:
    return replace(RUN, started_at=NOW - ago)


TABLE = {
    "it works": (LONG, row("run r1", until=timedelta(minutes=1)), None),
    "its lease ran out a moment ago": (LONG, row("run r1", until=-SHORT), None),
    "its lease ran out long ago": (
        LONG,
        row("run r1", until=-LONG),
        "its lease on .* ran out 15 minutes ago",
    ),
    "its lease ran out, others committed before": (
        LONG,
        row("run r1", until=-LONG, committed=timedelta(0)),
        "its lease on .* ran out",
    ),
    "it has just started, nobody claimed": (SHORT, row(), None),
    "it has just started, the partition is new": (SHORT, None, None),
    "it has just started, another works there": (SHORT, row("run r0", until=timedelta(minutes=1)), None),
    "it is between two batches": (LONG, row(committed=timedelta(seconds=1)), None),
    "it draws its picture": (LONG, row(committed=SHORT), None),
    "it died behind its last commit": (LONG, row(committed=LONG), "it has no lease on"),
    "it died before its claim": (LONG, row(), "it has no lease on"),
    "it died, then the partition was purged and forgotten": (LONG, None, "it has no lease on"),
    "it was relieved a moment ago": (LONG, row("ingest run", until=timedelta(0), committed=SHORT), None),
    "it was relieved long ago": (
        LONG,
        row("ingest run", until=timedelta(minutes=1), committed=LONG),
        "ingest run has the lease on .*, and this run none",
    ),
    "it was relieved by another who died too": (
        LONG,
        row("run r2", until=-timedelta(hours=1)),
        "run r2 has the lease on",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_truth_table(case: str) -> None:
    """Else a run at work is ended, or a model stands still behind a dead one."""
    ago, partition, why = TABLE[case]

    ghost = judge(started(ago), partition, now=NOW, ledger_now=NOW)

    if why is None:
        assert ghost is None
    else:
        assert ghost is not None
        assert ghost.run_id == "r1"
        assert re.search(why, ghost.why), ghost.why


moments = st.timedeltas(timedelta(0), timedelta(hours=12))
skews = st.timedeltas(-SKEW, SKEW)


@given(
    began=moments,
    renewed=st.timedeltas(timedelta(0), LEASE / 3),
    host=st.timedeltas(timedelta(days=-99), timedelta(days=99)),
    committed=st.none() | moments,
)
def test_whoever_renews_its_lease_is_no_ghost(
    began: timedelta, renewed: timedelta, host: timedelta, committed: timedelta | None
) -> None:
    """Else a wrong clock of Dagster's host ends every run of the platform."""
    partition = row("run r1", until=LEASE - renewed, committed=committed)

    assert judge(started(began), partition, now=NOW + host, ledger_now=NOW) is None


@given(began=moments, host=st.timedeltas(timedelta(days=-99), timedelta(days=99)))
def test_a_commit_is_dated_by_the_ledger_s_clock(began: timedelta, host: timedelta) -> None:
    """Else a host that is a day ahead ends each run between two batches."""
    assert judge(started(began), row(committed=SILENCE), now=NOW + host, ledger_now=NOW) is None


@given(
    quiet=st.timedeltas(timedelta(0), SILENCE - SKEW),
    skew=skews,
    older=moments,
    owner=st.sampled_from([None, "run r2", "ingest run"]),
    which=st.booleans(),
)
def test_whoever_started_or_committed_a_little_while_ago_is_no_ghost(
    quiet: timedelta, skew: timedelta, older: timedelta, owner: str | None, which: bool
) -> None:
    """Else a run that lists, changes batches or draws is ended in the middle of it."""
    signs = (quiet + skew, quiet + skew + older)
    began, committed = signs if which else reversed(signs)

    assert (
        judge(started(began), row(owner, until=timedelta(0), committed=committed), now=NOW, ledger_now=NOW)
        is None
    )


@given(
    silent=st.timedeltas(LONG, timedelta(days=9)),
    longer=moments,
    mine=st.booleans(),
    owner=st.sampled_from([None, "run r2"]),
)
def test_whoever_gave_no_sign_for_long_is_a_ghost(
    silent: timedelta, longer: timedelta, mine: bool, owner: str | None
) -> None:
    """Else a machine that burnt down keeps its model's slot for ever."""
    partition = (
        row("run r1", until=-silent, committed=silent + longer)
        if mine
        else row(owner, until=timedelta(minutes=1) if owner else None, committed=silent)
    )

    ghost = judge(started(silent + longer), partition, now=NOW, ledger_now=NOW)

    assert ghost is not None
    assert "What it committed stands" in ghost.why


GHOST, OTHER = Ghost("r1", "silent"), Ghost("r2", "silent")
MINUTE = CONFIRMED_AFTER


def after(*looks: tuple[timedelta, list[Ghost]]) -> list[tuple[Ghost, ...]]:
    """Whom each look, so long after the one before, would end; the cursor goes through its text."""
    at, cursor, ended = NOW, None, []
    for pause, found in looks:
        at += pause
        sure, suspects = confirm(Suspects.parse(cursor), found, now=at)
        cursor = suspects.text()
        ended.append(sure)
    return ended


def test_a_run_between_two_batches_that_one_look_met_goes_on() -> None:
    """Else a run that worked long without a commit is ended in the second it has no lease."""
    looks = after((timedelta(0), [GHOST]), (MINUTE, []), (MINUTE, [GHOST]), (MINUTE, []))

    assert looks == [(), (), (), ()]


def test_a_ghost_is_ended_by_the_second_look_a_minute_later() -> None:
    """Else nobody is ever ended."""
    looks = (timedelta(0), [GHOST]), (MINUTE, [GHOST, OTHER]), (MINUTE, [OTHER])

    assert after(*looks) == [(), (GHOST,), (OTHER,)]


def test_looks_in_quick_succession_are_one_look() -> None:
    """Else two ticks of the same second, after the daemon's restart, count as two signs."""
    nearly = MINUTE - timedelta(seconds=1)

    looks = after((timedelta(0), [GHOST]), (nearly, [GHOST]), (timedelta(seconds=1), [GHOST]))

    assert looks == [(), (), (GHOST,)]


@pytest.mark.parametrize("pause", [LOOKS_APART + timedelta(seconds=1), timedelta(days=-1)])
def test_a_suspicion_from_before_a_long_sleep_or_another_clock_counts_for_nothing(pause: timedelta) -> None:
    """Else a daemon that was away for hours ends, at its first look, a run that nobody looked at since."""
    assert after((timedelta(0), [GHOST]), (pause, [GHOST]), (MINUTE, [GHOST])) == [(), (), (GHOST,)]


@pytest.mark.parametrize("cursor", [None, "", "{}", "[]", "null", '{"since": {"r1": 1}}', '{"since": []}'])
def test_a_cursor_that_cannot_be_read_suspects_nobody(cursor: str | None) -> None:
    """Else an update of this program ends runs, or its sensor fails for ever."""
    assert confirm(Suspects.parse(cursor), [GHOST], now=NOW)[0] == ()
