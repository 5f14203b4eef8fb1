"""The output folder that SILO's API polls: which index it serves, how a new one appears, which old ones go.

The API takes the folder with the largest number whose data_version.silo repeats that number, and only ever a
larger one than it serves. Everything else in the folder is not ours: it is neither counted nor touched.
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ingest_platform.errors import StoreUnavailable

VERSION_FILE = "data_version.silo"  # the engine writes it last: it says that the rest is whole
LARGEST_VERSION_FILE_BYTES = 1000  # two lines
GOING = ".going-"  # the API passes over names that are no numbers


@dataclass(frozen=True, slots=True)
class Index:
    """A finished index."""

    path: Path
    timestamp: int  # the folder's name: seconds since 1970, or one more than its predecessor's
    serialization: str  # the engine's format; the API passes over one that it cannot read

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def index_at(path: Path) -> Index | None:
    """The finished index in this folder, or None if there is none that SILO's API would take."""
    if not (path.name.isascii() and path.name.isdecimal()):
        return None
    try:
        with (path / VERSION_FILE).open(encoding="utf-8") as file:
            text = file.read(LARGEST_VERSION_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, UnicodeDecodeError):
        return None
    said = dict(re.findall(r"^(timestamp|serializationVersion): *(\d+) *$", text, re.MULTILINE))
    if len(said) < 2 or said["timestamp"] != path.name:
        return None
    return Index(path, int(path.name), said["serializationVersion"])


def indexes(output: Path) -> tuple[Index, ...]:
    """The finished indexes in `output`, oldest first; the last one is served. OSError: it cannot be read."""
    if not output.exists():
        return ()
    found = [index for path in output.iterdir() if (index := index_at(path)) is not None]
    return tuple(sorted(found, key=lambda index: index.timestamp))


def publish(built: Index, output: Path, *, at: Callable[[str], None] = lambda _: None) -> Index:
    """Make `built` the served index of `output`; returns it where it then is. As number, then place."""
    return place(number(built, output), output, at=at)


def number(built: Index, output: Path, *, above: int = 0) -> Index:
    """`built` under a number that the API will take next, in the folder where it lies.

    A number that is taken, or not above `above` and the served one's (the clock went back), would never be
    served: the index gets the next one. One that lies in `output` already, as a runner's of its own does,
    stays as it is. StoreUnavailable.
    """
    if built.path.parent == output:
        return built
    try:
        newest = max((index.timestamp for index in indexes(output)), default=0)
        timestamp = max(built.timestamp, newest + 1, above + 1)
        while (output / str(timestamp)).exists():
            timestamp += 1
        return _renumbered(built, timestamp)
    except OSError as error:
        raise _not_published(built, output, error) from error


def _renumbered(built: Index, timestamp: int) -> Index:
    if timestamp == built.timestamp:
        return built
    path = built.path.with_name(str(timestamp))
    version_file = built.path / VERSION_FILE
    version_file.write_text(f"timestamp: {timestamp}\nserializationVersion: {built.serialization}\n")
    built.path.rename(path)
    return Index(path, timestamp, built.serialization)


def place(built: Index, output: Path, *, at: Callable[[str], None] = lambda _: None) -> Index:
    """Put `built` into `output` under its own number, by one rename on the same disk. Done already is done.

    StoreUnavailable if the disk does not take it, or something else has that name; the index served
    before stays.
    """
    target = output / built.path.name
    try:
        if (there := index_at(target)) is not None:
            return there
        output.mkdir(parents=True, exist_ok=True)
        _to_disk(built.path)
        at("before publish")
        built.path.rename(target)
        at("after publish")
        _sync(output)
    except OSError as error:
        # Another importer may have placed the same index in between.
        if (there := index_at(target)) is not None:
            return there
        raise _not_published(built, output, error) from error
    return Index(target, built.timestamp, built.serialization)


def _not_published(built: Index, output: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"{built.path}: cannot be published in {output}: {error}. The index served before stays. Make room"
        " there, and let nothing else write to that folder."
    )


def _to_disk(folder: Path) -> None:
    """After a power failure the rename may be there and the bytes may not: they go first."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def prune(output: Path, *, keep: int, named: Path | None = None) -> tuple[Path, ...]:
    """Remove all finished indexes but the newest `keep` and the one `named`, and say which. After a success.

    A folder that is no finished index is not counted, so a broken newest one never costs the last good
    one. Removed means renamed first: no reader finds half an index. StoreUnavailable.
    """
    try:
        for left in output.glob(f"{GOING}*"):
            shutil.rmtree(left)
        old = [index.path for index in indexes(output)[:-keep] if index.path != named]
        for path in old:
            going = path.with_name(f"{GOING}{path.name}")
            path.rename(going)
            shutil.rmtree(going)
    except OSError as error:
        raise StoreUnavailable(
            f"{output}: an old index cannot be removed: {error}. The served one stays; try again."
        ) from error
    return tuple(old)
