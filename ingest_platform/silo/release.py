"""The release that a claimed version asks for: downloaded, or found kept; checked, and as SILO's records.

Knows the backend and the kept body; lineage, engine and ledger are others' business.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ingest_platform.catalog.model import SourceObject
from ingest_platform.errors import SourceUnavailable
from ingest_platform.silo.backend import Backend
from ingest_platform.silo.discover import is_release
from ingest_platform.silo.kept import Keeper, Kept
from ingest_platform.silo.released import Layout, Released, keep, kept, receive


@dataclass(frozen=True, slots=True)
class Release:
    """A whole and sound release, and where its bytes are."""

    etag: str
    body: Path  # as sent, kept until the index is published
    records: Path  # SILO's NDJSON, zstd
    released: Released
    downloaded: bool


def obtain(
    backend: Backend,
    keeper: Keeper,
    item: SourceObject,
    token: int,
    records: Path,
    layout: Layout,
    at: Callable[[str], None],
) -> Release:
    """The release for `item`, its records written to `records`. As receive, and SourceUnavailable.

    A body that an earlier try has verified for this version, or under its ETag, is not loaded again.
    """
    found = keeper.find()
    if found is not None and _serves(found, item):
        return _again(backend, keeper, found, records, layout)
    return _downloaded(backend, keeper, item, token, records, layout, at)


def _serves(found: Kept, item: SourceObject) -> bool:
    return found.order == order_of(item) or (is_release(item.key) and found.etag == item.etag)


def order_of(item: SourceObject) -> str:
    """A version and the moment it was seen at: a hard refresh comes again under its name."""
    return f"{item.id} {item.version_time.isoformat()}"


def _again(backend: Backend, keeper: Keeper, found: Kept, records: Path, layout: Layout) -> Release:
    body = keeper.path(found)
    released = receive(kept(body), records, name=backend.organism, announced=found.announced, layout=layout)
    return Release(found.etag, body, records, released, downloaded=False)


def _downloaded(
    backend: Backend,
    keeper: Keeper,
    item: SourceObject,
    token: int,
    records: Path,
    layout: Layout,
    at: Callable[[str], None],
) -> Release:
    """Asked for without a condition: what is here already is known by its content, not by its ETag."""
    keeper.drop()
    with keeper.arriving(token) as arriving, backend.released(None) as body:
        if body is None:
            raise SourceUnavailable(f"{backend.organism}: no release came. It is tried again.")
        at("during download")
        pieces = keep(body.pieces, arriving, name=backend.organism)
        released = receive(
            pieces, records, name=backend.organism, announced=body.head.announced, layout=layout
        )
        at("after download")
        found = keeper.keep(
            arriving, order_of(item), body.head.etag, body.head.announced, released.content_hash
        )
        at("after keep")
        return Release(found.etag, keeper.path(found), records, released, downloaded=True)
