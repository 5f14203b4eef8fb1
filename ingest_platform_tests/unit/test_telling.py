"""What Dagster is told by `ingest run`: little, but never without the last word."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.weather.config import load_models
from ingest_platform.weather.ingest import Report
from ingest_platform.weather.model import Grid, Model
from ingest_platform.weather.telling import AT_MOST_EVERY, PICTURES_PER_MODEL, Teller

GFS, MRMS = load_models(None, only=["gfs", "mrms"])
PICTURE = cast("Grid", object())
START = datetime(2026, 11, 21, tzinfo=UTC)


class Receiver:
    """Takes reports down with the time; refuses while it is away."""

    def __init__(self) -> None:
        self.now = START
        self.away = False
        self.got: list[tuple[datetime, str, int]] = []
        self.pictures: list[tuple[str, str]] = []

    def send(self, report: Report) -> None:
        if self.away:
            raise OSError("away")
        self.got.append((self.now, report.partition, report.published))
        if report.headline is not None:
            self.pictures.append((report.model.id, report.partition))


def made(partition: str, number: int, model: Model = MRMS) -> Report:
    return Report(model, partition, published=number, headline=PICTURE)


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


def test_while_dagster_is_away_each_model_keeps_only_its_newest_pictures() -> None:
    """Else a day's hours, 16 MB each, end the feed for want of memory; their numbers are a few bytes."""
    receiver = Receiver()
    receiver.away = True
    teller = Teller(receiver.send, now=lambda: receiver.now)
    teller.keep(made("00", 1, GFS))
    for number, hour in enumerate(("00", "01", "02", "00", "03")):
        teller.keep(made(hour, number))
        with pytest.raises(OSError, match="away"):
            teller.send_due()

    receiver.away = False
    teller.send_due()

    assert sorted(hour for _, hour, _ in receiver.got) == ["00", "00", "01", "02", "03"]
    assert sorted(receiver.pictures) == [("gfs", "00"), ("mrms", "00"), ("mrms", "03")]
    assert PICTURES_PER_MODEL == 2


def test_a_report_that_loses_its_picture_while_it_is_sent_is_sent_once() -> None:
    """Else the second, without a picture, would take the first one's place in the UI."""
    got: list[Report] = []

    def send(report: Report) -> None:
        got.append(report)
        if len(got) == 1:
            for hour in ("01", "02"):
                teller.keep(made(hour, 1))

    teller = Teller(send, now=lambda: START)
    teller.keep(made("00", 1))
    teller.send_due()
    teller.send_due(all_of_them=True)

    assert [report.partition for report in got] == ["00", "01", "02"]
    assert all(report.headline is PICTURE for report in got)
