"""A snapshot of plain files in the store: its files first, then the manifest that lists them.

Who finds the manifest finds the rest, to the byte. Knows names, sizes and hashes, not what the files mean.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingest_platform.errors import StoreUnavailable
from ingest_platform.storage.store import Store

NAME = "manifest.json"  # written last


@dataclass(frozen=True, slots=True)
class File:
    """One file of a snapshot."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot consists of. `about`: what its source says of it."""

    files: Mapping[str, File]  # by path below the snapshot
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())


def manifest_path(uri: str, snapshot: str) -> str:
    """The object whose presence proves that the snapshot is there."""
    return f"{uri}/{snapshot}/{NAME}"


def put_snapshot(
    store: Store, uri: str, snapshot: str, files: Mapping[str, Path], about: Mapping[str, Any]
) -> Manifest:
    """Write the files, look at each again, then the manifest. StoreUnavailable; `snapshot` must be new."""
    known = {name: _described(path) for name, path in sorted(files.items())}
    for name, file in known.items():
        path = f"{uri}/{snapshot}/{name}"
        store.put_file(path, files[name])
        stored = store.head(path)
        if stored is None or stored.size_bytes != file.size_bytes:
            raise StoreUnavailable(
                f"{store.url}/{path}: wrote {file.size_bytes:,} bytes, the store has"
                f" {stored.size_bytes if stored else 'none'}. What is published stays; it is tried again."
            )
    manifest = Manifest(known, about)
    store.put(manifest_path(uri, snapshot), _dumped(manifest))
    return manifest


def read_manifest(store: Store, uri: str, snapshot: str) -> Manifest:
    """StoreUnavailable if it is not there or is none."""
    path = manifest_path(uri, snapshot)
    try:
        said = json.loads(store.get(path))
        files = {name: File(file["size_bytes"], file["sha256"]) for name, file in said["files"].items()}
        return Manifest(files, said["about"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreUnavailable(
            f"{store.url}/{path}: is no manifest: {error!r}. Run `ingest reconcile --apply`."
        ) from error


def get_files(store: Store, uri: str, snapshot: str, below: str, folder: Path) -> None:
    """Write the snapshot's files that lie below `below` into `folder`, each compared with its hash."""
    for name, file in read_manifest(store, uri, snapshot).files.items():
        if not name.startswith(f"{below}/"):
            continue
        target = folder / name.removeprefix(f"{below}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(f"{uri}/{snapshot}/{name}", target)
        if (found := _described(target)) != file:
            raise StoreUnavailable(
                f"{store.url}/{uri}/{snapshot}/{name}: expected {file}, found {found}. Nothing of it was"
                " used. Run `ingest reconcile --apply --deep`."
            )


def missing_files(store: Store, uri: str, snapshot: str) -> Iterator[str]:
    """Paths that the manifest lists and the store does not have, or has with another size."""
    for name, file in read_manifest(store, uri, snapshot).files.items():
        path = f"{uri}/{snapshot}/{name}"
        stored = store.head(path)
        if stored is None or stored.size_bytes != file.size_bytes:
            yield path


def _described(path: Path) -> File:
    try:
        with path.open("rb") as file:
            return File(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise StoreUnavailable(f"{path}: cannot be read: {error}. What is published stays.") from error


def _dumped(manifest: Manifest) -> bytes:
    files = {
        name: {"size_bytes": file.size_bytes, "sha256": file.sha256} for name, file in manifest.files.items()
    }
    return json.dumps({"files": files, "about": manifest.about}, sort_keys=True).encode()
