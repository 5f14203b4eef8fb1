"""Writes decoded grids into the Icechunk repository of one partition.

A draft is one attempt: its own branch from the snapshot that the ledger names, or a new repository
while the ledger names none. Sealing it gives a snapshot that nobody reads before the ledger's commit.
Nothing here touches the ledger, and nothing is ever deleted but regions of the draft itself.

Layout: one group; arrays `<parameter>` (axis, [isobaric], y, x) with one chunk row an axis index. The
axis (`lead`, `time`, or `time_<parameter>` for radar products, whose scans do not coincide) is written in
order of arrival; readers sort it. A grid whose geometry or packing differs from the array's goes to
a sibling array with a numbered suffix: nothing is resampled or packed again.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Protocol

import icechunk
import numpy as np
import zarr
from isal import isal_zlib

from ingest_platform.catalog.model import Claim
from ingest_platform.errors import StoreUnavailable
from ingest_platform.weather.chunks import CHUNK_CELLS, CODEC, Place, chunk_shape, put_grid
from ingest_platform.weather.model import Geometry, Grid, Kind, Model, SourceFile

# The default format keeps all refs and snapshots of a folder in one object and loses acknowledged
# commits when two writers meet (protocol.md, findings); format 1 kept 48 of 48 in every mode.
ICECHUNK_SPEC = 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Store(Protocol):
    """What publishing needs of the published store."""

    def icechunk_storage(self, uri: str) -> icechunk.Storage: ...


@dataclass(frozen=True, slots=True)
class Written:
    """Where a grid lies in the draft."""

    array: str
    index: int
    level_index: int | None
    size_bytes: int  # encoded
    checksum: str  # of the values as stored, little-endian


@dataclass(slots=True)
class Draft:
    """An open attempt. Threads may write different grids of it at the same time."""

    model: Model
    partition: str
    session: icechunk.Session
    root: zarr.Group
    lock: threading.Lock = field(default_factory=threading.Lock)
    axes: dict[str, dict[int, int]] = field(default_factory=dict)  # axis name → stored value → index
    inherited: dict[str, int] = field(default_factory=dict)  # axis name → length in the base snapshot
    arrays: dict[tuple[str, str], str] = field(default_factory=dict)  # parameter and layout → array
    geometries: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # identity → y, x, mapping


def open_draft(store: Store, model: Model, claim: Claim, at: Callable[[str], None]) -> Draft:
    """Branch from the claim's snapshot, or create its repository. StoreUnavailable if the store fails."""
    with _store_faults(f"{claim.uri}: no draft could be opened"):
        storage = store.icechunk_storage(claim.uri)
        if claim.snapshot is None:
            repository = icechunk.Repository.create(storage, spec_version=ICECHUNK_SPEC)
            base = repository.lookup_branch("main")
        else:
            repository = icechunk.Repository.open(storage)
            base = claim.snapshot
        at("after create")
        branch = f"t{claim.token}-{secrets.token_hex(4)}"
        repository.create_branch(branch, base)
        at("after create_branch")
        session = repository.writable_session(branch)
        if session.snapshot_id != base:
            raise StoreUnavailable(
                f"{claim.uri}: branch {branch} starts at {session.snapshot_id}, not at {base}"
            )
        root = zarr.open_group(session.store, mode="a", zarr_format=3)
        if claim.snapshot is None:
            root.attrs.update(_group_attributes(model, claim.partition))
    return Draft(model, claim.partition, session, root)


def reserve(draft: Draft, files: Iterable[SourceFile]) -> None:
    """Give every file its index on its axis, and lengthen the arrays once for all of them."""
    wanted: dict[str, list[int]] = {}
    for file in files:
        wanted.setdefault(_axis_name(draft.model, file), []).append(_axis_value(file))
    with _store_faults(f"{draft.model.id} {draft.partition}: the axes were not stored"):
        for axis, values in wanted.items():
            known = _load_axis(draft, axis)
            new = sorted(set(values) - known.keys())
            known.update({value: len(known) + n for n, value in enumerate(new)})
            if new:
                _store_axis(draft, axis, known)


def erase(draft: Draft, file: SourceFile) -> None:
    """Set everything that the file's slot held in the base snapshot to missing.

    Whatever the new version lacks is then missing, not the older version's.
    """
    axis = _axis_name(draft.model, file)
    index = draft.axes[axis][_axis_value(file)]
    if index >= draft.inherited[axis]:
        return
    with _store_faults(f"{file.key}: its older version was not erased"):
        for name, array in draft.root.arrays():
            if _dimensions(array)[:1] == (axis,) and array.ndim >= 3 and _in_slot(draft.model, name, file):
                array[index] = array.fill_value


