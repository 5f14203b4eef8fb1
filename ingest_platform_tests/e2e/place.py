"""A folder with small buckets as NOAA's in it, and the environment that points a whole platform into it."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

import ingest_platform
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.demo.mirror import Extent, MirroredObject, make_mirror
from ingest_platform.settings import SETTINGS, Settings
from ingest_platform.weather.config import load_models
from ingest_platform.weather.keys import parse
from ingest_platform.weather.model import Model
from ingest_platform_tests.services.s3 import S3Server, allow_anonymous_read

REPOSITORY = Path(ingest_platform.__file__).parents[1]
SHIPPED_MODELS = REPOSITORY / "ingest_platform" / "weather" / "models"
# Lead 0 has no accumulations, lead 1 has all: two leads meet every parameter.
LEADS = range(2)
# Grids of a thumbnail's size: a second of work in all, and still maps that one can look at. The satellite's
# must be larger: the corner where its scan begins lies off the earth.
SMALL = Extent(
    leads={"gfs": LEADS, "hrrr": LEADS},
    scans=1,
    observations=2,
    forecast_shape=(91, 180),
    satellite_shape=(600, 1000),
    radar_shape=(350, 700),
)
# Where Python may not write its byte code beside the sources, each of some thirty processes would compile
# Dagster and xarray again: 3 of its 5 CPU-seconds.
BYTECODE = Path(tempfile.gettempdir()) / "ingest-e2e-bytecode"


def recently() -> datetime:
    """The last quarter to the hour before this hour: all that is new then lies in one partition a model."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(minutes=15)


def long_ago(days: int = 20) -> datetime:
    """Before every model's retention: no sensor lists it, only who names the partition gets it."""
    return recently() - timedelta(days=days)


@dataclass(frozen=True, slots=True)
class Place:
    """All that one platform writes, below one folder, unless `environ` says otherwise."""

    home: Path
    environ: Mapping[str, str]  # complete: a process started with it sees no setting of ours

    @property
    def mirror(self) -> Path:
        return self.home / "mirror"

    @property
    def settings(self) -> Settings:
        return Settings.from_environment(self.environ)

    @property
    def models(self) -> Mapping[str, Model]:
        return {model.id: model for model in load_models(self.settings.weather_models)}

    def with_settings(self, **changes: str) -> "Place":
        return replace(self, environ={**self.environ, **changes})

    def publish(
        self, *ids: str, now: datetime | None = None, extent: Extent = SMALL
    ) -> tuple[MirroredObject, ...]:
        """The source publishes the newest files of these models, by default of all and as of recently()."""
        models = [model for name, model in self.models.items() if name in ids or not ids]
        return make_mirror(self.mirror, models, now=now or recently(), extent=extent)

    def partition(self, published: MirroredObject) -> str:
        """Key of the partition that the object belongs to."""
        model = self.models[published.model]
        file = parse(model, published.bucket, published.key)
        assert file is not None, f"{published.key} is no key of {model.id}"
        return model.partition_key(file.event_time)

    def catalog(self) -> Catalog:
        return Catalog.open(self.settings.catalog_url)


def new_place(home: Path) -> Place:
    """An empty place: models cut to a few leads, embedded defaults, Dagster's local instance file."""
    (home / "dagster").mkdir(parents=True)
    (home / "mirror").mkdir()
    (home / "dagster" / "dagster.yaml").write_bytes((REPOSITORY / "dagster.yaml").read_bytes())
    _write_models(home / "models")
    foreign = {*SETTINGS, "PYTHONDONTWRITEBYTECODE", "CI"}
    inherited = {k: v for k, v in os.environ.items() if k not in foreign and not k.startswith("DAGSTER_")}
    own = {
        "INGEST_HOME": str(home),
        "INGEST_WEATHER_MODELS": str(home / "models"),
        "INGEST_WEATHER_ENDPOINT": (home / "mirror").as_uri(),
        "DAGSTER_HOME": str(home / "dagster"),
        "PYTHONPYCACHEPREFIX": str(BYTECODE),
    }
    return Place(home, inherited | own)


@contextmanager
def buckets_on(server: S3Server, place: Place) -> Iterator[None]:
    """The place's buckets on a server, under their real names and open to everybody as NOAA's are."""
    client = server.client()
    buckets = {
        root.name: sorted(p for p in root.rglob("*") if p.is_file()) for root in place.mirror.iterdir()
    }
    for bucket, paths in buckets.items():
        client.create_bucket(Bucket=bucket)
        for path in paths:
            client.upload_file(str(path), bucket, path.relative_to(place.mirror / bucket).as_posix())
        allow_anonymous_read(client, bucket)
    try:
        yield
    finally:
        # The names are not ours alone: the next test that wants them finds none.
        for bucket, paths in buckets.items():
            for path in paths:
                client.delete_object(Bucket=bucket, Key=path.relative_to(place.mirror / bucket).as_posix())
            client.delete_bucket(Bucket=bucket)


def _write_models(folder: Path) -> None:
    folder.mkdir()
    for shipped in SHIPPED_MODELS.glob("*.yaml"):
        model = yaml.safe_load(shipped.read_text())
        for horizon in model.get("horizons", []):
            horizon["leads"] = [{"first": LEADS[0], "last": LEADS[-1]}]
        (folder / shipped.name).write_text(yaml.safe_dump(model, sort_keys=False))
