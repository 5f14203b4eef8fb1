"""A process that is told to end hands its imports back; and one organism that breaks stops no other."""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ingest_platform.silo import feed
from ingest_platform.silo.engines.choice import engine_of
from ingest_platform.silo.ingest import Report
from ingest_platform.silo.model import EngineSettings
from ingest_platform.silo.stopping import Stopped
from ingest_platform_tests.silo_bench import HANGS, alive, wait_until
from ingest_platform_tests.silo_station import Station, new_station
from ingest_platform_tests.silo_world import TWELVE, Answer, Request, answer, record

# Between the signal and the end; a container has 30 s, and this machine may be under load.
SOON_SECONDS = 5


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Station]:
    with new_station(tmp_path) as made:
        made.server.release(answer(TWELVE, '"e1"'))
        yield made


def stopped_behind(place: Station, point: str) -> None:
    """Tell the rails to end when the import has come to this point, and waits."""

    def at(reached: str) -> None:
        if reached == point:
            threading.Timer(0.3, place.rails.stop.set).start()

    place.rails = replace(place.rails, at=at)


def require_handed_back(place: Station, report: Report) -> None:
    """Nothing was published, nothing is blamed, and the next one imports it as soon as it is due."""
    assert isinstance(report.error, Stopped), report.error
    assert place.live is None
    [row] = place.rows
    assert (row.state, row.attempts) == ("pending", 0)
    place.rails = replace(place.rails, stop=threading.Event(), at=lambda _point: None)
    place.server.release(answer(TWELVE, '"e1"'))
    place.advance(minutes=5)
    assert place.ingest().what == "imported"


@pytest.mark.silo_case(17)
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_a_download_ends_when_it_is_told_to(place: Station, framing: str) -> None:
    """Else a node that is drained kills it, which uses an attempt and blocks the organism for 90 s."""
    place.poll()
    # The body's bytes come in an hour: nothing wakes who waits for the next one.
    place.server.always(answer(TWELVE, '"e1"', drip_seconds=30, framing=framing))
    stopped_behind(place, "during download")

    began = time.monotonic()
    report = place.ingest()

    assert time.monotonic() - began < SOON_SECONDS
    require_handed_back(place, report)


@pytest.mark.silo_case(17)
@pytest.mark.parametrize("path", ["/get-released-data", "/1.yaml"])
def test_a_server_that_thinks_is_not_waited_for(place: Station, path: str) -> None:
    """Upstream's database thinks for minutes before its first byte: longer than a container's grace."""
    asked, free = threading.Event(), threading.Event()
    place.configure(lineage_definitions={"pango": {1: f"{place.server.url}/1.yaml"}})
    place.poll()

    def thinks(request: Request) -> Answer:
        if path not in request.path:
            return answer(TWELVE, '"e1"')
        asked.set()
        free.wait(60)
        return Answer(status=503, framing="length")

    place.server.rule = thinks

    def when_it_is_asked() -> None:
        asked.wait(60)
        place.rails.stop.set()

    threading.Thread(target=when_it_is_asked).start()
    report = place.ingest()
    free.set()

    place.configure(lineage_definitions={})
    require_handed_back(place, report)


@pytest.mark.silo_case(17)
def test_a_build_ends_when_it_is_told_to(place: Station) -> None:
    """Else SIGTERM is followed by kill -9, and the release is one attempt nearer to being given up."""
    binary, pid = place.root / "silo", place.root / "pid"
    binary.write_text(HANGS.replace("grandchild", str(pid)))
    binary.chmod(0o755)
    place.configure(engine=EngineSettings(kind="cli", binary=binary))
    scripted = place.rails.choose_engine
    place.rails = replace(place.rails, choose_engine=engine_of)
    place.poll()

    def when_it_runs() -> None:
        wait_until(lambda: pid.exists() and pid.read_text() != "")
        place.rails.stop.set()

    threading.Thread(target=when_it_runs).start()
    report = place.ingest()

    assert not alive(int(pid.read_text()))
    place.rails = replace(place.rails, choose_engine=scripted)
    require_handed_back(place, report)


def test_stopped_rails_ask_nothing_and_claim_nothing(place: Station) -> None:
    """Else each organism of an `ingest once` begins its import after the signal to end."""
    place.rails.stop.set()

    [report] = feed.once(place.rails, [place.organism], owner="test")
    feed.follow(place.rails, [place.organism], owner="test", report=lambda made: pytest.fail(str(made)))

    assert (report.what, type(report.error)) == ("failed", Stopped)
    assert (place.rows, place.server.requests) == ((), [])


def test_what_nobody_foresaw_of_one_organism_is_told_and_stops_no_other(
    place: Station, caplog: pytest.LogCaptureFixture
) -> None:
    """Else one poisoned release stops the genomes of all, at once and without a word."""
    place.organism = place.organism.model_copy(update={"id": "broken"})
    sound = place.organism.model_copy(update={"id": "sound", "output": place.root / "sound"})
    reports: list[Report] = []

    def engine_for(organism: object, environ: object) -> object:
        if organism is place.organism:
            raise ZeroDivisionError("nobody foresaw it")
        return place.engine

    def told(made: Report) -> None:
        reports.append(made)
        place.advance(minutes=1)
        if {report.organism for report in reports} == {"broken", "sound"}:
            place.rails.stop.set()

    place.rails = replace(place.rails, choose_engine=engine_for)  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        feed.follow(place.rails, [place.organism, sound], owner="test", report=told, interval_seconds=0.05)

    [broken, *_] = [report for report in reports if report.organism == "broken"]
    assert (broken.what, type(broken.error)) == ("failed", ZeroDivisionError)
    assert "imported" in [report.what for report in reports if report.organism == "sound"]
    assert place.rows[0].attempts >= 1
    assert "ZeroDivisionError" in caplog.text


def test_a_round_for_all_tells_what_nobody_foresaw_of_one(place: Station) -> None:
    """Else the reports of the other organisms are lost, though their indexes are published."""
    sound = place.organism.model_copy(update={"id": "sound", "output": place.root / "sound"})
    place.rails = replace(
        place.rails,
        choose_engine=lambda organism, _environ: 1 / 0 if organism is place.organism else place.engine,  # type: ignore[arg-type,return-value]
    )

    reports = {made.organism: made for made in feed.once(place.rails, [place.organism, sound], owner="test")}

    assert isinstance(reports["organism"].error, ZeroDivisionError)
    assert reports["sound"].what == "imported"


@pytest.mark.parametrize("poison", [{"pipeline_version": "1" * 5000}, {"depth": [[]]}])
def test_a_poisoned_release_is_refused_in_words_about_its_record(
    place: Station, poison: dict[str, object]
) -> None:
    """Else nobody finds the record among 10 million."""
    if "depth" in poison:
        for _ in range(400):
            poison["depth"] = [poison["depth"]]
    place.server.release(answer([record(1, **poison)], '"e1"'))  # type: ignore[arg-type]

    report = place.round()

    assert "record 1 at byte 0" in str(report.error)


def test_an_announced_number_that_is_none_is_a_warning(place: Station) -> None:
    """Else a proxy's broken header is an error that nobody foresaw."""
    sound = answer(TWELVE, '"e1"')
    place.server.release(replace(sound, headers={**sound.headers, "x-total-records": "1" * 5000}))

    report = place.round()

    assert report.what == "imported"
    assert any("was not checked" in warning for warning in report.warnings)
