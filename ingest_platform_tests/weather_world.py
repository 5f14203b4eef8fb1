"""A small weather world: a mirror of buckets whose files the test publishes, damages and replaces, a ledger
and a store under a clock that only the test moves. States are reached through the real functions.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import xarray as xr
from sqlalchemy import ColumnElement, literal

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import ObjectRow
from ingest_platform.catalog.tables import UtcTime
from ingest_platform.demo import synth, synth_abi
from ingest_platform.settings import Settings
from ingest_platform.storage.store import store_of
from ingest_platform.weather import feed
from ingest_platform.weather.config import load_models
from ingest_platform.weather.ingest import Rails, Report, ingest_partition
from ingest_platform.weather.keys import template
from ingest_platform.weather.model import Model, Window
from ingest_platform.weather.read import open_live

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
CYCLE = datetime(2026, 11, 20, 6, tzinfo=UTC)
SHAPE = (12, 24)
# The decoys of the generator come after every fifth parameter: keep them in the files.
TEMPERATURES = ("temperature", "temperature_2m", "pressure_msl")


@dataclass
class World:
    """Publish with `put_…`, look with `poll`, work with `ingest`, read with `open`."""

    root: Path
    environ: Mapping[str, str]
    at: datetime = NOON

    def __post_init__(self) -> None:
        settings = Settings.from_environment(self.environ)
        settings.home.mkdir(parents=True, exist_ok=True)
        self.catalog = Catalog.open(settings.catalog_url, now=self._database_clock)
        self.rails: Rails = feed.rails_over(self.catalog, store_of(settings), settings, clock=lambda: self.at)

    def _database_clock(self) -> ColumnElement[datetime]:
        return literal(self.at, UtcTime())

    def advance(self, **by: float) -> None:
        self.at += timedelta(**by)

    def put(self, bucket: str, key: str, content: bytes) -> Path:
        """The object appears now, whole."""
        path = self.root / "mirror" / bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        # Each upload a moment of its own, so that a second one has another ETag.
        self.at += timedelta(seconds=1)
        os.utime(path, (self.at.timestamp(), self.at.timestamp()))
        return path

    def put_lead(
        self, model: Model, lead: int, *, cycle: datetime = CYCLE, seed: int = 0, index: bool = True
    ) -> Path:
        """One forecast object and, unless told otherwise, its inventory."""
        file = forecast(model, cycle, lead, seed)
        path = self.put(model.sources[-1].bucket, key_of(model, cycle, lead), file.grib)
        if index:
            self.put_index(model, lead, file.index, cycle=cycle)
        return path

    def put_index(self, model: Model, lead: int, text: str, *, cycle: datetime = CYCLE) -> Path:
        return self.put(model.sources[-1].bucket, key_of(model, cycle, lead) + ".idx", text.encode())

    def put_radar(
        self, model: Model, valid: datetime, *, product: int = 0, content: bytes | None = None
    ) -> Path:
        parameter = model.parameters[product]
        source = next(model.sources_at(valid))
        key = template(source.key).render({"product": parameter.product or "", "valid": valid})
        body = synth.radar_file(parameter, valid, shape=(14, 28)) if content is None else content
        return self.put(source.bucket, key, body)

    def put_scan(
        self, model: Model, start: datetime, *, band: int = 13, created: datetime | None = None, seed: int = 0
    ) -> Path:
        source = next(model.sources_at(start))
        end = start + timedelta(seconds=157.3)
        stamps = {"start": start, "end": end, "created": created or end}
        values: dict[str, datetime | int | str] = {**stamps, "mode": 6, "band": band}
        key = template(source.key).render(values)
        name = key.rsplit("/", 1)[-1]
        platform = name.split("_")[2]
        body = synth_abi.satellite_file(
            name, band, start, end, satellite=platform, shape=(60, 100), seed=seed
        )
        return self.put(source.bucket, key, body)

    def poll(self, model: Model) -> None:
        feed.poll(self.rails, model)

    def ingest(self, model: Model) -> list[Report]:
        """One look at the source, then everything that is due, as one worker."""
        self.poll(model)
        return [
            ingest_partition(self.rails, model, key, owner="test")
            for key in self.catalog.due_partitions(model.source_name)
        ]

    def objects(self, model: Model, partition: str | None = None) -> tuple[ObjectRow, ...]:
        return self.catalog.objects(model.source_name, partition or model.partition_key(CYCLE))

    def states(self, model: Model, partition: str | None = None) -> list[str]:
        return [row.state for row in self.objects(model, partition)]

    def open(self, model: Model, partition: str | None = None) -> xr.Dataset:
        return open_live(self.catalog, self.rails.store, model, partition or model.partition_key(CYCLE))

    def grids(self, model: Model, partition: str | None = None) -> dict[str, str]:
        """Identity → checksum of every live grid."""
        live = self.catalog.published(model.source_name, partition or model.partition_key(CYCLE))
        return {} if live is None else {row["name"]: row["checksum"] for row in live.artifacts}


def world(root: Path, **environ: str) -> World:
    """SQLite and a folder unless `environ` says otherwise."""
    return World(
        root,
        {"INGEST_HOME": str(root / "home"), "INGEST_WEATHER_ENDPOINT": (root / "mirror").as_uri(), **environ},
    )


def shipped(name: str) -> Model:
    (model,) = load_models(only=[name])
    return model


def pocket(name: str, parameters: Sequence[str] = TEMPERATURES) -> Model:
    """A shipped model cut to a few parameters, under its newest template alone."""
    model = shipped(name)
    chosen = tuple(p for p in model.parameters if p.name in parameters)
    assert len(chosen) == len(parameters), f"{name} has no {set(parameters) - {p.name for p in chosen}}"
    return model.model_copy(update={"parameters": chosen, "sources": model.sources[-1:]})


def windowed(name: str = "gfs") -> Model:
    """The parameters of which a file holds two messages with the same variable and level."""
    model = shipped(name)
    twins = {
        (p.variable, p.level)
        for p in model.parameters
        if p.window is not Window.INSTANT
        and sum((q.variable, q.level) == (p.variable, p.level) for q in model.parameters) > 1
    }
    return pocket(name, [p.name for p in model.parameters if (p.variable, p.level) in twins])


def key_of(model: Model, cycle: datetime, lead: int) -> str:
    return template(model.sources[-1].key).render({"cycle": cycle, "lead": lead})


def forecast(model: Model, cycle: datetime, lead: int, seed: int = 0) -> synth.ForecastFile:
    with ThreadPoolExecutor(1) as threads:
        painted = synth.paint(model, synth.lattice_of(model, SHAPE), threads, seed=seed)
    return synth.forecast_file(model, painted, cycle, timedelta(hours=lead))


def messages(grib: bytes) -> Iterator[tuple[int, int]]:
    """(offset, length) of each GRIB2 message, by section 0."""
    offset = 0
    while offset < len(grib):
        length = int.from_bytes(grib[offset + 8 : offset + 16])
        yield offset, length
        offset += length
