"""A small disk of its own for a test, a tmpfs, that can be filled to the last byte and emptied again."""

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ingest_platform_tests.services.processes import ServerUnavailable

# Room for a ledger, a store and scratch files of a test, and filled within milliseconds.
DISK_BYTES = 16 << 20
PIECE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Disk:
    """`folder` is where it is mounted."""

    folder: Path

    def fill(self, *, leaving: int = 0) -> None:
        """Somebody else's file takes all room but so many bytes."""
        with self._filler.open("ab", buffering=0) as file:
            for piece in (PIECE_BYTES, 1):
                try:
                    while True:
                        file.write(b"\0" * piece)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
            file.truncate(max(0, file.tell() - leaving))

    def free(self) -> None:
        """The other's file goes."""
        self._filler.unlink()

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """Mounted at `folder`, gone at the end. ServerUnavailable where this user may not mount."""
    folder.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs"]
    made = subprocess.run(["mount", *options, str(folder)], check=False, capture_output=True, text=True)
    if made.returncode != 0:
        raise ServerUnavailable(f"a disk that can be full: mount needs root: {made.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        # Lazily: an open SQLite connection of a failed test must not keep the disk for ever.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
