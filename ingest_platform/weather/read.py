"""Opens what the ledger calls live, and nothing else, as a lazy xarray Dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import icechunk
import numpy as np
import xarray as xr

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Snapshot
from ingest_platform.errors import IngestError
from ingest_platform.settings import Settings
from ingest_platform.storage.store import Store, store_of
from ingest_platform.weather.config import load_models
from ingest_platform.weather.model import Model


class NotPublished(IngestError, LookupError):
    """Nothing of this partition can be read: not ingested yet, purged, or its bytes are lost."""


class Ledger(Protocol):
    """What reading needs of the catalog."""

    def published(self, source: str, partition: str) -> Snapshot | None: ...

    def partition_state(
        self, source: str, partition: str, *, event_end: datetime | None = None
    ) -> str | None: ...


def open_weather(model: str, partition: str, *, environ: Mapping[str, str] | None = None) -> xr.Dataset:
    """The live grids of one cycle or hour, e.g. `open_weather("gfs", "2025-08-01T00")`.

    Lazy: values are read when asked for, from the snapshot that the ledger named at this moment, so a
    later version or purge never mixes in. Dimensions are `lead` (timedelta) or `time`, `isobaric`,
    and the grid's own; forecasts carry `cycle` and `valid_time`. Raises NotPublished.
    """
    settings = Settings.from_environment(os.environ if environ is None else environ)
    (described, *others) = load_models(settings.weather_models, only=[model])
    if others:
        ids = ", ".join(m.id for m in (described, *others))
        raise NotPublished(f"{model} is a family of several models: open one of {ids}")
    catalog = Catalog.open(settings.catalog_url)
    try:
        return open_live(catalog, store_of(settings), described, partition)
    finally:
        catalog.close()


def open_live(ledger: Ledger, store: Store, model: Model, partition: str) -> xr.Dataset:
    """`open_weather` over given parts."""
    named = _named(ledger, model, partition)
    try:
        return _select(_open_snapshot(store, named), named.artifacts)
    except (icechunk.IcechunkError, FileNotFoundError) as error:
        again = _named(ledger, model, partition)
        if (again.uri, again.snapshot) != (named.uri, named.snapshot):
            return _select(_open_snapshot(store, again), again.artifacts)
        raise NotPublished(
            f"{model.id} {partition}: the ledger names {named.snapshot} in {named.uri}, but the store "
            f"does not give it ({error}). If the store is reachable, the bytes are lost: run reconcile."
        ) from error


def _named(ledger: Ledger, model: Model, partition: str) -> Snapshot:
    snapshot = ledger.published(model.source_name, partition)
    if snapshot is None:
        raise NotPublished(
            f"{model.id} {partition}: {_absence(ledger, model, partition)}. Keys look like"
            f" {model.partition_key(model.sources[0].since)}; `ingest status` lists what is there."
        )
    return snapshot


def _absence(ledger: Ledger, model: Model, partition: str) -> str:
    try:
        event_end = model.partition_end(partition)
    except ValueError:
        return "no such partition"
    match ledger.partition_state(model.source_name, partition, event_end=event_end):
        case "purged" | "forgotten":
            return "purged by retention"
        case "purging":
            return "being purged"
    return "not ingested yet"


def _open_snapshot(store: Store, named: Snapshot) -> xr.Dataset:
    repository = icechunk.Repository.open(store.icechunk_storage(named.uri))
    session = repository.readonly_session(snapshot_id=named.snapshot)
    # chunks=None: lazy without Dask, which a user who wants it adds by .chunk().
    opened: xr.Dataset = xr.open_zarr(
        session.store, consolidated=False, chunks=None, decode_timedelta=True, mask_and_scale=True
    )
    return opened


def _select(everything: xr.Dataset, rows: Sequence[Mapping[str, Any]]) -> xr.Dataset:
    """Keep the arrays and axis positions that a live grid names; sort each axis by its coordinate."""
    grids = sorted({str(row["array"]) for row in rows})
    # Times and grid mappings travel with the grids that they describe.
    described = everything.set_coords(
        [name for name, array in everything.data_vars.items() if array.ndim < 2]
    )
    live = described[grids]
    for axis in [name for name in map(str, live.dims) if name == "lead" or name.split("__")[0] == "time"]:
        arrays = {name for name, array in live.data_vars.items() if axis in array.dims}
        used = sorted({int(row["time_index"]) for row in rows if row["array"] in arrays})
        order = np.argsort(everything[axis].values[used], kind="stable")
        live = live.isel({axis: np.asarray(used, dtype=np.intp)[order]})
    return _name_axes(live)


def _name_axes(live: xr.Dataset) -> xr.Dataset:
    """Radar products observe at times of their own: one product's axis is `time`, several have names."""
    axes = [str(name) for name in live.dims if str(name).startswith("time__")]
    return (
        live.rename({axes[0]: "time"})
        if len(axes) == 1
        else live.rename({a: a.replace("__", "_") for a in axes})
    )
