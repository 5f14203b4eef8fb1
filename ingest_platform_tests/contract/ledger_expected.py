"""What the ledger must hold, as a few dicts: the model beside which the state machine runs the real one."""

from dataclasses import dataclass, field
from datetime import datetime

from ingest_platform.catalog.model import Claim
from ingest_platform.catalog.tables import DAWN


class Broken(Exception):
    """The connection to the ledger."""


@dataclass
class Work:
    """What one worker has in its hands; `written` is the snapshot it has put into the store."""

    claim: Claim
    owner: str
    written: str | None = None


@dataclass
class Expected:
    """The ledger as a few dicts."""

    state: dict[str, str] = field(default_factory=dict)  # absent: never seen, or forgotten
    horizon: datetime = DAWN
    pinned: set[str] = field(default_factory=set)
    holder: dict[str, str] = field(
        default_factory=dict
    )  # partition: owner of the last lease, not handed back
    rank: dict[tuple[str, str, str], tuple[int, int]] = field(default_factory=dict)  # of each version sighted
    live: dict[tuple[str, str], str] = field(default_factory=dict)  # partition, slot: etag
    commits: int = 0  # files
    uris: set[str] = field(default_factory=set)  # every name ever given

    def clear(self, partition: str) -> None:
        self.rank = {k: v for k, v in self.rank.items() if k[0] != partition}
        self.unpublish(partition)

    def unpublish(self, partition: str) -> None:
        self.live = {k: v for k, v in self.live.items() if k[0] != partition}
