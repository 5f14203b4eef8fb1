"""Claim (e): from a radar file's upload until readers see it, through `ingest run` and through the sensor.

A source publishes full-size reflectivity mosaics, some seconds apart, in a folder of buckets; the platform
runs on its embedded defaults. A file is visible when the ledger names it, which is looked up ten times
a second.

- `ingest run`: 24 files, 5 to 9 s apart (real: one a product every 120 s), listed every 6 s by default;
- sensor: Dagster's daemon and 20 files 8 to 12 s apart, with POLL_INTERVAL=30: by default it lists as often
  as radar appears, every 120 s, and a file waits 60 s at the median before anybody looks.

The stream is denser than the real one; the waits do not come from its load, but from listings and starts.
"""

from __future__ import annotations

import gzip
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles

import yaml
from isal import igzip

import ingest_platform
from benchmarks import inputs
from benchmarks.measure import ROOT, Claim, tell
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.demo import synth
from ingest_platform.settings import Settings
from ingest_platform.weather.keys import template
from ingest_platform.weather.model import Model

BIN = Path(sys.executable).parent
STARTED_WITHIN_SECONDS, VISIBLE_WITHIN_SECONDS = 120.0, 180.0
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run the platform, and the stream that it gets."""

    name: str
    command: tuple[str, ...]
    files: int
    gap_seconds: tuple[float, float]
    settings: Mapping[str, str]
    goal_p50_seconds: float


WAYS = (
    Way("`ingest run`", (str(BIN / "ingest"), "run", "--models", "mrms"), 24, (5, 9), {}, 10),
    Way(
        "the sensor",
        (str(BIN / "dagster-daemon"), "run", "-w", "workspace.yaml"),
        20,
        (8, 12),
        {"POLL_INTERVAL": "30"},
        60,
    ),
)


def main() -> None:
    """Both ways, each in a place of its own."""
    for way in WAYS:
        with inputs.scratch() as home:
            waits = _waits(way, home)
        figures = {
            "p50_seconds": round(median(waits), 1),
            "p95_seconds": round(quantiles(waits, n=20)[-1], 1),
            "files": len(waits),
        }
        goal = f"p50 ≤ {way.goal_p50_seconds:g} s"
        holds = median(waits) <= way.goal_p50_seconds
        tell(Claim(f"MRMS, upload → visible through {way.name}", figures, None, None, goal, holds))


def _waits(way: Way, home: Path) -> list[float]:
    """Seconds from upload to visible, of every file of the stream."""
    environ = _place(home, way.settings)
    model = inputs.one_product("mrms", "reflectivity_composite")
    (first, body), *stream = _contents(model, way.files + 1)
    gaps = random.Random(0)  # noqa: S311 - not a secret
    with (
        Catalog.open(Settings.from_environment(environ).catalog_url) as catalog,
        _running(way, home, environ),
    ):
        # The first file shows that the platform is up; it does not count.
        _publish(home, model, first, body)
        Watch(catalog, model, {first: time.monotonic()}).until_all(STARTED_WITHIN_SECONDS)
        watch = Watch(catalog, model)
        for valid, body in stream:
            _publish(home, model, valid, body)
            watch.published[valid] = time.monotonic()
            watch.for_seconds(gaps.uniform(*way.gap_seconds))
        watch.until_all(VISIBLE_WITHIN_SECONDS)
    return [watch.seen[valid] - moment for valid, moment in watch.published.items()]


def _place(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a platform that keeps everything below `home` and knows radar of one product."""
    (home / "dagster").mkdir()
    (home / "models").mkdir()
    shutil.copy(ROOT / "dagster.yaml", home / "dagster")
    shipped = Path(ingest_platform.__file__).parent / "weather" / "models" / "mrms.yaml"
    text = yaml.safe_load(shipped.read_text())
    text["parameters"] = text["parameters"][:1]
    (home / "models" / "mrms.yaml").write_text(yaml.safe_dump(text, sort_keys=False))
    (home / "mirror" / text["sources"][0]["bucket"]).mkdir(parents=True)
    return {
        **os.environ,
        "INGEST_HOME": str(home),
        "INGEST_WEATHER_MODELS": str(home / "models"),
        "INGEST_WEATHER_ENDPOINT": (home / "mirror").as_uri(),
        "DAGSTER_HOME": str(home / "dagster"),
        "ENABLED_MODELS": "mrms",
        **settings,
    }


def _contents(model: Model, number: int) -> list[tuple[datetime, bytes]]:
    """Mosaics of the last `number` seconds: one day and, nearly always, one hour."""
    first = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=number)
    message = gzip.decompress(synth.radar_file(model.parameters[0], first))
    times = [first + timedelta(seconds=n) for n in range(number)]
    return [(moment, igzip.compress(_stamped(message, moment), 1)) for moment in times]


# Octets of the reference time in section 1, behind the 16 of section 0.
_TIME = slice(28, 35)


def _stamped(message: bytes, moment: datetime) -> bytes:
    """The same mosaic of another time."""
    time = struct.pack(
        ">H5B", moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second
    )
    return message[: _TIME.start] + time + message[_TIME.stop :]


def _publish(home: Path, model: Model, valid: datetime, body: bytes) -> None:
    """Put the file under its real key, whole at once."""
    source = model.sources[0]
    key = template(source.key).render({"product": model.parameters[0].product or "", "valid": valid})
    path = home / "mirror" / source.bucket / key
    path.parent.mkdir(parents=True, exist_ok=True)
    (home / "unfinished").write_bytes(body)
    (home / "unfinished").replace(path)


@contextmanager
def _running(way: Way, home: Path, environ: Mapping[str, str]) -> Iterator[None]:
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            way.command, cwd=ROOT, env=dict(environ), stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


@dataclass(slots=True)
class Watch:
    """What was published when, and when readers saw it first."""

    catalog: Catalog
    model: Model
    published: dict[datetime, float] = field(default_factory=dict)  # by valid time
    seen: dict[datetime, float] = field(default_factory=dict)

    def for_seconds(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._look()

    def until_all(self, within_seconds: float) -> None:
        """RuntimeError if readers do not see all that was published."""
        until = time.monotonic() + within_seconds
        while missing := self.published.keys() - self.seen.keys():
            if time.monotonic() > until:
                raise RuntimeError(f"not visible within {within_seconds:g} s: {sorted(map(str, missing))}")
            self._look()

    def _look(self) -> None:
        for partition in {self.model.partition_key(moment) for moment in self.published}:
            live = self.catalog.published(self.model.source_name, partition)
            for artifact in live.artifacts if live is not None else ():
                self.seen.setdefault(artifact["valid_time"], time.monotonic())
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
