"""Patience: asks again when that may help, waits as told, and asks less of a tired server."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.errors import Damaged, PermanentError, SourceChanged, SourceUnavailable
from ingest_platform.storage.patience import Gate, Patience, retry_after_seconds

NOW = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)


@dataclass
class Clock:
    """Time that passes only when somebody sleeps."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def patience(clock: Clock, draw: Callable[[], float] = lambda: 0.5, max_retries: int = 5) -> Patience:
    return Patience(sleep=clock.sleep, clock=clock, random=draw, max_retries=max_retries)


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def attempt() -> str:
        if left:
            raise left.pop()
        return "bytes"

    return attempt


@pytest.mark.case(18)
def test_a_tired_server_is_asked_again_after_growing_random_waits() -> None:
    """Else a hiccup of S3 costs a batch, or a thousand workers come back in the same second."""
    clock = Clock()

    answer = patience(clock).call("s3", failing(4, SourceUnavailable("503")))

    assert answer == "bytes"
    assert clock.slept == [0.25, 0.5, 1.0, 2.0]


@pytest.mark.case(18)
@pytest.mark.parametrize("error", [Damaged("404"), PermanentError("403"), SourceChanged("412")])
def test_what_is_not_the_servers_tiredness_is_raised_at_once(error: Exception) -> None:
    """Else a missing object is asked for six times, and a wrong key locks an account."""
    clock = Clock()

    with pytest.raises(type(error)):
        patience(clock).call("s3", failing(1, error))

    assert clock.slept == []


@pytest.mark.case(18)
@given(wish=st.floats(0, 120), draw=st.floats(0, 1, exclude_max=True), retries=st.integers(0, 20))
def test_no_wait_is_shorter_than_the_server_wishes(wish: float, draw: float, retries: int) -> None:
    """Else the server that asked for a pause bans us."""
    rules = patience(Clock(), lambda: draw)

    delay = rules.delay(retries, wish)

    assert delay is not None
    assert wish <= delay <= wish + rules.longest_delay_seconds


def test_a_wish_longer_than_a_lease_allows_is_handed_to_the_ledger() -> None:
    """Else a run sleeps on a lease while others could work."""
    clock = Clock()

    with pytest.raises(SourceUnavailable) as caught:
        patience(clock).call("s3", failing(1, SourceUnavailable("503", retry_after=3600)))

    assert caught.value.retry_after == 3600
    assert clock.slept == []


def test_patience_ends_after_its_retries_and_within_its_budget() -> None:
    """Else an outage of the source hangs the run."""
    counted, slow = Clock(), Clock()

    with pytest.raises(SourceUnavailable):
        patience(counted, max_retries=3).call("s3", failing(99, SourceUnavailable("503")))
    with pytest.raises(SourceUnavailable):
        patience(slow, max_retries=99).call("s3", failing(99, SourceUnavailable("503", retry_after=100)))

    assert len(counted.slept) == 3
    assert slow.now <= 300


@pytest.mark.case(18)
@given(seed=st.integers(0, 2**32))
def test_a_minute_of_30_percent_refusals_costs_less_than_three_times_the_requests(seed: int) -> None:
    """Else our retries are the overload. 600 requests of 0.1 s each: the burst covers all of them."""
    clock, dice, asked = Clock(), random.Random(seed), 0

    def attempt() -> str:
        nonlocal asked
        asked += 1
        clock.now += 0.1
        if clock.now < 60 and dice.random() < 0.3:
            raise SourceUnavailable("503 SlowDown", retry_after=dice.choice([None, 1.0]))
        return "bytes"

    rules = patience(clock, dice.random)
    done = 0
    for _ in range(600):
        try:
            done += rules.call("s3", attempt) == "bytes"
        except SourceUnavailable:
            done += 0  # the ledger postpones it

    assert asked <= 3 * 600
    assert done >= 590


@pytest.mark.case(18)
def test_the_gate_halves_once_a_burst_and_widens_slowly() -> None:
    """Else eight refusals of one moment throttle the host to a single stream for an hour."""
    gate = Gate(8)

    with pytest.raises(SourceUnavailable):
        gate.through(lambda: _refused_twice_inside(gate))
    after_burst = gate.limit
    for _ in range(20):
        gate.through(lambda: None)

    assert after_burst == 4
    assert 4 < gate.limit < 8


def _refused_twice_inside(gate: Gate) -> None:
    """Another request that began in the same round fails first."""
    with pytest.raises(SourceUnavailable):
        gate.through(failing(1, SourceUnavailable("503")))
    raise SourceUnavailable("503")


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 16))
def test_the_gate_stays_between_one_and_its_ceiling(outcomes: list[bool], ceiling: int) -> None:
    """Else it closes for ever, or PARALLEL_DOWNLOADS means nothing."""
    gate = Gate(ceiling)

    for succeeds in outcomes:
        attempt = failing(0 if succeeds else 1, SourceUnavailable("503"))
        try:
            gate.through(attempt)
        except SourceUnavailable:
            assert not succeeds

        assert 1 <= gate.limit <= ceiling


def test_no_more_requests_run_at_once_than_the_gate_allows() -> None:
    """Else the ceiling is a number in a file."""
    gate, lock, running, most = Gate(3), threading.Lock(), 0, 0
    barrier = threading.Barrier(3, timeout=5)

    def attempt() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait()
        with lock:
            running -= 1

    threads = [threading.Thread(target=gate.through, args=(attempt,)) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == 3


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("Sat, 21 Nov 2026 06:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 05:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, seconds: float | None) -> None:
    """Else one of the two forms that servers send is ignored."""
    assert retry_after_seconds(header, NOW) == seconds
