"""What a soak is made of: a source of many small objects that misbehaves, a crew that dies and sleeps, and
housekeeping in between. All chances come from one seed.
"""

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from sqlalchemy.exc import OperationalError

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.demo import synth
from ingest_platform.operations import reconcile, retention
from ingest_platform.settings import Settings
from ingest_platform.storage.store import store_of
from ingest_platform.weather.config import load_models
from ingest_platform.weather.keys import template
from ingest_platform.weather.model import Model
from ingest_platform_tests.faulty_server import (
    Fault,
    FaultyServer,
    Garble,
    Refuse,
    Replace,
    Request,
    Reset,
    Short,
)
from ingest_platform_tests.pressure.station import RADAR_SHAPE, clean_environment

SPACING = timedelta(seconds=30)  # of observations: 240 objects an hour
RETENTION_HOURS = 80
# Of all requests: about as bad as the worst hour of a public bucket, without end.
TIRED, CUT, BROKEN = 0.03, 0.01, 0.01
# Of all objects. The last are damaged at the source itself, for good.
REPUBLISHED, GARBLED_ONCE, DAMAGED = 0.03, 0.01, 0.002
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of the source as it is in the end, and its earlier version if it has one."""

    bucket: str
    key: str
    valid: datetime
    body: bytes
    earlier: bytes | None
    garbled_once: bool


def soak_model(folder: Path) -> Model:
    """Radar with a longer memory, as a settings file that every process reads."""
    (shipped,) = load_models(only=["mrms"])
    model = shipped.model_copy(update={"retention_hours": RETENTION_HOURS})
    folder.mkdir(parents=True)
    plain = model.model_dump(mode="json", exclude_defaults=True)
    (folder / "mrms.yaml").write_text(yaml.safe_dump(plain))
    return model


def things(model: Model, number: int, last: datetime, chance: random.Random) -> list[Thing]:
    """So many objects, the newest first, all valid before `last`."""
    made = []
    for n in range(number):
        observation, product = divmod(n, len(model.parameters))
        valid = last - SPACING * (observation + 1)
        parameter = model.parameters[product]
        source = next(model.sources_at(valid))
        key = template(source.key).render({"product": parameter.product or "", "valid": valid})
        fate = chance.random()
        body = synth.radar_file(parameter, valid, shape=RADAR_SHAPE)
        earlier = None
        if fate < REPUBLISHED:
            earlier, body = body, synth.radar_file(parameter, valid, shape=RADAR_SHAPE, seed=1)
        elif fate < REPUBLISHED + DAMAGED:
            body = body[:-30]
        garbled = REPUBLISHED + DAMAGED < fate < REPUBLISHED + DAMAGED + GARBLED_ONCE
        made.append(Thing(source.bucket, key, valid, body, earlier, garbled))
    return made


@dataclass
class Misbehaviour:
    """A rule for the source: refusals, cuts and resets at random; an object's own fate at its first read."""

    things: dict[str, Thing]
    chance: random.Random
    told: Counter[str] = field(default_factory=Counter)
    _read: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Fault | None:
        with self._lock:
            fault = self._fault(request)
            self.told[type(fault).__name__] += 1
        return fault

    def _fault(self, request: Request) -> Fault | None:
        roll = self.chance.random()
        if roll < TIRED:
            return Refuse(503, "1" if roll < TIRED / 10 else None)
        if request.key and roll < TIRED + CUT:
            return Short(7)
        if request.key and roll < TIRED + CUT + BROKEN:
            return Reset()
        thing = self.things.get(request.key)
        if thing is None or request.key in self._read:
            return None
        self._read.add(request.key)
        if thing.earlier is not None:
            return Replace(thing.body)
        return Garble() if thing.garbled_once else None


