"""The output folder that SILO's API polls: which index it serves, how a new one appears, which old ones go.

The API takes the folder with the largest number whose data_version.silo repeats that number, and only ever a
larger one than it serves. Everything else in the folder is not ours: it is neither counted nor touched.
"""

import filecmp
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ingest_platform.errors import StoreUnavailable
from ingest_platform.storage.durable import to_disk

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
        return sum(self.files.values())

    @property
    def files(self) -> Mapping[str, int]:
        """Size by path below the folder. OSError: they cannot be looked at."""
        return {
            str(file.relative_to(self.path)): file.stat().st_size
            for file in self.path.rglob("*")
            if file.is_file()
        }


def index_at(path: Path) -> Index | None:
    """The finished index in this folder, or None if there is none that SILO's API would take."""
    if not (path.name.isascii() and path.name.isdecimal()):
        return None
    found = _finished(path)
    return found if found is not None and str(found.timestamp) == path.name else None


def renumbered(path: Path, timestamp: int) -> Index | None:
    """The finished index in this folder under another number, there where it lies; None: it holds none."""
    found = _finished(path)
    return None if found is None else _renumbered(found, timestamp)


def _finished(path: Path) -> Index | None:
    """By its own words, whatever its folder is called."""
    try:
        with (path / VERSION_FILE).open(encoding="utf-8") as file:
            text = file.read(LARGEST_VERSION_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, UnicodeDecodeError):
        return None
    said = dict(re.findall(r"^(timestamp|serializationVersion): *(\d+) *$", text, re.MULTILINE))
    return Index(path, int(said["timestamp"]), said["serializationVersion"]) if len(said) == 2 else None


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
    path = built.path.with_name(str(timestamp))
    if timestamp != built.timestamp:
        version_file = built.path / VERSION_FILE
        version_file.write_text(f"timestamp: {timestamp}\nserializationVersion: {built.serialization}\n")
    if path != built.path:
        built.path.rename(path)
    return Index(path, timestamp, built.serialization)


def place(built: Index, output: Path, *, at: Callable[[str], None] = lambda _: None) -> Index:
    """Put `built` into `output` under its own number, by one rename on the same disk. Done already is done.

    StoreUnavailable if the disk does not take it, or something else has that name, another's index too;
    the index served before stays.
    """
    target = output / built.path.name
    try:
        if (there := index_at(target)) is not None:
            return _same(there, built)
        output.mkdir(parents=True, exist_ok=True)
        _tree_to_disk(built.path)
        at("before publish")
        built.path.rename(target)
        at("after publish")
        to_disk(output)
    except OSError as error:
        # Another importer may have placed the same index in between.
        if built.path.exists() and (there := index_at(target)) is not None:
            return _same(there, built)
        raise _not_published(built, output, error) from error
    return Index(target, built.timestamp, built.serialization)


def _same(there: Index, built: Index) -> Index:
    """The index that has this number already, if it can be no other than ours."""
    files = list(built.files)
    alike, _, _ = filecmp.cmpfiles(there.path, built.path, files, shallow=False)
    if there.files != built.files or len(alike) < len(files):
        raise StoreUnavailable(
            f"{there.path}: holds another index than the one to be published there. It is left alone, and"
            " ours gets a larger number with the next import. Let nothing else write to that folder."
        )
    return there


def _not_published(built: Index, output: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"{built.path}: cannot be published in {output}: {error}. The index served before stays. Make room"
        " there, and let nothing else write to that folder."
    )


def _tree_to_disk(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        to_disk(path)


def prune(output: Path, *, keep: int, named: Path | None = None) -> tuple[str, ...]:
    """Remove all finished indexes but the newest `keep` and the one `named`. After a success.

    Returns what could not be removed, and why: no reason to fail, and tried again by the next import. A
    folder that is no finished index is not counted, so a broken newest one never costs the last good one.
    Removed means renamed first: no reader finds half an index.
    """
    try:
        left = sorted(output.glob(f"{GOING}*"))
        old = [index.path for index in indexes(output)[:-keep] if index.path != named]
    except OSError as error:
        return (f"{output}: old indexes were not removed: {error}",)
    return tuple(told for path in (*left, *old) if (told := _remove(path)) is not None)


def _remove(path: Path) -> str | None:
    """Its failure, in words: another user's files, for instance, which only a person may delete."""
    try:
        if not path.name.startswith(GOING):
            path = path.rename(path.with_name(f"{GOING}{path.name}"))
        shutil.rmtree(path)
    except FileNotFoundError:
        return None  # another importer was faster
    except OSError as error:
        return f"{path}: this old index could not be removed: {error}"
    return None
