"""A folder with small buckets as NOAA's in it, and the environment that points a whole platform into it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import yaml

import ingest_platform
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.demo.mirror import Extent, MirroredObject, make_mirror
from ingest_platform.settings import SETTINGS, Settings
from ingest_platform.weather.config import load_models
from ingest_platform.weather.model import Model

REPOSITORY = Path(ingest_platform.__file__).parents[1]
SHIPPED_MODELS = REPOSITORY / "ingest_platform" / "weather" / "models"
# Lead 0 has no accumulations, lead 1 has all: two leads meet every parameter.
LEADS = range(2)
# Grids of a thumbnail's size: a second of work in all, and still a map that one can look at.
SMALL = Extent(
    leads={"gfs": LEADS, "hrrr": LEADS},
    scans=1,
    observations=2,
    forecast_shape=(91, 180),
    satellite_shape=(60, 100),
    radar_shape=(70, 140),
)


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
        """The source publishes the newest files of these models, by default of all and as of now."""
        models = [model for name, model in self.models.items() if name in ids or not ids]
        return make_mirror(self.mirror, models, now=now or datetime.now(UTC), extent=extent)

    def catalog(self) -> Catalog:
        return Catalog.open(self.settings.catalog_url)


def new_place(home: Path) -> Place:
    """An empty place: models cut to a few leads, embedded defaults, Dagster's local instance file."""
    (home / "dagster").mkdir(parents=True)
    (home / "mirror").mkdir()
    (home / "dagster" / "dagster.yaml").write_bytes((REPOSITORY / "dagster.yaml").read_bytes())
    _write_models(home / "models")
    inherited = {k: v for k, v in os.environ.items() if k not in SETTINGS and not k.startswith("DAGSTER_")}
    own = {
        "INGEST_HOME": str(home),
        "INGEST_WEATHER_MODELS": str(home / "models"),
        "INGEST_WEATHER_ENDPOINT": (home / "mirror").as_uri(),
        "DAGSTER_HOME": str(home / "dagster"),
    }
    return Place(home, inherited | own)


def _write_models(folder: Path) -> None:
    folder.mkdir()
    for shipped in SHIPPED_MODELS.glob("*.yaml"):
        model = yaml.safe_load(shipped.read_text())
        for horizon in model.get("horizons", []):
            horizon["leads"] = [{"first": LEADS[0], "last": LEADS[-1]}]
        (folder / shipped.name).write_text(yaml.safe_dump(model, sort_keys=False))
