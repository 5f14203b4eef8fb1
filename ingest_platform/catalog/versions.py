"""Which version of a slot is to be fetched. Pure: rows in, changes out, no database.

Versions are ordered by (version_time, id); one that has no id yet counts as younger than all that have.
At most one version of a slot is pending, and it is the newest that is not published.
"""

from dataclasses import dataclass, field
from datetime import datetime

from ingest_platform.catalog.model import Sighting
from ingest_platform.catalog.tables import LIVE, ObjectState

# Sorts after every id that a database gives.
_AFTER_EVERY_ID = 2**62


@dataclass(slots=True, eq=False)
class Version:
    """One row of a slot, as it will be when the sightings are taken down."""

    id: int | None  # None: to be inserted
    version_time: datetime
    state: ObjectState
    sighting: Sighting | None = None  # of the one to be inserted
    order: int = 0  # of the one to be inserted, among all of the batch
    changed: bool = False
    revived: bool = False  # pending again, with a clean record

    @property
    def rank(self) -> tuple[datetime, int]:
        return (self.version_time, self.id if self.id is not None else _AFTER_EVERY_ID + self.order)

    def becomes(self, state: ObjectState) -> None:
        self.state = state
        self.changed = True


@dataclass(slots=True, eq=False)
class Slot:
    """All versions of one logical thing."""

    partition_id: int
    versions: list[Version] = field(default_factory=list)

    def see_first(self, sighting: Sighting, order: int) -> Version:
        """A version never seen: pending if it is the newest, else superseded from birth."""
        version = Version(None, sighting.version_time, "superseded", sighting, order)
        self.versions.append(version)
        if self._is_newest(version):
            self._supersede_pending()
            version.becomes("pending")
        return version

    def see_again(self, version: Version, version_time: datetime) -> None:
        """A known version. If its time grew, the source has returned to it (A-B-A)."""
        if version_time <= version.version_time:
            return
        version.version_time = version_time
        version.changed = True
        if not self._is_newest(version) or version.state == "pending":
            return
        # Also if this one is live: an older one could never be committed over it and would be tried for ever.
        self._supersede_pending()
        if version.state not in LIVE:
            version.becomes("pending")
            version.revived = True

    def _is_newest(self, version: Version) -> bool:
        return all(other.rank <= version.rank for other in self.versions)

    def _supersede_pending(self) -> None:
        for version in self.versions:
            if version.state == "pending":
                version.becomes("superseded")
                version.revived = False
