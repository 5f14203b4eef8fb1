"""A real minute without the database, without the store, and with a source that refuses 30 % of all requests.

The three minutes pass at the same time: `ingest run` follows a source of its own in each, which publishes on.
"""

import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from ingest_platform.weather.model import Model
from ingest_platform_tests.conftest import needed
from ingest_platform_tests.faulty_server import FaultyServer, Refuse, Request, faulty_server
from ingest_platform_tests.pressure.outage import Server
from ingest_platform_tests.pressure.station import (
    Station,
    View,
    publish,
    radar,
    radar_files,
    some_hours_ago,
)
from ingest_platform_tests.services import root
from ingest_platform_tests.services.postgres import start_postgres
from ingest_platform_tests.services.processes import stop_all
from ingest_platform_tests.services.s3 import start_s3
from ingest_platform_tests.weather_world import forecast, key_of, pocket

MINUTE = 60.0
REFUSED_SHARE = 0.3
SEED = 18
# Objects of the two outages: published before, in the last second before it, while it lasts, and after.
BEFORE, AT_THE_LAST_MOMENT, MEANWHILE, AFTER = 20, 34, 30, 4


@dataclass(frozen=True, slots=True)
class Told:
    """How one scenario went."""

    recovery_seconds: float  # from the end of the trouble until everything published is ingested
    end_seconds: float  # from SIGTERM to the end
    exit_code: int
    view: View
    calm: View  # of a run that nothing happened to
    log: str
    requests: Mapping[str, int] = field(default_factory=dict)  # by kind
    ideal: Mapping[str, float] = field(default_factory=dict)

    def summary(self, name: str) -> str:
        ratio = sum(self.requests.values()) / sum(self.ideal.values()) if self.ideal else None
        states, attempts = Counter(self.view.states.values()), Counter(self.view.attempts.values())
        return (
            f"{name}: recovered in {self.recovery_seconds:.0f} s, ended in {self.end_seconds:.1f} s,"
            f" states {dict(states)}, attempts {dict(attempts)}"
            + (f", requests {dict(self.requests)}, ideal {dict(self.ideal)}, {ratio:.2f} x" if ratio else "")
        )


@pytest.fixture(scope="module")
def minute(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Told]]:
    """The three scenarios, all over."""
    scenarios = {"ledger": _ledger_away, "store": _store_away, "refusals": _refusals}
    folders = {name: tmp_path_factory.mktemp(name) for name in scenarios}
    # Not below pytest's folder, which the user of PostgreSQL may not enter.
    servers = {name: root() / f"{os.getpid()}-{name}" for name in scenarios}
    for folder in servers.values():
        folder.mkdir(parents=True)
    try:
        with needed(), ThreadPoolExecutor(len(scenarios)) as threads:
            running = {n: threads.submit(go, folders[n], servers[n]) for n, go in scenarios.items()}
            told = {name: scenario.result() for name, scenario in running.items()}
        for name, one in told.items():
            print(one.summary(name))  # noqa: T201 - the figures, with -s
        yield told
    finally:
        for folder in servers.values():
            stop_all(folder)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.case(30)
@pytest.mark.parametrize("name", ["ledger", "store"])
def test_a_minute_without_it_loses_nothing_and_doubles_nothing(minute: Mapping[str, Told], name: str) -> None:
    """Else after every restart of a server somebody compares buckets with the store by hand."""
    told = minute[name]

    assert told.view.outcome == told.calm.outcome
    assert set(told.view.states.values()) == {"ingested"}
    assert (
        told.view.ingested_total == len(told.view.states) == BEFORE + AT_THE_LAST_MOMENT + MEANWHILE + AFTER
    )


@pytest.mark.parametrize("name", ["ledger", "store"])
def test_a_minute_without_it_costs_no_object_an_attempt(minute: Mapping[str, Told], name: str) -> None:
    """Else three bad minutes in a year put good objects into quarantine."""
    told = minute[name]

    # A server that dies between a claim and its answer leaves a lease, and one batch begins again.
    assert max(told.view.attempts.values()) <= 2
    assert Counter(told.view.attempts.values())[2] <= 16


@pytest.mark.parametrize("name", ["ledger", "store", "refusals"])
def test_it_recovers_by_itself_and_still_ends_when_asked(minute: Mapping[str, Told], name: str) -> None:
    """Else the night shift restarts daemons, or kills them."""
    told = minute[name]

    # 90 s: the lease of a batch that nobody could hand back. Else a postponement, 30 s at first.
    assert told.recovery_seconds < 120
    assert (told.exit_code, told.end_seconds < 20) == (0, True), told.log


@pytest.mark.case(18)
def test_a_minute_of_refusals_costs_at_most_three_times_the_requests(minute: Mapping[str, Told]) -> None:
    """Else we are the ones who keep a tired source from recovering."""
    told = minute["refusals"]

    assert told.view.outcome == told.calm.outcome
    assert set(told.view.states.values()) == {"ingested"}
    assert max(told.view.attempts.values()) == 1
    for kind, ideal in told.ideal.items():
        assert told.requests[kind] <= 3 * ideal, told.summary("refusals")