@dataclass
class Crew:
    """Workers on one home. `trouble` kills and stops them at random, and replaces the dead."""

    home: Path
    environ: dict[str, str]
    size: int
    deaths: Counter[str] = field(default_factory=Counter)
    _workers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    _hired: int = 0

    def hire(self) -> None:
        """Bring the crew to its size."""
        self._workers = [worker for worker in self._workers if worker.poll() is None]
        while len(self._workers) < self.size:
            self._hired += 1
            with (self.home / f"worker-{self._hired}.log").open("wb") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-m", f"{__package__}.soak_worker", f"worker {self._hired}"],
                    env=self.environ,
                    cwd=REPOSITORY,
                    stdout=log,
                    stderr=log,
                )
            self._workers.append(worker)

    def suffer(self, chance: random.Random) -> None:
        """One of them dies, or sleeps longer or shorter than its lease, and may die in its sleep."""
        victim = chance.choice(self._workers)
        fate = chance.choice(["killed", "killed", "slept", "slept", "died asleep"])
        self.deaths[fate] += 1
        if fate != "killed":
            victim.send_signal(signal.SIGSTOP)
            time.sleep(chance.uniform(1, 9))
            victim.send_signal(signal.SIGCONT)
        if fate != "slept":
            victim.kill()
            victim.wait()
        self.hire()

    def dismiss(self) -> list[int]:
        """Ask all to end; their exit codes. None is left behind."""
        for worker in self._workers:
            worker.send_signal(signal.SIGCONT)
            worker.terminate()
        try:
            return [worker.wait(60) for worker in self._workers]
        finally:
            for worker in self._workers:
                worker.kill()
                worker.wait()

    def logs(self) -> str:
        return "\n".join(path.read_text()[-1500:] for path in sorted(self.home.glob("worker-*.log"))[-4:])


@contextmanager
def crew(home: Path, source: FaultyServer, models: Path, size: int) -> Iterator[Crew]:
    home.mkdir(parents=True)
    # No compiled code is written beside the sources while others read it.
    environ = clean_environment(
        INGEST_HOME=str(home),
        INGEST_WEATHER_ENDPOINT=source.endpoint,
        INGEST_WEATHER_MODELS=str(models),
    )
    hired = Crew(home, environ, size)
    try:
        hired.hire()
        yield hired
    finally:
        hired.dismiss()


def keep_house(settings: Settings, model: Model, keep: timedelta, stop: threading.Event) -> None:
    """Purge and reconcile all the time, as schedules do a few times a day. Any error is raised."""
    policy = retention.Policy(model.source_name, keep, keep_latest=2)
    with closing(Catalog.open(settings.catalog_url)) as catalog:
        store = store_of(settings)
        while not stop.wait(5):
            # Its transaction may wait behind a worker that sleeps in one; the next round tries again.
            with suppress(OperationalError):
                now = datetime.now(UTC)
                done = retention.purge(catalog, store, [policy], now=now, owner="purge")
                assert done.error is None, done.error
                # Young orphans, because the guard of two hours would spare them all.
                reconcile.reconcile(
                    catalog, store, now=now, apply=True, owner="reconcile", age_guard=timedelta(seconds=15)
                )


@dataclass(frozen=True, slots=True)
class End:
    """The final state: what readers get, and what became of each object's newest version."""

    grids: dict[str, str]
    states: dict[str, str]
    open: frozenset[str]  # partitions
    counters: dict[str, float]


def end_of(settings: Settings, model: Model) -> End:
    with closing(Catalog.open(settings.catalog_url)) as catalog:
        rows = catalog.partitions(model.source_name)
        named = [s for row in rows if (s := catalog.published(model.source_name, row.partition)) is not None]
        objects = [o for row in rows for o in catalog.objects(model.source_name, row.partition)]
        return End(
            grids={f"{s.partition}/{a['name']}": a["checksum"] for s in named for a in s.artifacts},
            states={o.key: o.state for o in objects if o.state != "superseded"},
            open=frozenset(row.partition for row in rows if row.state == "open"),
            counters={c.name: c.value for c in catalog.counts() if set(c.labels) == {"source"}},
        )


def wait_until_settled(settings: Settings, model: Model, objects: Sequence[str], seconds: float) -> bool:
    """Whether each object gets its last state, or goes with its partition; False if nothing moves so long."""
    wanted, states, moved = len(set(objects)), dict[str, int](), time.monotonic()
    while time.monotonic() < moved + seconds:
        with suppress(OperationalError), closing(Catalog.open(settings.catalog_url)) as catalog:
            before, states = states, dict(catalog.overview(model.source_name).objects)
            if not states.get("pending") and sum(states.values()) - states.get("superseded", 0) >= wanted:
                return True
            moved = time.monotonic() if states != before else moved
        time.sleep(1)
    return False
