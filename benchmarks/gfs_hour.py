"""Claim (a), case 37: one GFS forecast hour, from a listing of its bucket to a committed snapshot.

A file of 743 messages lies behind a local range server; 86 of them are configured.

- ours: discover, inventory, ranges, decode, publish, ledger commit, on a fresh store and a fresh ledger that
  is open already;
- peer: Herbie downloads the same 86 messages by the same inventory, cfgrib opens them, xarray writes Zarr,
  all with their defaults. Herbie's GFS template is kept; only the host of its source is the local server's;
- floor: the 86 messages lie in memory; eccodes decodes them in threads, then the same codec packs the same
  arrays in threads. No bytes are fetched, checked or written.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks import inputs
from benchmarks.measure import Claim, Measured, in_turn, tell
from benchmarks.range_server import serving

REPETITIONS = 5
PEER_FACTOR, FLOOR_FACTOR, PEAK_MIB, WALL_SECONDS = 5.0, 1.25, 700.0, 3.0
PARTITION = "2025-08-01T00"
MESSAGES = 86
NOW = datetime(2025, 8, 1, 6, tzinfo=UTC)


def main() -> None:
    """Build the file, serve it, run all three in turn, and say what holds."""
    with inputs.scratch() as folder:
        click.echo(inputs.make_gfs_hour(folder / "buckets"))
        with serving(folder / "buckets") as endpoint:
            os.sync()  # else our own sync would wait for the file that was just laid
            given = {"endpoint": endpoint, "folder": str(folder)}
            targets = [f"benchmarks.gfs_hour:{name}" for name in ("ours", "floor", "peer")]
            ours, floor, peer = in_turn(targets, given, repeat=REPETITIONS)
    click.echo(f"grids: ours {ours.result['grids']}, peer {peer.result['grids']}")
    _tell_ratios(ours, floor, peer)


def _tell_ratios(ours: Measured, floor: Measured, peer: Measured) -> None:
    faster = peer.wall_seconds / ours.wall_seconds
    over = ours.wall_seconds / floor.wall_seconds
    cheaper, dearer = peer.cpu_seconds / ours.cpu_seconds, ours.cpu_seconds / floor.cpu_seconds
    click.echo(f"CPU: the peer takes {cheaper:.2f} × ours, ours {dearer:.2f} × the floor")
    name = "one GFS hour (86 of 743 messages)"
    tell(
        Claim(
            f"{name}, against Herbie + cfgrib + to_zarr", ours, peer, faster, "≥ 5 ×", faster >= PEER_FACTOR
        )
    )
    tell(Claim(f"{name}, against its floor", ours, floor, over, "≤ 1.25 ×", over <= FLOOR_FACTOR))
    peak, wall = ours.peak_mib, ours.wall_seconds
    tell(Claim(f"{name}, peak memory", ours, None, None, "≤ 700 MiB", peak <= PEAK_MIB))
    tell(Claim(f"{name}, case 37", ours, None, None, "≤ 3 s", wall <= WALL_SECONDS))


def ours(endpoint: str, folder: str) -> Callable[[], dict[str, Any]]:
    """The platform's own path, as `ingest once` and a Dagster run take it."""
    from ingest_platform.settings import Settings
    from ingest_platform.weather.eccodes_library import load_eccodes
    from ingest_platform.weather.feed import open_rails, poll
    from ingest_platform.weather.ingest import ingest_partition

    load_eccodes()
    home = Path(folder) / f"home-{secrets.token_hex(4)}"
    home.mkdir()
    settings = Settings.from_environment({"INGEST_HOME": str(home), "INGEST_WEATHER_ENDPOINT": endpoint})
    gfs = inputs.model("gfs")

    opened = open_rails(settings, clock=lambda: NOW)
    rails = opened.__enter__()  # the process ends with the measurement

    def work() -> dict[str, Any]:
        poll(rails, gfs)
        report = ingest_partition(rails, gfs, PARTITION, owner="bench")
        if report.grids != MESSAGES or report.errors:
            raise RuntimeError(f"{report.grids} grids: {report.errors}")
        return {"grids": report.grids, "stored_bytes": report.bytes_stored}

    return work


def floor(endpoint: str, folder: str) -> Callable[[], dict[str, float]]:
    """Decode alone, then encode alone, by as many threads as there are cores; `endpoint` is not asked."""
    del endpoint
    import numpy as np
    from numcodecs import Blosc

    from ingest_platform.weather.eccodes_library import load_eccodes
    from ingest_platform.weather.idx import select

    eccodes = load_eccodes()
    path = Path(folder) / "buckets" / inputs.GFS_BUCKET / inputs.GFS_KEY
    wanted = select(inputs.entries_of(path), inputs.model("gfs").parameters)
    with path.open("rb") as file:
        messages = [os.pread(file.fileno(), want.entry.length, want.entry.offset) for want in wanted]

    def decode(message: bytes) -> Any:
        handle = eccodes.codes_new_from_message(message)
        try:
            return eccodes.codes_get_values(handle).astype(np.float32)
        finally:
            eccodes.codes_release(handle)

    codec = Blosc(cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE)

    def work() -> dict[str, float]:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            started = time.monotonic()
            arrays = list(threads.map(decode, messages))
            decoded = time.monotonic()
            size = sum(len(packed) for packed in threads.map(codec.encode, arrays))
            encoded = time.monotonic()
        return {"decode": decoded - started, "encode": encoded - decoded, "stored_bytes": size}

    return work


def peer(endpoint: str, folder: str) -> Callable[[], dict[str, Any]]:
    """Herbie, cfgrib and xarray with their defaults."""
    home = Path(folder) / f"peer-{secrets.token_hex(4)}"
    home.mkdir()
    os.environ["HERBIE_CONFIG_PATH"] = str(home / "config")  # else it writes into the user's home
    from ingest_platform.weather.eccodes_library import load_eccodes
    from ingest_platform.weather.idx import select

    load_eccodes()  # cfgrib's own import lets the process die at its end, beside pyproj
    import cfgrib
    import herbie

    path = Path(folder) / "buckets" / inputs.GFS_BUCKET / inputs.GFS_KEY
    chosen = select(inputs.entries_of(path), inputs.model("gfs").parameters)
    texts = (f"{w.entry.identity.variable}:{w.level}:{w.entry.identity.window}" for w in chosen)
    search = f":(?:{'|'.join(map(re.escape, texts))}):"
    template = herbie.core.model_templates.gfs.template

    def local(self: Any) -> None:
        template(self)
        self.SOURCES = {"aws": f"{endpoint}/{inputs.GFS_BUCKET}/{inputs.GFS_KEY}"}

    herbie.core.model_templates.gfs.template = local

    def work() -> dict[str, Any]:
        lead = herbie.Herbie(
            "2025-08-01", model="gfs", product="pgrb2.0p25", fxx=7, save_dir=home, verbose=False
        )
        subset = lead.download(search, verbose=False)
        datasets = cfgrib.open_datasets(subset, backend_kwargs={"indexpath": ""})
        for number, dataset in enumerate(datasets):
            dataset.to_zarr(home / "out.zarr", group=str(number), mode="w", consolidated=False)
        grids = sum(v.size // (721 * 1440) for d in datasets for v in d.data_vars.values())
        size = sum(p.stat().st_size for p in (home / "out.zarr").rglob("*") if p.is_file())
        return {"grids": grids, "stored_bytes": size}

    return work


if __name__ == "__main__":
    main()
