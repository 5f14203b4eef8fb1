"""Incidents: told once, closed once, and never lost, whatever the receiver and the daemon do."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.operations.watch.alerts import (
    DECISION_WITHIN,
    FIRST_LOOK,
    FORGET_AFTER,
    LONGEST_LOOK,
    MESSAGE_CHARACTERS,
    OVERLAP,
    Ending,
    Kind,
    Outcome,
    Undelivered,
    Watch,
    deliver,
    failed_run,
    judge,
    model_of,
    redacted,
    summary,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TICK = timedelta(seconds=30)
Answer = Literal["taken", "refused", "lost"]


@dataclass
class Desk:
    """The sensor's loop over a history that the test writes; its state passes through text at every look."""

    now: datetime = NOON
    history: list[Ending] = field(default_factory=list)
    cursor: str | None = None
    came: list[Mapping[str, Any]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)  # then all are taken
    seconds: float = 20.0

    def ends(
        self, name: str, outcome: Outcome, *, kind: Kind = "job", ago: float = 0.0, **facts: Any
    ) -> None:
        at = self.now - timedelta(seconds=ago)
        self.history.append(Ending(f"e{len(self.history)}", kind, name, at, outcome, **facts))

    def look(self) -> str:
        self.now += TICK
        watch = Watch.parse(self.cursor, self.now)
        endings = [ending for ending in self.history if ending.at > watch.since(self.now)]
        told, refusal = deliver(judge(watch, endings, looked_at=self.now), self._post, lambda: self.seconds)
        self.cursor = told.text()
        return summary(told, refusal)

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(told["event"], told["name"]) for told in self.came]

    def _post(self, message: Mapping[str, object]) -> None:
        answer = self.answers.pop(0) if self.answers else "taken"
        if answer != "refused":
            self.came.append(message)
        if answer != "taken":
            raise Undelivered("The receiver answered 500.")


@pytest.fixture
def desk() -> Desk:
    """Somebody who looks every 30 s."""
    return Desk()


def test_a_job_that_goes_on_failing_is_told_once(desk: Desk) -> None:
    """Else the channel is muted by the second hour of an outage."""
    for _ in range(5):
        desk.ends("ingest_gfs", "failed")
        desk.look()

    assert desk.events == [("failed", "ingest_gfs")]


def test_the_recovery_is_told_once_with_what_it_took(desk: Desk) -> None:
    """Else somebody goes on looking for a fault that is gone."""
    for outcome in ("failed", "failed", "succeeded", "succeeded"):
        desk.ends("ingest_gfs", outcome)
        desk.look()

    assert desk.events == [("failed", "ingest_gfs"), ("recovered", "ingest_gfs")]
    assert desk.came[-1]["count"] == 2
    assert "after 0:01:00 and 2 failures" in desk.came[-1]["text"]


def test_a_failure_after_a_success_is_a_new_incident(desk: Desk) -> None:
    """Else the second night's outage is silent because of the first."""
    for outcome in ("failed", "succeeded", "failed"):
        desk.ends("ingest_gfs", outcome)
        desk.look()

    first, _, second = desk.came
    assert (first["event"], second["event"]) == ("failed", "failed")
    assert first["incident"] != second["incident"]


def test_a_sensor_and_a_job_of_one_name_are_two_incidents(desk: Desk) -> None:
    """Else a tick that succeeds closes the incident of a run."""
    desk.ends("purge", "failed", kind="job")
    desk.ends("purge", "succeeded", kind="sensor")
    desk.look()

    assert desk.events == [("failed", "purge")]


def test_a_run_that_is_tried_again_is_no_failure(desk: Desk) -> None:
    """A worker that was killed is replaced within seconds; nobody needs to wake up for it."""
    desk.ends("ingest_gfs", "retried")
    desk.ends("ingest_gfs", "succeeded")

    assert desk.look() == "nothing is failing"
    assert desk.came == []


@pytest.mark.parametrize(
    ("tags", "age", "expected"),
    [
        ({"dagster/will_retry": "true"}, DECISION_WITHIN * 9, "retried"),
        ({"dagster/will_retry": "false"}, timedelta(0), "failed"),
        ({}, timedelta(0), "undecided"),
        ({}, DECISION_WITHIN, "failed"),
    ],
)
def test_dagsters_decision_about_a_retry_is_awaited(
    tags: Mapping[str, str], age: timedelta, expected: str
) -> None:
    """Dagster tells it a moment after the run has ended, and never where run retries are off."""
    assert failed_run(tags, NOON - age, NOON) == expected


