"""Private folders for the bytes of one piece of work. Gone when the work ends, however it ends.

A living owner holds a lock on a file in its folder; the kernel drops the lock of a killed one, and
whoever comes next removes what it left. Pids would not do: containers number theirs from 1.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ingest_platform.errors import PermanentError, StoreUnavailable

LOCK = ".owner"
PREFIX = "scratch-"
# A folder is made before it is locked: in between, milliseconds on any machine, it looks ownerless.
UNLOCKED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Scratch:
    """A folder of one's own."""

    folder: Path

    def file(self, name: str) -> Path:
        """The path of a new or old file directly in the folder. PermanentError if `name` leads elsewhere."""
        if name in ("", ".", "..", LOCK) or "/" in name or "\0" in name:
            raise PermanentError(f"scratch file {name!r}: not a plain file name. Nothing was written.")
        return self.folder / name


@contextmanager
def scratch_folder(root: Path, *, clock: Callable[[], float] = time.time) -> Iterator[Scratch]:
    """A new private folder below `root`, removed at exit. Removes leftovers of dead owners first.

    StoreUnavailable if there is no room for one.
    """
    folder, lock = _make(root, clock())
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Scratch(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make(root: Path, now: float) -> tuple[Path, int]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        sweep(root, now)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        return folder, os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise StoreUnavailable(
            f"scratch folder {root}: no folder could be made in it: {error}. Nothing was read or written."
            " Make room, or correct its rights."
        ) from error


def sweep(root: Path, now: float) -> tuple[Path, ...]:
    """Remove the folders below `root` whose owner is dead, and say which. `now`: seconds since 1970."""
    return tuple(folder for folder in sorted(root.glob(f"{PREFIX}*")) if _remove_if_dead(folder, now))


def _remove_if_dead(folder: Path, now: float) -> bool:
    try:
        if now - folder.stat().st_mtime < UNLOCKED_SECONDS:
            return False
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    except FileNotFoundError:
        return False  # its owner ended meanwhile
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(folder, ignore_errors=True)
        return True
    finally:
        os.close(lock)