def write(draft: Draft, file: SourceFile, grid: Grid) -> Written:
    """Store one grid, y × x, bit for bit. Returns its place, encoded size and checksum."""
    index = draft.axes[_axis_name(draft.model, file)][_axis_value(file)]
    hpa = grid.parameter.levels_hpa
    level_index = grid.parameter.levels().index(grid.level) if hpa else None
    place = (index,) if level_index is None else (index, level_index)
    values = np.ascontiguousarray(grid.values)
    with _store_faults(f"{file.key}: {grid.parameter.name} was not stored"):
        array = _array_for(draft, file, grid)
        size = put_grid(draft.session.store, Place(array, place), values, _fill(grid))
    return Written(array, index, level_index, size, f"crc32:{isal_zlib.crc32(values):08x}")


def seal(draft: Draft, message: str) -> str:
    """Commit the draft to its branch; the id of a snapshot that no reader sees yet."""
    with _store_faults(f"{draft.model.id} {draft.partition}: the draft was not stored"):
        return draft.session.commit(message, allow_empty=True)


@contextmanager
def _store_faults(what: str) -> Iterator[None]:
    """The store's failures are nobody's object's fault."""
    try:
        yield
    except icechunk.IcechunkError as error:
        raise StoreUnavailable(f"{what} ({error}). What is published stands.") from error


def _group_attributes(model: Model, partition: str) -> dict[str, Any]:
    return {
        "Conventions": "CF-1.11",
        "title": model.title,
        "model": model.id,
        "partition": partition,
        "source": ", ".join(sorted({source.bucket for source in model.sources})),
    }


def _axis_name(model: Model, file: SourceFile) -> str:
    if model.kind is Kind.FORECAST:
        return "lead"
    if model.kind is Kind.SATELLITE:
        return "time"
    return next(f"time__{p.name}" for p in model.parameters if p.product == file.product)


def _axis_value(file: SourceFile) -> int:
    """Lead in seconds, or time in milliseconds since the epoch (ABI stamps carry tenths)."""
    if file.lead is not None:
        return int(file.lead.total_seconds())
    return (file.event_time - EPOCH) // timedelta(milliseconds=1)


def _in_slot(model: Model, array: str, file: SourceFile) -> bool:
    """A forecast object holds every array of its lead, also those that the settings no longer name."""
    if model.kind is Kind.FORECAST:
        return True
    mine = (p.name for p in model.parameters if (p.band, p.product) == (file.band, file.product))
    return array.split("__")[0] in mine


def _load_axis(draft: Draft, axis: str) -> dict[int, int]:
    if axis not in draft.axes:
        stored = draft.root.get(axis)
        values = np.asarray(stored[:]).tolist() if isinstance(stored, zarr.Array) else []
        draft.axes[axis] = {value: index for index, value in enumerate(values)}
        draft.inherited[axis] = len(values)
    return draft.axes[axis]


def _store_axis(draft: Draft, axis: str, known: dict[int, int]) -> None:
    values = np.fromiter(known, dtype="<i8", count=len(known))
    _coordinate(draft, axis, values, (axis,), _axis_attributes(axis))
    if axis == "lead":
        cycle = (draft.model.partition_start(draft.partition) - EPOCH) // timedelta(seconds=1)
        since_epoch = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"}
        _coordinate(
            draft, "cycle", np.array(cycle), (), {"standard_name": "forecast_reference_time", **since_epoch}
        )
        _coordinate(draft, "valid_time", cycle + values, (axis,), {"standard_name": "time", **since_epoch})
    for _, array in draft.root.arrays():
        if array.ndim >= 3 and _dimensions(array)[0] == axis:
            array.resize((len(known), *array.shape[1:]))


def _axis_attributes(axis: str) -> dict[str, Any]:
    if axis == "lead":
        return {
            "standard_name": "forecast_period",
            "long_name": "lead time",
            "units": "seconds",
            "dtype": "timedelta64[s]",
        }
    return {
        "standard_name": "time",
        "long_name": "scan start or valid time",
        "units": "milliseconds since 1970-01-01",
        "calendar": "proleptic_gregorian",
        "axis": "T",
    }


def _coordinate(
    draft: Draft,
    name: str,
    values: np.ndarray[Any, Any],
    dimensions: Sequence[str],
    attributes: dict[str, Any],
) -> None:
    stored = draft.root.get(name)
    if isinstance(stored, zarr.Array):
        stored.resize(values.shape)
        stored[...] = values
        return
    array = draft.root.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape or (),
        dimension_names=list(dimensions),
        attributes=attributes,
    )
    array[...] = values


def _array_for(draft: Draft, file: SourceFile, grid: Grid) -> str:
    """The parameter's array; its sibling `<name>__2` … where geometry or packing differ."""
    layout = _layout_id(grid)
    name = grid.parameter.name
    # Without the lock: else who knows its array would wait for who is creating another.
    if (name, layout) in draft.arrays:
        return draft.arrays[name, layout]
    with draft.lock:
        if (name, layout) not in draft.arrays:
            draft.arrays[name, layout] = _found_or_created(draft, _axis_name(draft.model, file), layout, grid)
        return draft.arrays[name, layout]


