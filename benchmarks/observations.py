"""Claim (b), case 37: full-size radar mosaics and 0.5 km satellite scans, from a local server to the store.

- ours: `ingest_partition` of an hour that holds them, after its listing, on a fresh store and ledger;
- peer: one file after another by urllib, then gzip and cfgrib, or h5netcdf; xarray loads and writes Zarr with
  its defaults.

Seconds are of one file: the whole hour's, divided. The peer's scan is stored unpacked as xarray reads it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import click

from benchmarks import inputs
from benchmarks.measure import Claim, Measured, measure, tell
from benchmarks.range_server import serving
from ingest_platform.demo.mirror import Extent, make_mirror

REPETITIONS = 3
NOW = datetime(2026, 11, 20, 11, 59, tzinfo=UTC)
PARTITION = "2026-11-20T11"


@dataclass(frozen=True, slots=True)
class Feed:
    """One kind of file and how many of them an hour gets here."""

    model: str
    product: str
    extent: Extent
    files: int


RADAR = Feed("mrms", "reflectivity_composite", Extent(observations=24), 24)
SCANS = Feed("goes_east", "reflectance_c02", Extent(scans=6), 6)
FEEDS = {feed.model: feed for feed in (RADAR, SCANS)}


def main() -> None:
    """Make the files of both feeds, serve them, compare."""
    with inputs.scratch() as folder:
        buckets = folder / "buckets"
        for feed in FEEDS.values():
            model = inputs.one_product(feed.model, feed.product)
            made = make_mirror(buckets, [model], now=NOW, extent=feed.extent)
            click.echo(f"{len(made)} × {feed.product}, {sum(m.size_bytes for m in made) / 1e6:.0f} MB")
        with serving(buckets) as endpoint:
            _tell_radar(*_both(RADAR, endpoint, folder))
            _tell_scans(*_both(SCANS, endpoint, folder))


def _both(feed: Feed, endpoint: str, folder: Path) -> tuple[Measured, Measured]:
    given = {"name": feed.model, "endpoint": endpoint, "folder": str(folder)}
    ours = measure("benchmarks.observations:ours", given, repeat=REPETITIONS)
    return ours.per(feed.files), measure("benchmarks.observations:peer", given).per(PEER_FILES)


def _tell_radar(ours: Measured, peer: Measured) -> None:
    ratio = peer.cpu_seconds / ours.cpu_seconds
    tell(Claim("one MRMS file", ours, peer, ratio, "≤ 0.4 s", ours.wall_seconds <= 0.4))
    rate = 1 / ours.wall_seconds
    tell(
        Claim(
            "MRMS backfill, files/s (case 37)",
            {"files_per_second": round(rate, 1)},
            None,
            rate,
            "≥ 3",
            rate >= 3,
        )
    )


def _tell_scans(ours: Measured, peer: Measured) -> None:
    ratio = peer.cpu_seconds / ours.cpu_seconds
    tell(Claim("one GOES C02 scan", ours, peer, ratio, "≤ 1.0 CPU-s", ours.cpu_seconds <= 1.0))


def ours(name: str, endpoint: str, folder: str) -> Callable[[], dict[str, Any]]:
    """One hour as a backfill takes it; its listing and the imports come before."""
    import h5py
    import PIL.PngImagePlugin  # noqa: F401 - a worker has imported all of them once
    import pyproj  # noqa: F401

    from ingest_platform.settings import Settings
    from ingest_platform.weather.eccodes_library import load_eccodes
    from ingest_platform.weather.feed import open_rails, see_partition
    from ingest_platform.weather.ingest import ingest_partition

    load_eccodes()
    home = Path(folder) / f"home-{secrets.token_hex(4)}"
    home.mkdir()
    settings = Settings.from_environment({"INGEST_HOME": str(home), "INGEST_WEATHER_ENDPOINT": endpoint})
    feed = FEEDS[name]
    model = inputs.one_product(feed.model, feed.product)
    opened = open_rails(settings, clock=lambda: NOW)
    rails = opened.__enter__()
    see_partition(rails, model, PARTITION)

    def work() -> dict[str, Any]:
        report = ingest_partition(rails, model, PARTITION, owner="bench")
        if report.grids != feed.files or report.errors:
            raise RuntimeError(f"{report.grids} grids: {report.errors}")
        return {"grids": report.grids, "stored_bytes": report.bytes_stored, "hdf5": h5py.version.hdf5_version}

    return work


# It takes seconds a file; a few show its median.
PEER_FILES = 2


def peer(name: str, endpoint: str, folder: str) -> Callable[[], dict[str, Any]]:
    """xarray with cfgrib or h5netcdf, and its own to_zarr."""
    import gzip
    from urllib.request import urlopen

    from ingest_platform.weather.eccodes_library import load_eccodes

    load_eccodes()  # cfgrib's own import lets the process die at its end, beside pyproj
    import cfgrib  # noqa: F401 - opened by its name
    import h5netcdf  # noqa: F401
    import xarray as xr

    home = Path(folder) / f"peer-{secrets.token_hex(4)}"
    home.mkdir()
    urls = [f"{endpoint}/{path}" for path in _paths(Path(folder) / "buckets", FEEDS[name])]

    def work() -> dict[str, Any]:
        for number, url in enumerate(urls):
            with urlopen(url) as response:  # noqa: S310 - our own server
                body = response.read()
            file = home / f"{number}{'.grib2' if name == 'mrms' else '.nc'}"
            file.write_bytes(gzip.decompress(body) if name == "mrms" else body)
            engine = (
                {"engine": "cfgrib", "backend_kwargs": {"indexpath": ""}}
                if name == "mrms"
                else {"engine": "h5netcdf"}
            )
            with xr.open_dataset(file, **engine) as dataset:
                dataset.load().to_zarr(home / f"{number}.zarr", mode="w", consolidated=False)
        return {"files": len(urls)}

    return work


def _paths(buckets: Path, feed: Feed) -> Sequence[str]:
    """The first files of the feed, below `buckets`."""
    names = {source.bucket for source in inputs.model(feed.model).sources}
    found = (path for name in sorted(names) for path in sorted((buckets / name).rglob("*")) if path.is_file())
    return [str(path.relative_to(buckets)) for path in islice(found, PEER_FILES)]


if __name__ == "__main__":
    main()
