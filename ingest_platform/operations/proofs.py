"""What proves that a published snapshot is in the store, by the family of its source.

Knows how the families lay out what lies below a uri; imports none of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from ingest_platform.storage.manifest import manifest_path, missing_files
from ingest_platform.storage.store import Store

MOST = 100  # of the missing objects; one is enough to lose the snapshot


@dataclass(frozen=True, slots=True)
class Proof:
    """How one family's snapshots are looked for. Both take uri and snapshot."""

    path: Callable[[str, str], str]  # the object that is there if the snapshot is
    lost: Callable[[Store, str, str], tuple[tuple[str, ...], tuple[str, ...]]]  # absent, torn; the first


def proof_of(source: str) -> Proof:
    """That of the source's family: what stands before the first dot of its name."""
    return PROOFS.get(source.partition(".")[0], ICECHUNK)


def _lost_of_repository(store: Store, uri: str, snapshot: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from ingest_platform.storage.repository import lost_objects

    return lost_objects(store, uri, snapshot)


def _lost_of_manifest(store: Store, uri: str, snapshot: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(islice(missing_files(store, uri, snapshot), MOST)), ()


ICECHUNK = Proof(lambda uri, snapshot: f"{uri}/snapshots/{snapshot}", _lost_of_repository)
FILES = Proof(manifest_path, _lost_of_manifest)
PROOFS = {"silo": FILES}
