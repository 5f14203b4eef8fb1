"""Fills a folder with buckets as NOAA's: recent files of every model under their real keys.

For trying the platform offline and for tests. A file appears whole or not at all, a GRIB file before its
inventory, as at the source; what this folder held before stays.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from ingest_platform.demo import synth, synth_abi
from ingest_platform.errors import PermanentError
from ingest_platform.weather.keys import Value, template
from ingest_platform.weather.model import Kind, Model, Parameter, Source

type Shape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class MirroredObject:
    """One data object that now lies in the mirror; an inventory lies beside it and is not one."""

    model: str
    bucket: str
    key: str
    size_bytes: int
    path: Path


@dataclass(frozen=True, slots=True)
class Extent:
    """How much the mirror holds. Shapes are full size unless given."""

    leads: Mapping[str, Sequence[int]] = field(default_factory=lambda: {"gfs": range(4), "hrrr": range(3)})
    scans: int = 2
    observations: int = 5
    forecast_shape: Shape | None = None
    satellite_shape: Shape | None = None
    radar_shape: Shape | None = None


# One kind of work keeps both cores of a small machine busy; each thread holds up to 300 MB at full size.
_THREADS = 2


def make_mirror(
    root: Path,
    models: Sequence[Model],
    *,
    now: datetime,
    extent: Extent | None = None,
    seed: int = 0,
    threads: int = _THREADS,
) -> tuple[MirroredObject, ...]:
    """Write the newest cycle, scans and observations that NOAA would have published by `now` (UTC).

    Objects lie at `root/<bucket>/<key>`. The same arguments give the same bytes. PermanentError for a
    model that no source of its settings holds at that time.
    """
    extent = extent or Extent()
    staging = root / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(threads) as pool:
        jobs = [job for model in models for job in _jobs(model, now, extent, seed, pool)]
        put = partial(_put, root, itertools.count())
        written = list(pool.map(lambda job: [put(made) for made in job()], jobs))
    staging.rmdir()
    return tuple(itertools.chain.from_iterable(written))


# Beside the buckets, not in them: no listing of a bucket shows an unfinished file.
STAGING = ".partial"


@dataclass(frozen=True, slots=True)
class _Made:
    """One file's bytes and where they belong."""

    model: str
    bucket: str
    key: str
    content: bytes
    inventory: tuple[str, bytes] | None = None  # suffix and content


type _Job = Callable[[], Iterator[_Made]]


def _jobs(model: Model, now: datetime, extent: Extent, seed: int, pool: ThreadPoolExecutor) -> Iterator[_Job]:
    match model.kind:
        case Kind.FORECAST:
            yield from _forecast(model, now, extent, seed, pool)
        case Kind.SATELLITE:
            yield from _satellite(model, now, extent, seed)
        case Kind.RADAR:
            yield from _radar(model, now, extent, seed)


def _forecast(
    model: Model, now: datetime, extent: Extent, seed: int, pool: ThreadPoolExecutor
) -> Iterator[_Job]:
    cycle = _newest(model, now)
    source = _source(model, cycle)
    painted = synth.paint(model, synth.lattice_of(model, extent.forecast_shape), pool, seed=seed)

    def make(lead: int) -> Iterator[_Made]:
        key = template(source.key).render({"cycle": cycle, "lead": lead})
        file = synth.forecast_file(model, painted, cycle, timedelta(hours=lead))
        inventory = None if source.index is None else (source.index, file.index.encode())
        yield _Made(model.id, source.bucket, key, file.grib, inventory)

    wanted = extent.leads.get(model.family, range(2))
    for lead in (lead for lead in model.expected_leads(cycle) if lead in wanted):
        yield partial(make, lead)


# A CONUS scan starts 77.3 s after the slot, takes 157.3 s, and its file follows within a minute.
_SCAN_START = timedelta(seconds=77.3)
_SCAN_LENGTH = timedelta(seconds=157.3)
_SCAN_FILING = timedelta(seconds=48.5)


def _satellite(model: Model, now: datetime, extent: Extent, seed: int) -> Iterator[_Job]:
    newest = _newest(model, now - _SCAN_START) + _SCAN_START

    def make(start: datetime, band: int) -> Iterator[_Made]:
        source = _source(model, start)
        # Bands of one scan end and are filed some tenths of a second apart.
        end = start + _SCAN_LENGTH + timedelta(milliseconds=100 * band)
        times: dict[str, Value] = {"start": start, "end": end, "created": end + _SCAN_FILING}
        key = template(source.key).render({**times, "mode": 6, "band": band})
        name = key.rsplit("/", 1)[-1]
        platform = "G18" if "_G18_" in name else "G19"
        content = synth_abi.satellite_file(
            name, band, start, end, satellite=platform, shape=extent.satellite_shape, seed=seed
        )
        yield _Made(model.id, source.bucket, key, content)

    for count in range(extent.scans):
        for parameter in model.parameters:
            if parameter.band is not None and parameter.band in synth_abi.BANDS:
                start = newest - count * timedelta(minutes=model.cadence_minutes)
                yield partial(make, start, parameter.band)


def _radar(model: Model, now: datetime, extent: Extent, seed: int) -> Iterator[_Job]:
    newest = _newest(model, now - _SWEEP_SECONDS)
    shape = extent.radar_shape or synth.MRMS_SHAPE

    def make(parameter: Parameter, valid: datetime) -> Iterator[_Made]:
        source = _source(model, valid)
        key = template(source.key).render({"product": parameter.product or "", "valid": valid})
        yield _Made(model.id, source.bucket, key, synth.radar_file(parameter, valid, shape=shape, seed=seed))

    for count in range(extent.observations):
        for parameter in model.parameters:
            # Reflectivity is stamped when its sweep ended, rates on the full minute.
            sweep = timedelta(0) if "PrecipRate" in (parameter.product or "") else _SWEEP_SECONDS
            yield partial(make, parameter, newest + sweep - count * timedelta(minutes=model.cadence_minutes))


_SWEEP_SECONDS = timedelta(seconds=37)


def _newest(model: Model, now: datetime) -> datetime:
    """The newest time of the model's cadence whose objects have appeared."""
    cadence = timedelta(minutes=model.cadence_minutes)
    published = now.astimezone(UTC) - timedelta(minutes=model.delay_minutes)
    midnight = published.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (published - midnight) // cadence * cadence


def _source(model: Model, moment: datetime) -> Source:
    """Where objects of this time lie; the older entry where two overlap, for the newer is to come."""
    found = list(model.sources_at(moment))
    if not found:
        raise PermanentError(f"{model.id}: no source of its settings holds {moment:%Y-%m-%d %H:%M}Z")
    return min(found, key=lambda source: source.since)


def _put(root: Path, numbers: Iterator[int], made: _Made) -> MirroredObject:
    path = root / made.bucket / made.key
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(path, made.content, root / STAGING / str(next(numbers)))
    if made.inventory is not None:
        suffix, content = made.inventory
        _write_whole(path.with_name(path.name + suffix), content, root / STAGING / str(next(numbers)))
    return MirroredObject(made.model, made.bucket, made.key, len(made.content), path)


def _write_whole(path: Path, content: bytes, unfinished: Path) -> None:
    """A reader sees the whole file or none."""
    unfinished.write_bytes(content)
    unfinished.replace(path)
