"""The release that a claimed version asks for: downloaded, or found kept; checked, and as SILO's records.

Knows the backend and the kept body; lineage, engine and ledger are others' business.
"""

from dataclasses import dataclass
from pathlib import Path

from ingest_platform.catalog.model import SourceObject
from ingest_platform.errors import Damaged, SourceUnavailable
from ingest_platform.silo.discover import is_release
from ingest_platform.silo.kept import Kept
from ingest_platform.silo.model import Organism
from ingest_platform.silo.rails import Rails
from ingest_platform.silo.released import Layout, Released, keep, kept, receive
from ingest_platform.silo.stopping import heeding


@dataclass(frozen=True, slots=True)
class Release:
    """A whole and sound release, and where its bytes are."""

    etag: str
    body: Path  # as sent, kept until the index is published
    records: Path  # SILO's NDJSON, zstd
    released: Released
    downloaded: bool


def obtain(
    rails: Rails, organism: Organism, item: SourceObject, token: int, records: Path, layout: Layout
) -> Release:
    """The release for `item`, its records written to `records`. As receive, and SourceUnavailable.

    A body that an earlier try has verified for this version, or under its ETag, is not loaded again.
    """
    found = rails.keeper(organism).find()
    if found is not None and _serves(found, item):
        again = _again(rails, organism, found, records, layout)
        if again is not None:
            return again
    return _downloaded(rails, organism, item, token, records, layout)


def _serves(found: Kept, item: SourceObject) -> bool:
    return found.order == order_of(item) or (is_release(item.key) and found.etag == item.etag)


def order_of(item: SourceObject) -> str:
    """A version and the moment it was seen at: a hard refresh comes again under its name."""
    return f"{item.id} {item.version_time.isoformat()}"


def _again(rails: Rails, organism: Organism, found: Kept, records: Path, layout: Layout) -> Release | None:
    """None: it is not what was verified any more, as after a power cut; it is to be downloaded again."""
    body = rails.keeper(organism).path(found)
    try:
        pieces = heeding(rails.stop, kept(body), what=organism.id)
        released = receive(pieces, records, name=organism.id, announced=found.announced, layout=layout)
    except Damaged:
        return None
    if released.content_hash != found.content_hash:
        return None
    return Release(found.etag, body, records, released, downloaded=False)


def _downloaded(
    rails: Rails, organism: Organism, item: SourceObject, token: int, records: Path, layout: Layout
) -> Release:
    """Asked for without a condition: what is here already is known by its content, not by its ETag."""
    keeper = rails.keeper(organism)
    keeper.drop()
    with keeper.arriving(token) as arriving, rails.backend(organism).released(None) as body:
        if body is None:
            raise SourceUnavailable(f"{organism.id}: no release came. It is tried again.")
        rails.at("during download")
        pieces = keep(body.pieces, arriving, name=organism.id)
        released = receive(pieces, records, name=organism.id, announced=body.head.announced, layout=layout)
        rails.at("after download")
        found = keeper.keep(
            arriving,
            Kept(
                order_of(item),
                body.head.etag,
                body.head.announced,
                released.content_hash,
                rails.clock().timestamp(),
            ),
        )
        rails.at("after keep")
        return Release(found.etag, keeper.path(found), records, released, downloaded=True)
