"""What Dagster is told by `ingest run`: little, but never without the last word."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.weather.config import load_models
from ingest_platform.weather.ingest import Report
from ingest_platform.weather.telling import AT_MOST_EVERY, Teller

(MRMS,) = load_models(None, only=["mrms"])
START = datetime(2026, 11, 21, tzinfo=UTC)


class Receiver:
    """Takes reports down with the time; refuses while it is away."""

    def __init__(self) -> None:
        self.now = START
        self.away = False
        self.got: list[tuple[datetime, str, int]] = []

    def send(self, report: Report) -> None:
        if self.away:
            raise OSError("away")
        self.got.append((self.now, report.partition, report.published))


def made(partition: str, number: int) -> Report:
    return Report(MRMS, partition, published=number)


@given(st.lists(st.tuples(st.integers(0, 90), st.sampled_from(["00", "01"]), st.booleans()), max_size=40))
def test_the_last_report_of_each_partition_arrives_and_no_two_within_a_minute(
    steps: list[tuple[int, str, bool]],
) -> None:
    """Else the UI shows an hour that ended ten minutes ago as half full, or the event log fills up."""
    receiver = Receiver()
    teller = Teller(receiver.send, now=lambda: receiver.now)
    last: dict[str, int] = {}

    for number, (seconds, partition, is_away) in enumerate(steps, start=1):
        receiver.now += timedelta(seconds=seconds)
        receiver.away = is_away
        teller.keep(made(partition, number))
        last[partition] = number
        try:
            teller.send_due()
        except OSError:
            assert is_away
    sent_in_time = list(receiver.got)
    receiver.away = False
    teller.send_due(all_of_them=True)

    assert {partition: number for _, partition, number in receiver.got} == last
    for partition in last:
        times = [at for at, of, _ in sent_in_time if of == partition]
        assert all(b - a >= AT_MOST_EVERY for a, b in pairwise(times))


def test_what_could_not_be_sent_is_sent_without_a_new_report() -> None:
    """Radar may be silent for hours: the outage of Dagster's database must not cost its last hour."""
    receiver = Receiver()
    receiver.away = True
    teller = Teller(receiver.send, now=lambda: receiver.now)
    teller.keep(made("00", 1))
    with pytest.raises(OSError, match="away"):
        teller.send_due()

    receiver.away = False
    teller.send_due()

    assert receiver.got == [(START, "00", 1)]
