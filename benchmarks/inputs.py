"""Full-size source files, made when they are needed: a GFS hour of 743 messages, radar mosaics, C02 scans.

Real files are used where INGEST_REAL_DATA names a folder of them: a real inventory gives the GFS hour its
order and its lengths, a real message the packed values that fit them best. Else both are invented.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import numpy as np

from benchmarks.measure import ROOT
from ingest_platform.demo import grib_writer, synth
from ingest_platform.demo.grib_writer import Packed, window_of
from ingest_platform.weather import grib_header
from ingest_platform.weather.config import load_models
from ingest_platform.weather.framing import Framed, scan_messages
from ingest_platform.weather.idx import IndexEntry, parse_index, select
from ingest_platform.weather.model import Model

GFS_CYCLE = datetime(2025, 8, 1, tzinfo=UTC)
GFS_LEAD = timedelta(hours=7)
GFS_KEY = "gfs.20250801/00/atmos/gfs.t00z.pgrb2.0p25.f007"
GFS_BUCKET = "noaa-gfs-bdp-pds"
GFS_MESSAGES = 743
REAL_INDEX = "idx/gfs.t00z.pgrb2.0p25.f007.idx"
REAL_MESSAGES = ("gfs/gfs.complex.grib2", "synthetic/gfs.t00z.pgrb2.0p25.f006")
# Of the real f007; without its inventory lengths are drawn between the tenth and the ninetieth percentile.
LENGTHS = (239_000, 1_152_000)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder of its own, gone at the end."""
    folder = Path(mkdtemp(prefix="ingest-bench-"))
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)


def model(name: str) -> Model:
    """A shipped model."""
    return next(found for found in load_models(None) if found.id == name)


def one_product(name: str, product: str) -> Model:
    """A shipped model cut to one parameter, so that every object is of the same kind."""
    whole = model(name)
    return whole.model_copy(update={"parameters": tuple(p for p in whole.parameters if p.name == product)})


def real_data() -> Path | None:
    """The folder of real weather files, where the tests look for them too; None if there is none."""
    folder = Path(os.environ.get("INGEST_REAL_DATA", ROOT.parent / "shared" / "data")) / "weather"
    return folder if folder.is_dir() else None


@dataclass(frozen=True, slots=True)
class GfsHour:
    """What was built: its size, and how much of it is wanted."""

    size_bytes: int
    messages: int
    wanted: int
    wanted_bytes: int
    real: bool  # order, names and lengths are of a real file

    def __str__(self) -> str:
        lengths = "a real inventory's lengths" if self.real else "invented lengths"
        return (
            f"GFS hour of {self.messages} messages, {self.size_bytes / 1e6:.0f} MB, by {lengths};"
            f" {self.wanted} wanted, {self.wanted_bytes / 1e6:.1f} MB"
        )


def make_gfs_hour(buckets: Path) -> GfsHour:
    """One lead under its real key in `buckets`, with its inventory. Ten seconds, a quarter of a minute cold.

    The wanted messages say what the inventory says of them; the others have its lengths, and any header.
    """
    gfs, real = model("gfs"), real_data()
    text = (real / REAL_INDEX).read_text() if real and (real / REAL_INDEX).exists() else _invented_index(gfs)
    entries = parse_index(text, int(text.splitlines()[-1].split(":")[1]) + LENGTHS[1])
    pool = sorted(_packed_fields(real), key=lambda packed: len(packed.sections))
    wanted = {want.entry.number: want for want in select(entries, gfs.parameters)}
    lattice, reset = grib_writer.latitude_longitude(*synth.GFS_SHAPE), timedelta(hours=6)
    path = buckets / GFS_BUCKET / GFS_KEY
    path.parent.mkdir(parents=True)
    lines, offset, wanted_bytes = [], 0, 0
    with path.open("wb") as file:
        for entry in entries:
            parameter, level = gfs.parameters[0], "500 mb"
            if want := wanted.get(entry.number):
                parameter, level = want.parameter, want.level
            window = window_of(parameter, GFS_LEAD, reset)
            packed = min(pool, key=lambda p: abs(len(p.sections) - entry.length))
            part = grib_writer.message(parameter.grib[0], level, window, GFS_CYCLE, lattice, packed)
            head, _, tail = text.splitlines()[entry.number - 1].split(":", 2)
            lines.append(f"{head}:{offset}:{tail}\n")
            wanted_bytes += len(part) if want else 0
            offset += file.write(part)
    path.with_name(f"{path.name}.idx").write_text("".join(lines))
    return GfsHour(offset, len(entries), len(wanted), wanted_bytes, real is not None)


def _packed_fields(real: Path | None) -> list[Packed]:
    """Complex packings of GFS' size, from 0.1 to 1.3 MB: the real ones, and invented ones of 6 to 16 bits."""
    found = [Packed(_sections(message)) for path in _real_files(real) for message in _messages(path)]
    noise = synth._noise(synth.GFS_SHAPE, 7) * 40 + 280
    rough = noise + np.random.default_rng(7).standard_normal(synth.GFS_SHAPE).astype(np.float32) * 0.02
    with ThreadPoolExecutor(2) as threads:
        found += threads.map(lambda bits: grib_writer.pack_complex(rough, bits), range(6, 18))
    return found


def _real_files(real: Path | None) -> Sequence[Path]:
    return [real / name for name in REAL_MESSAGES if (real / name).exists()] if real else []


def _messages(path: Path) -> list[bytes]:
    body = path.read_bytes()
    frames = (frame for frame in scan_messages(body) if isinstance(frame, Framed))
    return [body[frame.offset : frame.offset + frame.length] for frame in frames]


def _sections(message: bytes) -> bytes:
    sections = grib_header.sections_of(memoryview(message))
    return b"".join(bytes(sections[number]) for number in (5, 6, 7))


def _invented_index(gfs: Model) -> str:
    """An inventory as long as a real one, with every wanted message somewhere in it."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(*LENGTHS, GFS_MESSAGES)
    lines = [
        f"{p.variable}:{level}:{_window_text(p.window.value)}" for p in gfs.parameters for level in p.levels()
    ]
    lines += [f"VAR{n}:surface:7 hour fcst" for n in range(GFS_MESSAGES - len(lines))]
    generator.shuffle(lines)
    offsets = np.cumsum(lengths) - lengths
    stamp = f"d={GFS_CYCLE:%Y%m%d%H}"
    return "".join(
        f"{n}:{offset}:{stamp}:{line}:\n"
        for n, (offset, line) in enumerate(zip(offsets, lines, strict=True), 1)
    )


def _window_text(window: str) -> str:
    process, _, since = window.partition(" ")
    if process == "instant":
        return "7 hour fcst"
    return f"{'0' if since == 'run' else '6'}-7 hour {process} fcst"


def entries_of(path: Path) -> tuple[IndexEntry, ...]:
    """The inventory of a built file."""
    text = path.with_name(f"{path.name}.idx").read_text()
    return parse_index(text, path.stat().st_size)