def test_a_success_is_not_judged_before_the_failure_it_follows(desk: Desk) -> None:
    """Else the failure, judged a minute later, opens an incident that nothing closes."""
    desk.ends("ingest_gfs", "undecided", ago=20)
    desk.ends("ingest_gfs", "succeeded", ago=10)
    desk.look()
    assert desk.came == []

    desk.history[0] = Ending("e0", "job", "ingest_gfs", desk.history[0].at, "failed")
    desk.look()

    assert desk.events == [("failed", "ingest_gfs"), ("recovered", "ingest_gfs")]


def test_what_shows_up_late_is_still_told(desk: Desk) -> None:
    """A worker's clock may be five minutes behind: its failure appears in a stretch that was looked at."""
    desk.look()

    desk.ends("ingest_gfs", "failed", ago=300)
    desk.look()

    assert desk.events == [("failed", "ingest_gfs")]


def test_a_receiver_that_is_down_gets_everything_when_it_is_up(desk: Desk) -> None:
    """An outage often takes the chat with it; the news must wait, not vanish."""
    desk.answers = ["refused"] * 4
    desk.ends("ingest_gfs", "failed", message="the store is full")
    assert "1 not told yet. The receiver answered 500." in desk.look()
    desk.ends("ingest_gfs", "succeeded")
    desk.look()
    desk.now += OVERLAP * 3
    desk.look()
    desk.look()
    assert desk.came == []

    desk.look()

    assert desk.events == [("failed", "ingest_gfs"), ("recovered", "ingest_gfs")]
    assert "the store is full" in desk.came[0]["text"]


def test_a_lost_answer_doubles_the_message_under_its_old_name(desk: Desk) -> None:
    """The receiver can tell the second from a new incident."""
    desk.answers = ["lost"]
    desk.ends("ingest_gfs", "failed")
    desk.look()
    desk.look()
    desk.look()

    first, second = desk.came
    assert first == second


def test_a_message_that_the_receiver_refuses_holds_up_no_other(desk: Desk) -> None:
    """One text that a chat finds too long must not silence the rest."""
    desk.answers = ["refused"]
    desk.ends("ingest_gfs", "failed")
    desk.ends("ingest_hrrr", "failed", ago=-1)
    desk.look()

    assert desk.events == [("failed", "ingest_hrrr")]


def test_no_message_is_sent_when_the_time_is_up(desk: Desk) -> None:
    """Dagster ends a tick after 60 s, and the state of a tick that was ended is lost."""
    desk.seconds = 0.0
    desk.ends("ingest_gfs", "failed")
    desk.look()
    assert desk.came == []

    desk.seconds = 1.0
    desk.look()

    assert desk.events == [("failed", "ingest_gfs")]


def test_the_first_look_goes_back_an_hour(desk: Desk) -> None:
    """Older failures are history; but what broke while the platform was set up should be heard of."""
    desk.ends("old", "failed", ago=FIRST_LOOK.total_seconds() + 1)
    desk.ends("new", "failed", ago=FIRST_LOOK.total_seconds() - 60)
    desk.look()

    assert desk.events == [("failed", "new")]


def test_who_looks_again_after_a_month_tells_the_last_day(desk: Desk) -> None:
    """Thirty days of flapping in one minute would be read by nobody."""
    desk.look()
    desk.ends("then", "failed")
    desk.now += timedelta(days=30)
    desk.ends("lately", "failed", ago=LONGEST_LOOK.total_seconds() / 2)
    desk.look()

    assert desk.events == [("failed", "lately")]


def test_a_clock_that_was_set_back_hides_nothing(desk: Desk) -> None:
    """Else all that fails until the clock has caught up is never told."""
    desk.look()
    desk.now -= timedelta(days=1)
    desk.ends("ingest_gfs", "failed")
    desk.look()

    assert desk.events == [("failed", "ingest_gfs")]


def test_an_incident_of_what_is_gone_does_not_silence_its_namesake(desk: Desk) -> None:
    """A model that was switched off while it failed and comes back next year fails anew."""
    desk.ends("ingest_gfs", "failed")
    desk.look()
    desk.now += FORGET_AFTER
    desk.look()
    desk.ends("ingest_gfs", "failed")
    desk.look()

    assert desk.events == [("failed", "ingest_gfs")] * 2


