"""Incidents: told once, closed once, and never lost, whatever the receiver and the daemon do."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from ingest_platform.operations.watch.alerts import (
    DECISION_WITHIN,
    FIRST_LOOK,
    FORGET_AFTER,
    LONGEST_LOOK,
    MESSAGE_CHARACTERS,
    OVERLAP,
    PARTITION_WAITED_FOR,
    PARTITIONS_WAITED_FOR,
    Ending,
    Watch,
    failed_run,
    model_of,
    redacted,
)
from ingest_platform_tests.alert_desk import NOON, TICK, Desk


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


def test_a_partition_that_stays_broken_among_good_ones_is_told_once(desk: Desk) -> None:
    """Else one damaged hour sends two messages each quarter of an hour, all night."""
    for _ in range(8):
        desk.ends("ingest_gfs", "failed", partition="00")
        desk.look()
        desk.ends("ingest_gfs", "succeeded", partition="06")
        desk.look()
    assert desk.events == [("failed", "ingest_gfs")]

    desk.ends("ingest_gfs", "succeeded", partition="00")
    desk.look()

    assert desk.events == [("failed", "ingest_gfs"), ("recovered", "ingest_gfs")]


def test_an_outage_is_one_incident_and_over_with_its_last_partition(desk: Desk) -> None:
    """Else a store that is away sends a message for each partition, or one that works speaks for all."""
    for outcome in ("failed", "succeeded"):
        for partition in ("00", "06", "12"):
            assert ("recovered", "ingest_gfs") not in desk.events
            desk.ends("ingest_gfs", outcome, partition=partition)
            desk.look()

    assert desk.events == [("failed", "ingest_gfs"), ("recovered", "ingest_gfs")]


def test_a_partition_that_is_not_tried_again_is_waited_for_a_day(desk: Desk) -> None:
    """A damaged hour that was given up never succeeds: its job must not stay silent for it."""
    desk.ends("ingest_gfs", "failed", partition="00")
    desk.look()
    for wait in (PARTITION_WAITED_FOR - TICK * 2, TICK * 2):
        assert desk.events == [("failed", "ingest_gfs")]
        desk.now += wait
        desk.ends("ingest_gfs", "succeeded", partition="06")
        desk.look()

    assert desk.events == [("failed", "ingest_gfs"), ("recovered", "ingest_gfs")]


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


def test_the_state_of_an_incident_of_a_thousand_partitions_stays_small(desk: Desk) -> None:
    """A store that is away for a week fails them all."""
    for n in range(1000):
        desk.ends("ingest_gfs", "failed", partition=f"2026-11-21T{n}", ago=1 - n / 1000)
    desk.look()
    for _ in range(2):  # then what was judged is no longer kept by its id
        desk.now += OVERLAP
        desk.look()

    assert len(desk.cursor or "") < 400 + PARTITIONS_WAITED_FOR * 70


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