def _found_or_created(draft: Draft, axis: str, layout: str, grid: Grid) -> str:
    for name in _sibling_names(grid.parameter.name):
        array = draft.root.get(name)
        if array is None:
            _create_array(draft, name, axis, layout, grid)
            return name
        if isinstance(array, zarr.Array) and array.attrs["layout"] == layout:
            return name
    raise AssertionError("unreachable: sibling names do not end")


def _sibling_names(name: str) -> Iterable[str]:
    yield name
    number = 2
    while True:
        yield f"{name}__{number}"
        number += 1


def _layout_id(grid: Grid) -> str:
    parts = (
        _geometry_id(grid.geometry),
        grid.packing,
        grid.values.dtype.str,
        grid.parameter.levels_hpa,
        CHUNK_CELLS,
        CODEC.to_dict(),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _geometry_id(geometry: Geometry) -> str:
    digest = hashlib.sha256(geometry.y.tobytes() + geometry.x.tobytes() + repr(geometry.crs).encode())
    return digest.hexdigest()[:12]


def _create_array(draft: Draft, name: str, axis: str, layout: str, grid: Grid) -> None:
    y_name, x_name, mapping = _place_geometry(draft, grid.geometry)
    hpa = grid.parameter.levels_hpa
    levels = _place_levels(draft, hpa) if hpa else ()
    ny, nx = grid.values.shape
    draft.root.create_array(
        name,
        shape=(len(draft.axes[axis]), *((len(hpa),) if hpa else ()), ny, nx),
        chunks=(1, *((1,) if hpa else ()), *chunk_shape(ny, nx)),
        dtype=grid.values.dtype,
        fill_value=_fill(grid),
        compressors=[CODEC],
        dimension_names=[axis, *levels, y_name, x_name],
        config={"write_empty_chunks": False},
        attributes=_array_attributes(grid, mapping, layout),
    )


def _fill(grid: Grid) -> float:
    return math.nan if grid.packing is None else grid.packing.fill


def _array_attributes(grid: Grid, mapping: str, layout: str) -> dict[str, Any]:
    parameter = grid.parameter
    attributes: dict[str, Any] = {
        "long_name": parameter.long_name,
        "units": parameter.units,
        "grid_mapping": mapping,
        "valid_range": list(parameter.valid_range) if grid.packing is None else None,
        "level": None if parameter.levels_hpa else grid.level,
        "standard_name": parameter.standard_name,
        "missing_at_source": list(parameter.missing) or None,
        "layout": layout,
    }
    if grid.packing is not None:
        attributes |= {
            "scale_factor": grid.packing.scale_factor,
            "add_offset": grid.packing.add_offset,
            "_FillValue": grid.packing.fill,
        }
    return {key: value for key, value in attributes.items() if value is not None}


def _place_levels(draft: Draft, hpa: tuple[int, ...]) -> tuple[str]:
    """Parameters on the same isobaric levels share an axis, named by their order in the settings."""
    sets = list(dict.fromkeys(p.levels_hpa for p in draft.model.parameters if p.levels_hpa))
    for name in islice(_sibling_names("isobaric"), sets.index(hpa), None):
        stored = draft.root.get(name)
        if stored is None:
            attributes = {"standard_name": "air_pressure", "units": "hPa", "positive": "down", "axis": "Z"}
            _coordinate(draft, name, np.array(hpa, dtype="<i4"), (name,), attributes)
            return (name,)
        if isinstance(stored, zarr.Array) and np.asarray(stored[:]).tolist() == list(hpa):
            return (name,)
    raise AssertionError("unreachable: sibling names do not end")


def _place_geometry(draft: Draft, geometry: Geometry) -> tuple[str, str, str]:
    """Names of the y and x coordinates and of the grid mapping, stored if they were not."""
    identity = _geometry_id(geometry)
    if identity not in draft.geometries:
        draft.geometries[identity] = _found_or_stored(draft, geometry, identity)
    return draft.geometries[identity]


def _found_or_stored(draft: Draft, geometry: Geometry, identity: str) -> tuple[str, str, str]:
    for names in zip(
        *(_sibling_names(n) for n in (geometry.y_name, geometry.x_name, geometry.grid_mapping)), strict=False
    ):
        y_name, x_name, mapping = names
        stored = draft.root.get(y_name)
        if stored is None:
            _coordinate(
                draft, y_name, geometry.y, (y_name,), {**dict(geometry.y_attributes), "geometry": identity}
            )
            _coordinate(draft, x_name, geometry.x, (x_name,), dict(geometry.x_attributes))
            _coordinate(draft, mapping, np.array(0, dtype="<i4"), (), dict(geometry.crs))
            return names
        if stored.attrs["geometry"] == identity:
            return names
    raise AssertionError("unreachable: sibling names do not end")


def _dimensions(array: zarr.Array[Any]) -> tuple[str, ...]:
    names: Any = array.metadata.to_dict().get("dimension_names") or ()
    return tuple(names)
