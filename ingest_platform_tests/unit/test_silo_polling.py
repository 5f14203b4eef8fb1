"""Many organisms asked within one tick: none waits for another, and what failed has its reason."""

import threading
import time
from pathlib import Path

import pytest

from ingest_platform.errors import PermanentError, SourceUnavailable
from ingest_platform.silo.discover import Polled
from ingest_platform.silo.model import Organism
from ingest_platform.silo.polling import HEAD, poll_all


def organism(name: str) -> Organism:
    config = Path("/config/preprocessing_config.yaml")
    return Organism(
        id=name,
        backend_url=f"http://backend/{name}",
        preprocessing_config=config,
        output=Path("/silo") / name,
    )


@pytest.mark.silo_case(10)
def test_a_backend_that_hangs_delays_no_other() -> None:
    """Dagster ends a tick after 60 s: then nobody would be asked, tick after tick."""
    over = threading.Event()

    def poll(asked: Organism) -> Polled:
        if asked.id == "hangs":
            over.wait(30)
        return Polled(asked.id, "unchanged", '"e1"')

    started = time.monotonic()
    answers = poll_all([organism("hangs"), organism("ebola")], poll, within_seconds=0.2)
    took = time.monotonic() - started
    over.set()

    assert set(answers.polled) == {"ebola"}
    assert "no answer within 0.2 s" in answers.failed["hangs"]
    assert took < 20


@pytest.mark.silo_case(27)
def test_twenty_backends_are_asked_at_once() -> None:
    """At midnight all have news: one after the other, the last would wait for the next tick."""
    names = [f"organism-{n}" for n in range(20)]
    together = threading.Barrier(20)

    def poll(asked: Organism) -> Polled:
        together.wait(20)  # a BrokenBarrierError unless all twenty are here
        return Polled(asked.id, "new release", '"e2"')

    answers = poll_all([organism(name) for name in names], poll)

    assert sorted(answers.polled) == sorted(names)
    assert answers.failed == {}


def test_a_backend_that_is_away_says_why() -> None:
    """A tick's log that only counts failures sends people to the backend's."""

    def poll(asked: Organism) -> Polled:
        raise SourceUnavailable(f"{asked.id}: no answer")

    assert poll_all([organism("ebola")], poll).failed == {"ebola": "ebola: no answer"}


def test_what_no_other_try_mends_is_raised() -> None:
    """A wrong configuration must fail the tick, and not look like a backend's trouble."""

    def poll(asked: Organism) -> Polled:
        raise PermanentError("another ledger's store")

    with pytest.raises(PermanentError, match="another ledger"):
        poll_all([organism("ebola")], poll)


def test_a_tick_waits_for_a_head_and_not_for_a_download() -> None:
    """With the download's time-outs one dead backend would hold a thread for an hour."""
    seen: list[Organism] = []

    def poll(asked: Organism) -> Polled:
        seen.append(asked)
        return Polled(asked.id, "not due")

    poll_all([organism("ebola")], poll)

    assert [asked.timeouts for asked in seen] == [HEAD]


def test_no_organisms_are_no_polls() -> None:
    """The configuration may be empty while the first organism is being prepared."""
    assert poll_all([], lambda _: Polled("", "not due")).polled == {}
