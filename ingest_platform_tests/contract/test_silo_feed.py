"""Many organisms at once, as cron and the continuous importer run them: none delays or breaks another."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ingest_platform.errors import SourceUnavailable
from ingest_platform.operations import reconcile as reconciling
from ingest_platform.silo import feed
from ingest_platform.silo.engines.contract import EngineTimedOut
from ingest_platform.silo.ingest import Report
from ingest_platform.silo.model import EngineSettings, Organism, Timeouts
from ingest_platform.silo.rails import DOWNLOADS_AT_ONCE
from ingest_platform.silo.read import SOURCE, live
from ingest_platform_tests.silo_bench import HANGS, alive
from ingest_platform_tests.silo_station import Station, new_station
from ingest_platform_tests.silo_world import TWELVE, Answer, Request, answer, loculus, record


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Station]:
    with new_station(tmp_path) as made:
        made.server.release(answer(TWELVE, '"e1"'))
        yield made


def siblings(place: Station, number: int, url: str | None = None) -> list[Organism]:
    """Organisms like the station's, with output folders of their own; all on one backend."""
    url = url or place.organism.backend_url
    return [
        place.organism.model_copy(
            update={"id": f"o{n}", "output": place.root / f"out{n}", "backend_url": url}
        )
        for n in range(number)
    ]


def once(place: Station, organisms: list[Organism]) -> dict[str, Report]:
    return {made.organism: made for made in feed.once(place.rails, organisms, owner="test")}


@pytest.mark.silo_case(27)
def test_at_midnight_twenty_unchanged_organisms_cost_bounded_downloads_and_no_build(place: Station) -> None:
    """Else all organisms load and build at once when the UTC date in their ETags changes."""
    organisms = siblings(place, 20)
    once(place, organisms)
    assert len(place.engine.builds) == 20
    place.advance(minutes=5)
    midnight = answer(TWELVE, '"e1|2026-11-22"')
    most = Busiest(midnight)
    place.server.rule = most.answer

    reports = once(place, organisms)

    assert {made.what for made in reports.values()} == {"unchanged"}
    assert len(place.engine.builds) == 20
    assert 1 <= most.downloads_at_once <= DOWNLOADS_AT_ONCE
    place.server.release(midnight)
    assert {made.what for made in once(place, organisms).values()} == {"nothing due"}


class Busiest:
    """A backend that notes how many whole releases are on their way at once."""

    def __init__(self, released: Answer) -> None:
        self.released = replace(released, framing="length")
        self.downloads_at_once = 0
        self._now = 0
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer:
        if "if-none-match" in request.headers:
            return self.released
        with self._lock:
            self._now += 1
            self.downloads_at_once = max(self.downloads_at_once, self._now)
        time.sleep(0.02)
        with self._lock:
            self._now -= 1
        return self.released


@pytest.mark.silo_case(10)
def test_a_backend_that_is_away_leaves_other_organisms_alone(place: Station) -> None:
    """Else one organism's outage stops the genomes of all."""
    with loculus() as gone:
        pass
    (one,) = siblings(place, 1, gone.url)
    broken = one.model_copy(update={"id": "broken", "output": place.root / "none"})

    reports = once(place, [broken, *siblings(place, 3)])

    assert reports["broken"].what == "failed"
    assert isinstance(reports["broken"].error, SourceUnavailable)
    assert {reports[f"o{n}"].what for n in range(3)} == {"imported"}


def test_the_continuous_importer_survives_outages_and_shows_what_comes(place: Station) -> None:
    """Else a restart of the backend ends the import, or needs one of ours."""
    stop = threading.Event()
    reports: list[Report] = []
    place.configure(poll_interval_seconds=1)

    def told(made: Report) -> None:
        reports.append(made)
        if made.what == "failed":
            place.server.release(answer([*TWELVE, record(12)], '"e2"'))
            place.advance(minutes=30)
        elif live(place.catalog, place.organism.id) and place.index.rows == 13:
            stop.set()
        else:
            place.server.always(Answer(status=503, framing="length"))
            place.advance(minutes=1)

    watchdog = threading.Timer(60, stop.set)
    watchdog.start()
    feed.follow(place.rails, [place.organism], owner="test", stop=stop, report=told, interval_seconds=0.05)
    watchdog.cancel()

    assert reports[0].what == "imported"
    assert "failed" in [made.what for made in reports]
    assert place.index.rows == 13


