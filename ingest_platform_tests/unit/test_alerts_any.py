"""Whatever fails and succeeds, in which partitions ever: the receiver hears the truth in the end."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ingest_platform.operations.watch.alerts import PARTITION_WAITED_FOR, Ending
from ingest_platform_tests.alert_desk import Answer, Desk

# So that days pass within a history, and each ending is still seen by the look after it.
REST = timedelta(hours=11)

Step = tuple[str, str | None, str]  # of which job, which partition, what
steps = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from([None, "00", "06"]),
        st.sampled_from(["failed", "succeeded", "retried", "look", "rest"]),
    ),
    max_size=30,
)
answers = st.lists(st.sampled_from(["taken", "refused", "lost"]), max_size=30)

# One hour stays broken among good ones, is given up, and the job goes on.
GIVEN_UP: list[Step] = [
    *[("a", "00", "failed"), ("a", "06", "succeeded")] * 2,
    *[("a", None, "rest"), ("a", "06", "succeeded")] * 3,
]

# Its recovery was refused, and it fails again before the receiver takes anything.
FAILED_AGAIN: list[Step] = [
    ("a", None, "failed"),
    ("a", None, "succeeded"),
    ("a", None, "look"),
    ("a", None, "failed"),
]


@given(steps, answers)
@example(FAILED_AGAIN, ["taken", "refused", "refused"])
@example(GIVEN_UP, ["lost", "refused"])
def test_the_receiver_always_knows_the_truth_in_the_end(
    steps: Sequence[Step], answers: Sequence[Answer]
) -> None:
    """Whatever is refused, lost or seen late: failed and recovered take turns, and the last word is true."""
    desk = Desk(answers=list(answers))
    for name, partition, step in steps:
        _do(desk, name, partition, step)
    desk.look()
    desk.answers.clear()
    desk.look()

    for name in ("a", "b"):
        told = [(m["incident"], m["event"]) for m in desk.came if m["name"] == name]
        heard = [event for (_, event), _ in groupby(dict.fromkeys(told))]
        states = list(_states(e for e in desk.history if e.name == name))
        assert heard == ["failed", "recovered"] * (len(heard) // 2) + ["failed"] * (len(heard) % 2)
        assert len(heard) % 2 == (states[-1:] == [True])
        assert ("failed" in heard) == (True in states)
        assert heard.count("failed") <= [state for state, _ in groupby(states)].count(True)
    assert Counter(m["incident"] + m["event"] for m in desk.came).total() <= (
        len({m["incident"] + m["event"] for m in desk.came}) + answers.count("lost")
    )


def _do(desk: Desk, name: str, partition: str | None, step: Any) -> None:
    match step:
        case "look":
            desk.look()
        case "rest":
            desk.look()
            desk.now += REST
        case _:
            desk.ends(name, step, partition=partition)
            desk.now += timedelta(seconds=1)


def _states(endings: Iterable[Ending]) -> Iterator[bool]:
    """After each ending of a job, whether it is failing: the rule in its own words."""
    failing: dict[str | None, datetime] = {}
    for ending in endings:
        if ending.outcome == "failed":
            failing[ending.partition] = ending.at
        elif ending.outcome == "succeeded":
            failing.pop(ending.partition, None)
            failing = {p: at for p, at in failing.items() if ending.at - at < PARTITION_WAITED_FOR}
        yield bool(failing)
