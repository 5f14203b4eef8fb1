"""A platform of its own with small sources before it: what they publish, `ingest run` over it, and what
readers then get. The files are of the hours before the real present, because real processes have its clock.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy.exc import OperationalError

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.demo import synth
from ingest_platform.settings import SETTINGS, Settings
from ingest_platform.weather import feed
from ingest_platform.weather.config import load_models
from ingest_platform.weather.keys import template
from ingest_platform.weather.model import Model

INGEST = Path(sys.executable).with_name("ingest")
RADAR_SHAPE = (14, 28)
# Beyond any lease and any wait that an outage of a minute leaves, on a machine with two busy cores.
PATIENCE_SECONDS = 170.0


def clean_environment(**own: str) -> dict[str, str]:
    """This process's environment without any setting of the platform, and `own`."""
    foreign = {name for name in os.environ if name in SETTINGS or name.startswith("DAGSTER_")}
    return {name: value for name, value in os.environ.items() if name not in foreign} | own


def radar_files(model: Model, first: datetime, number: int) -> Iterator[tuple[str, str, bytes]]:
    """(bucket, key, content) of so many files, the products of one observation after another."""
    for n in range(number):
        observation, product = divmod(n, len(model.parameters))
        valid = first + timedelta(minutes=model.cadence_minutes) * observation
        parameter = model.parameters[product]
        source = next(model.sources_at(valid))
        key = template(source.key).render({"product": parameter.product or "", "valid": valid})
        yield source.bucket, key, synth.radar_file(parameter, valid, shape=RADAR_SHAPE)


@dataclass(frozen=True, slots=True)
class View:
    """What a platform holds in the end."""

    grids: Mapping[str, str]  # partition and identity → checksum
    states: Mapping[tuple[str, str], str]  # key and ETag → state
    attempts: Mapping[str, int]  # key → the most that one of its versions used
    errors: tuple[str, ...]
    ingested_total: float  # counted, so that what was done twice shows

    @property
    def outcome(self) -> tuple[Mapping[str, str], Mapping[tuple[str, str], str]]:
        """What must not depend on the path that led here."""
        return self.grids, self.states


@dataclass
class Station:
    """One model's platform. `endpoint` is its source; all else lies in `home`, or where `environ` says."""

    home: Path
    model: Model
    endpoint: str
    environ: Mapping[str, str] = field(default_factory=dict)
    interval_seconds: float = 1.0

    @property
    def environment(self) -> dict[str, str]:
        own = {"INGEST_HOME": str(self.home), "INGEST_WEATHER_ENDPOINT": self.endpoint, **self.environ}
        return clean_environment(**own)

    @property
    def settings(self) -> Settings:
        return Settings.from_environment(self.environment)

    @property
    def log(self) -> Path:
        return self.home / "run.log"

    @contextmanager
    def following(self) -> Iterator["subprocess.Popen[bytes]"]:
        """`ingest run` while the block runs; then asked to end by SIGTERM, killed if the block failed."""
        self.home.mkdir(parents=True, exist_ok=True)
        options = ["--models", self.model.id, "--poll-interval", str(self.interval_seconds)]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [INGEST, "run", *options], env=self.environment, stdout=log, stderr=log
            )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_SECONDS)
        finally:
            process.kill()
            process.wait()

    def wait_until_settled(self, objects: int) -> float:
        """Seconds until so many objects are known and none of them waits."""
        began = time.monotonic()
        while not self._is_settled(objects):
            told = self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""
            assert time.monotonic() < began + PATIENCE_SECONDS, f"{self.home.name} did not recover:\n{told}"
            time.sleep(0.5)
        return time.monotonic() - began

    def wait_for_a_batch(self) -> None:
        """Returns in the middle of one."""
        with closing(Catalog.open(self.settings.catalog_url)) as catalog:
            began = time.monotonic()
            while not any(row.lease_owner for row in catalog.partitions(self.model.source_name)):
                assert time.monotonic() < began + PATIENCE_SECONDS, "no batch began"
                time.sleep(0.005)

    def _is_settled(self, objects: int) -> bool:
        with suppress(OperationalError), closing(Catalog.open(self.settings.catalog_url)) as catalog:
            states = catalog.overview(self.model.source_name).objects
            return not states.get("pending") and sum(states.values()) - states.get("superseded", 0) == objects
        return False

    def ingest_once(self) -> "View":
        """A calm run in this process, to compare with."""
        self.home.mkdir(parents=True, exist_ok=True)
        with feed.open_rails(self.settings) as rails:
            for report in feed.once(rails, [self.model], owner="calm"):
                assert not report.errors, report.errors
        return self.view()

    def view(self) -> "View":
        with closing(Catalog.open(self.settings.catalog_url)) as catalog:
            source = self.model.source_name
            partitions = [row.partition for row in catalog.partitions(source)]
            rows = [row for partition in partitions for row in catalog.objects(source, partition)]
            named = [live for p in partitions if (live := catalog.published(source, p)) is not None]
            attempts: dict[str, int] = {}
            for row in rows:
                attempts[row.key] = max(row.attempts, attempts.get(row.key, 0))
            return View(
                grids={f"{s.partition}/{a['name']}": a["checksum"] for s in named for a in s.artifacts},
                states={(row.key, row.etag): row.state for row in rows},
                attempts=attempts,
                errors=tuple(f"{row.key}: {row.error}" for row in rows if row.error),
                ingested_total=sum(c.value for c in catalog.counts() if c.name == "files_ingested_total"),
            )


def radar() -> Model:
    (model,) = load_models(only=["mrms"])
    return model


def some_hours_ago(hours: int = 3) -> datetime:
    """So that what is published for an hour or two lies in the past, and retention keeps it."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours)


def publish(mirror: Path, bucket: str, key: str, content: bytes) -> None:
    """The object appears in the mirror, whole."""
    path, draft = mirror / bucket / key, mirror / ".draft"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft.write_bytes(content)
    draft.rename(path)