def test_what_nobody_foresaw_stops_the_continuous_importer(place: Station) -> None:
    """Else it is silent for ever and looks healthy: a supervisor restarts what ends."""

    def broken(_report: Report) -> None:
        raise AssertionError("nobody foresaw it")

    with pytest.raises(AssertionError, match="foresaw"):
        feed.follow(place.rails, siblings(place, 2), owner="test", stop=threading.Event(), report=broken)


@pytest.mark.silo_case(11)
def test_a_dripping_download_ends_at_the_total_deadline(place: Station) -> None:
    """Else one byte now and then holds the organism's lease for ever."""
    place.poll()
    place.configure(timeouts=Timeouts(connect_seconds=2, read_seconds=2, total_seconds=0.5))
    place.server.always(answer(TWELVE, '"e1"', drip_seconds=0.01))

    report = place.ingest()

    assert report.what == "failed"
    assert "bytes came before the deadline" in str(report.error)
    assert place.live is None


@pytest.mark.silo_case(14)
def test_an_engine_that_hangs_is_killed_with_its_children_and_not_overlapped(place: Station) -> None:
    """Else a hanging build writes into the next one's folder, or blocks the organism for an hour."""
    binary = place.root / "silo"
    pids = place.root / "pids"
    binary.write_text(HANGS.replace("grandchild", str(pids)).replace(">", ">>", 1))
    binary.chmod(0o755)
    engine = EngineSettings(kind="cli", binary=binary, timeout_seconds=1)
    place.configure(engine=engine)
    from ingest_platform.silo.engines.choice import engine_of

    place.rails = replace(place.rails, choose_engine=engine_of)

    report = place.round()

    assert isinstance(report.error, EngineTimedOut)
    assert "begun" in report.log_tail
    assert [pid for pid in pids.read_text().split() if alive(int(pid))] == []
    assert place.served is None
    binary.write_text("#!/bin/sh\nexit 2\n")
    place.advance(minutes=1)
    assert "exit 2" in str(place.ingest().error)


def test_retention_never_takes_an_organism(place: Station) -> None:
    """Else a virus without new genomes for a month disappears."""
    place.round()

    assert place.catalog.expirable(SOURCE, cutoff=place.at + timedelta(days=36500), keep_latest=0) == ()


def test_a_lost_snapshot_is_found_and_imported_again(place: Station) -> None:
    """Else a disk that lost the index is noticed when somebody needs it."""
    place.round()
    index, uri = place.index, place.index.uri
    found = reconcile(place)
    assert (found.well, found.stored, found.lost) == (True, 1, ())
    place.rails.store.delete_below(uri, index.snapshot)

    lost = reconcile(place, apply=True)
    report = place.ingest()

    assert [loss.missing for loss in lost.lost] == [(f"{uri}/{index.snapshot}/manifest.json",)]
    assert lost.requeued_objects == 1
    assert report.what == "imported"
    assert place.index.uri != uri
    assert place.index.index_timestamp > index.index_timestamp
    assert reconcile(place, deep=True).well


def test_a_single_lost_file_is_found_by_the_deep_look(place: Station) -> None:
    """Else the manifest alone proves what is not there."""
    place.round()
    index = place.index
    folder = place.rails.store.folder
    assert folder is not None
    (folder / index.uri / index.snapshot / "index" / "default.silo").unlink()

    assert reconcile(place).well
    assert [loss.missing for loss in reconcile(place, deep=True).lost] == [
        (f"{index.uri}/{index.snapshot}/index/default.silo",)
    ]


def reconcile(place: Station, *, apply: bool = False, deep: bool = False) -> reconciling.Findings:
    return reconciling.reconcile(
        place.catalog, place.rails.store, now=place.at, apply=apply, deep=deep, owner="test"
    )
