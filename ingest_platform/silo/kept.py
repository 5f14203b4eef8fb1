"""The last verified body of an organism, kept until its index is published: a broken lineage file, engine or
disk costs the backend no second download.

A folder of its own on this machine; what is lost of it is downloaded again.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from ingest_platform.errors import StoreUnavailable
from ingest_platform.storage.durable import to_disk

POINTER = "kept.json"
ARRIVING = ".arriving"  # ends the names of bodies that are not verified yet


@dataclass(frozen=True, slots=True)
class Kept:
    """A body that was read to its end and found sound."""

    order: str  # the version for which it was loaded
    etag: str  # the server's, with these very bytes
    announced: str | None  # x-total-records as it came
    content_hash: str
    loaded_at: float  # seconds since 1970

    @property
    def file(self) -> str:
        return f"{self.content_hash}.ndjson.zst"


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keeps one body in `folder`."""

    folder: Path

    def find(self) -> Kept | None:
        """What is kept; None: nothing is, or not to be relied on."""
        try:
            kept = Kept(**json.loads((self.folder / POINTER).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return kept if (self.folder / kept.file).is_file() else None

    def path(self, kept: Kept) -> Path:
        return self.folder / kept.file

    @contextmanager
    def arriving(self, token: int) -> Iterator[Path]:
        """Where to write a body; it goes if it is not taken by `keep`. Who holds `token` writes alone."""
        with self._room():
            self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{token}{ARRIVING}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, arrived: Path, kept: Kept) -> Kept:
        """From now on this body, and no other. A body is whole, and on the disk, before anything names it."""
        with self._room():
            to_disk(arrived)
            arrived.replace(self.path(kept))
            half = self.folder / f"{POINTER}.tmp"
            half.write_text(json.dumps(asdict(kept)))
            to_disk(half)
            half.replace(self.folder / POINTER)
            self._remove_all_but(POINTER, kept.file)
        return kept

    def drop_older(self, *, than: datetime) -> None:
        """Nothing is kept any more of what was loaded before."""
        with suppress(OSError):
            kept = self.find()
            if kept is not None and kept.loaded_at <= than.timestamp():
                self.drop()

    def drop(self) -> None:
        """Nothing is kept any more; what cannot be removed is harmless."""
        with suppress(OSError):
            self._remove_all_but()

    def _remove_all_but(self, *names: str) -> None:
        # The pointer first: it names only what is there.
        for path in sorted(self.folder.glob("*"), key=lambda path: path.name != POINTER):
            if path.name not in names:
                path.unlink(missing_ok=True)

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(
                f"{self.folder}: a downloaded body cannot be kept: {error}. The published index stays. Make"
                " room there."
            ) from error