def _ledger_away(folder: Path, servers: Path) -> Told:
    url = start_postgres(servers)
    server = Server(servers)
    return _outage(folder, server, signal.SIGQUIT, {"INGEST_CATALOG_URL": url})


def _store_away(folder: Path, servers: Path) -> Told:
    s3 = start_s3(servers)
    server = Server(servers)
    environ = {"INGEST_STORE_URL": f"s3://{s3.fresh_bucket()}/weather", **s3.environment()}
    return _outage(folder, server, signal.SIGKILL, environ)


def _outage(folder: Path, server: Server, how: signal.Signals, environ: Mapping[str, str]) -> Told:
    mirror = folder / "mirror"
    mirror.mkdir()
    station = Station(folder / "home", radar(), mirror.as_uri(), environ)
    number = BEFORE + AT_THE_LAST_MOMENT + MEANWHILE + AFTER
    files = radar_files(station.model, some_hours_ago(), number)

    def publish_next(count: int = 1) -> None:
        for _ in range(count):
            publish(mirror, *next(files))

    publish_next(BEFORE)
    with station.following() as process:
        station.wait_until_settled(BEFORE)
        publish_next(AT_THE_LAST_MOMENT)
        station.wait_for_a_batch()
        server.away(how)
        for _ in range(MEANWHILE):
            publish_next()
            time.sleep(MINUTE / MEANWHILE)
        server.back()
        recovery = station.wait_until_settled(number - AFTER)
        publish_next(AFTER)
        station.wait_until_settled(number)
        asked = time.monotonic()
    end_seconds = time.monotonic() - asked
    calm = Station(folder / "calm", station.model, station.endpoint).ingest_once()
    return Told(recovery, end_seconds, process.returncode, station.view(), calm, _tail(station.log))


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def _refusals(folder: Path, _servers: Path) -> Told:
    """Forecasts, because they cost requests of four kinds: listing, HEAD and GET of inventories, ranges."""
    hrrr = pocket("hrrr", ["temperature_2m", "pressure_msl"])
    environ = {"INGEST_WEATHER_MODELS": str(_written(hrrr, folder / "models"))}
    with faulty_server() as source:
        source.buckets[hrrr.sources[-1].bucket] = {}
        station = Station(folder / "home", hrrr, source.endpoint, environ)
        leads = [(some_hours_ago(hours), lead) for hours in (3, 2) for lead in range(19)]
        with station.following() as process:
            _wait_for_a_full_pass(source)
            first, refused = len(source.requests), Counter[str]()
            source.rule = _refusing(refused)
            for cycle, lead in leads:
                _publish_lead(source, hrrr, cycle, lead)
                time.sleep(MINUTE / len(leads))
            source.rule = lambda _: None
            recovery = station.wait_until_settled(len(leads))
            requests = Counter(_kind(request) for request in source.requests[first:])
            asked = time.monotonic()
        end_seconds = time.monotonic() - asked
        first = len(source.requests)
        calm = Station(folder / "calm", hrrr, source.endpoint, environ).ingest_once()
        needed_once = Counter(_kind(request) for request in source.requests[first:])
    # A listing is never the last: of those, each that was answered was needed.
    ideal = {**needed_once, "LIST": requests["LIST"] - refused["LIST"]}
    view, log = station.view(), _tail(station.log)
    return Told(recovery, end_seconds, process.returncode, view, calm, log, requests, ideal)


def _written(model: Model, folder: Path) -> Path:
    folder.mkdir()
    plain = model.model_dump(mode="json", exclude_defaults=True)
    (folder / f"{model.id}.yaml").write_text(yaml.safe_dump(plain))
    return folder


def _wait_for_a_full_pass(source: FaultyServer) -> None:
    deadline = time.monotonic() + 60
    while len(source.requests) < 100:
        assert time.monotonic() < deadline, "nothing was listed"
        time.sleep(0.1)


def _refusing(refused: Counter[str]) -> Callable[[Request], Refuse | None]:
    """SlowDown for 30 % of all requests, half of them with a wish; at random, as throttling is."""
    chance, lock = random.Random(SEED), threading.Lock()

    def rule(request: Request) -> Refuse | None:
        with lock:
            refuse, wish = chance.random() < REFUSED_SHARE, chance.random() < 0.5
            refused[_kind(request)] += refuse
        return Refuse(503, "1" if wish else None) if refuse else None

    return rule


def _publish_lead(source: FaultyServer, model: Model, cycle: datetime, lead: int) -> None:
    file, at = forecast(model, cycle, lead), datetime.now(UTC)
    bucket, key = model.sources[-1].bucket, key_of(model, cycle, lead)
    source.put(bucket, key, file.grib, at)
    source.put(bucket, f"{key}.idx", file.index.encode(), at)


def _kind(request: Request) -> str:
    if not request.key:
        return "LIST"
    of = "inventory" if request.key.endswith(".idx") else "ranges"
    return f"{request.method} {of}"