@pytest.mark.parametrize(
    "text", ["", "{}", "null", "[]", '{"looked_at": 1}', '{"incidents": [{}], "seen": []}']
)
def test_a_state_of_another_version_is_begun_anew(text: str) -> None:
    """Else the alerts stop at the first upgrade, without an alert."""
    assert Watch.parse(text, NOON) == Watch.parse(None, NOON)


def test_the_state_stays_small(desk: Desk) -> None:
    """Dagster stores it with every tick, 1,440 times a day."""
    for n in range(30):
        desk.ends(f"job_{n}", "failed", message="x" * 100_000)
    desk.look()
    assert len(desk.cursor or "") < 30 * 400

    desk.answers = ["refused"] * 30
    for n in range(30, 60):
        desk.ends(f"job_{n}", "failed", message="x" * 100_000)
    desk.look()
    assert len(desk.cursor or "") < 60 * 400 + 30 * MESSAGE_CHARACTERS


def test_the_payload_has_a_text_for_people_and_facts_for_programs(desk: Desk) -> None:
    """A chat shows the text; a program routes by model and opens the link."""
    facts: dict[str, Any] = {
        "model": "gfs",
        "partition": "2026-11-21T06",
        "run_id": "abc",
        "link": "http://d/runs/abc",
    }
    desk.ends("ingest_gfs", "failed", message="store <full> & <!channel>", **facts)
    desk.look()

    [told] = desk.came
    assert told["text"] == (
        "Failed: job ingest_gfs, partition 2026-11-21T06, at 2026-11-21 12:00 UTC. "
        "store &lt;full&gt; &amp; &lt;!channel&gt; http://d/runs/abc"
    )
    assert {
        **facts,
        "message": "store <full> & <!channel>",
        "count": 1,
        "kind": "job",
    }.items() <= told.items()
    assert told["since"] == "2026-11-21T12:00:00+00:00"


def test_the_model_is_found_in_the_name() -> None:
    """A sensor's tick has no tags; its name tells whose it is."""
    models = ["gfs", "goes_east", "mrms", "mrms_hourly"]
    found: Callable[[str], str | None] = lambda name: model_of(name, models)  # noqa: E731

    names = ["ingest_gfs", "weather/goes_east/grids", "mrms_hourly_sensor", "mrms_sensor", "check_gfs_hourly"]
    assert [found(n) for n in names] == ["gfs", "goes_east", "mrms_hourly", "mrms", "gfs"]
    assert [found(n) for n in ("purge", "gfsx_sensor", "xgfs")] == [None, None, None]


def test_a_secret_inside_another_is_taken_out_whole() -> None:
    """Else the shorter one's stars leave the longer one's rest to be read."""
    assert redacted("at https://h/ab: ab", ["ab", "https://h/ab"]) == "at ***: ***"


outcomes = st.sampled_from(["failed", "succeeded", "retried", "look"])
steps = st.lists(st.tuples(st.sampled_from(["a", "b"]), outcomes), max_size=30)


@given(steps, st.lists(st.sampled_from(["taken", "refused", "lost"]), max_size=30))
def test_the_receiver_always_knows_the_truth_in_the_end(
    steps: Sequence[tuple[str, Any]], answers: Sequence[Answer]
) -> None:
    """Whatever is refused, lost or seen late: failed and recovered take turns, and the last word is true."""
    desk = Desk(answers=list(answers))
    for name, step in steps:
        if step == "look":
            desk.look()
        else:
            desk.ends(name, step)
            desk.now += timedelta(seconds=1)
    desk.look()
    desk.answers.clear()
    desk.look()

    for name in ("a", "b"):
        told = [(m["incident"], m["event"]) for m in desk.came if m["name"] == name]
        heard = [event for (_, event), _ in groupby(dict.fromkeys(told))]
        ends = [e.outcome for e in desk.history if e.name == name and e.outcome != "retried"]
        streaks = [outcome for outcome, _ in groupby(ends)]
        assert heard == ["failed", "recovered"] * (len(heard) // 2) + ["failed"] * (len(heard) % 2)
        assert len(heard) % 2 == (ends[-1:] == ["failed"])
        assert ("failed" in heard) == ("failed" in ends)
        assert heard.count("failed") <= streaks.count("failed")
    assert Counter(m["incident"] + m["event"] for m in desk.came).total() <= (
        len({m["incident"] + m["event"] for m in desk.came}) + answers.count("lost")
    )
