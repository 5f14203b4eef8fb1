"""commit and fail: what became of the rows that a claim took.

commit is the switch: before it readers open the old snapshot, after it the new one, with exactly the
artifacts that are in it. All or nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import batched
from typing import Any, assert_never

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from ingest_platform.catalog.claim import MAX_ATTEMPTS
from ingest_platform.catalog.counters import Increments, add, of_source
from ingest_platform.catalog.model import Artifact, Claim, Failed, Outcome, Postponed, Published
from ingest_platform.catalog.rows import IDS_PER_STATEMENT, RELEASED, Clock, lost, ours
from ingest_platform.catalog.tables import (
    DAWN,
    LIVE,
    PENDING,
    artifact,
    partition,
    source_object,
    typed_table,
)
from ingest_platform.errors import Stale

# Most waits end within a minute (an object still being written at the source), so the first is short. An
# outage lasts hours: four tries an hour and partition are polite, and it is over for us 15 minutes after.
FIRST_BACKOFF = timedelta(seconds=30)
LONGEST_BACKOFF = timedelta(minutes=15)
# The source's own wish is honoured, but a broken header must not park an object for ever.
LONGEST_RETRY_AFTER = timedelta(days=1)


def commit(
    tx: Connection,
    clock: Clock,
    claim: Claim,
    snapshot: str,
    outcomes: Sequence[Outcome],
    counters: Increments,
) -> None:
    """Publish the snapshot with its artifacts and hand the lease back. LostLease, Stale: nothing changed."""
    _check_outcomes(claim, outcomes)
    now = clock(tx)
    named = update(partition).where(ours(claim)).values(snapshot=snapshot, committed_at=now, **RELEASED)
    if tx.execute(named).rowcount != 1:
        raise lost(claim, "commit")
    published = [o for o in outcomes if isinstance(o, Published)]
    versions = _versions_of_slots(tx, claim, published)
    _refuse_stale(claim, published, versions)
    _replace_artifacts(tx, claim, published, versions)
    settled = _settle(tx, claim.source, now, [o for o in outcomes if not isinstance(o, Published)])
    add(tx, settled, _published_counters(claim.source, published), counters)


def fail(
    tx: Connection, clock: Clock, claim: Claim, outcomes: Sequence[Outcome], counters: Increments
) -> bool:
    """Hand the lease back without a snapshot. False, and no change, if it is no longer this claim's."""
    _check_outcomes(claim, outcomes)
    released = update(partition).where(ours(claim)).values(**RELEASED)
    if tx.execute(released).rowcount != 1:
        return False
    add(tx, _settle(tx, claim.source, clock(tx), [_unpublished(o) for o in outcomes]), counters)
    return True


def _check_outcomes(claim: Claim, outcomes: Sequence[Outcome]) -> None:
    """ValueError unless each outcome is of another object of the claim."""
    held = {o.id for o in claim.objects}
    told = [o.object.id for o in outcomes]
    strange = [o.object.key for o in outcomes if o.object.id not in held]
    if strange or len(set(told)) != len(told):
        raise ValueError(
            f"{claim.source} partition {claim.partition}: expected at most one outcome for each of the "
            f"claim's {len(held)} objects; found {len(told)} outcomes of {len(set(told))} objects, strange: "
            f"{strange}. Nothing was written. Correct the caller."
        )


def _unpublished(outcome: Outcome) -> Postponed | Failed:
    """In a batch that fails, good objects fail through no fault of theirs."""
    if isinstance(outcome, Published):
        return Postponed(
            outcome.object, "written to the store, but its batch was not committed to the ledger"
        )
    return outcome


def _versions_of_slots(
    tx: Connection, claim: Claim, published: Sequence[Published]
) -> dict[str, list[Row[Any]]]:
    """All rows of the published slots, by slot."""
    versions: dict[str, list[Row[Any]]] = {o.object.slot: [] for o in published}
    row = source_object.c
    for slots in batched(versions, IDS_PER_STATEMENT):
        of_slots = (row.partition_id == claim.partition_id) & row.slot.in_(slots)
        for found in tx.execute(select(row.id, row.slot, row.version_time, row.state).where(of_slots)):
            versions[found.slot].append(found)
    return versions


def _refuse_stale(
    claim: Claim, published: Sequence[Published], versions: Mapping[str, list[Row[Any]]]
) -> None:
    """The snapshot holds the whole batch: one object that may not be published refuses it all."""
    for outcome in published:
        of_slot = versions[outcome.object.slot]
        mine = next((row for row in of_slot if row.id == outcome.object.id), None)
        if mine is None or mine.state not in ("pending", "superseded"):
            found = "no such row" if mine is None else f"state {mine.state}"
            raise _stale(claim, outcome, f"expected its row to wait for this commit, found {found}")
        newer = [
            r for r in of_slot if r.state in LIVE and (r.version_time, r.id) > (mine.version_time, mine.id)
        ]
        if newer:
            raise _stale(
                claim, outcome, f"version of {newer[0].version_time:%F %T} UTC is published and newer"
            )


def _stale(claim: Claim, outcome: Published, why: str) -> Stale:
    name = f"{outcome.object.bucket}/{outcome.object.key} ({outcome.object.etag})"
    return Stale(
        f"{claim.source} partition {claim.partition}, {name}: {why}. The commit changed nothing, what the "
        "ledger names stands. Fail the batch and claim again."
    )


def _replace_artifacts(
    tx: Connection, claim: Claim, published: Sequence[Published], versions: Mapping[str, list[Row[Any]]]
) -> None:
    """The slots' artifacts go, the new ones come; their rows follow."""
    replaced = [row.id for rows in versions.values() for row in rows if row.state in LIVE]
    for some in batched(replaced, IDS_PER_STATEMENT):
        tx.execute(delete(artifact).where(artifact.c.source_object_id.in_(some)))
        tx.execute(update(source_object).where(source_object.c.id.in_(some)).values(state="superseded"))
    _insert_artifacts(tx, claim, [(o, a) for o in published for a in o.artifacts])
    if published:
        # Each exists and waits, as _refuse_stale has read under the partition's lock.
        tx.execute(
            update(source_object)
            .where(source_object.c.id == bindparam("row_id"))
            .values(state=bindparam("new_state"), error=bindparam("new_error"), next_attempt_at=DAWN),
            [
                {
                    "row_id": o.object.id,
                    "new_state": "partial" if o.error else "ingested",
                    "new_error": o.error,
                }
                for o in published
            ],
        )


def _insert_artifacts(tx: Connection, claim: Claim, pairs: Sequence[tuple[Published, Artifact]]) -> None:
    if not pairs:
        return
    ids = tx.scalars(
        insert(artifact).returning(artifact.c.id, sort_by_parameter_order=True),
        [
            {
                "partition_id": claim.partition_id,
                "name": made.name,
                "source_object_id": outcome.object.id,
                "etag": outcome.object.etag,
                "size_bytes": made.size_bytes,
                "checksum": made.checksum,
                "transform_version": made.transform_version,
            }
            for outcome, made in pairs
        ],
    ).all()
    details = [
        {"artifact_id": number, **made.details}
        for number, (_, made) in zip(ids, pairs, strict=True)
        if made.details
    ]
    if not details:
        return
    table = typed_table(claim.source)
    if table is None:
        raise ValueError(
            f"{claim.source}: artifacts have details, but the source's family has no typed table"
        )
    tx.execute(insert(table), details)


def _settle(tx: Connection, source: str, now: datetime, outcomes: Iterable[Postponed | Failed]) -> Increments:
    """Give the rows that were not published their next attempt, or put them in quarantine.

    Only those that are pending: one that a newer version superseded meanwhile stays superseded. Returns
    the counters to move.
    """
    told = {o.object.id: o for o in outcomes}
    rows: list[Row[Any]] = []
    for some in batched(told, IDS_PER_STATEMENT):
        row = source_object.c
        rows += tx.execute(
            select(row.id, row.attempts, row.postponements).where(row.id.in_(some), PENDING)
        ).all()
    changes = [_verdict(row, told[row.id], now) for row in rows]
    if changes:
        columns: dict[str, Any] = {name: bindparam(f"new_{name}") for name in changes[0] if name != "row_id"}
        tx.execute(
            update(source_object).where(source_object.c.id == bindparam("row_id")).values(columns),
            [{(n if n == "row_id" else f"new_{n}"): v for n, v in change.items()} for change in changes],
        )
    quarantined = sum(change["state"] == "quarantined" for change in changes)
    return of_source(
        source,
        objects_quarantined_total=quarantined,
        objects_postponed_total=sum(isinstance(told[row.id], Postponed) for row in rows),
        objects_failed_total=sum(isinstance(told[row.id], Failed) for row in rows),
    )


def _verdict(row: Row[Any], outcome: Postponed | Failed, now: datetime) -> dict[str, Any]:
    """The row's new values. A postponed object gets its attempt back; a failed one has used it."""
    match outcome:
        case Postponed():
            attempts, postponements, state = max(0, row.attempts - 1), row.postponements + 1, "pending"
            wait = max(backoff(postponements), min(outcome.retry_after or timedelta(), LONGEST_RETRY_AFTER))
        case Failed():
            attempts, postponements = row.attempts, row.postponements
            state = "quarantined" if outcome.permanent or attempts >= MAX_ATTEMPTS else "pending"
            wait = backoff(attempts)
        case _:
            assert_never(outcome)
    return {
        "row_id": row.id,
        "state": state,
        "attempts": attempts,
        "postponements": postponements,
        "next_attempt_at": now + wait if state == "pending" else DAWN,
        "error": outcome.error,
    }


def backoff(times: int) -> timedelta:
    """Wait after so many tries (1 or more): doubling from the first to the longest.

    Without jitter: the rows of a batch shall come back together, and request spreads the partitions.
    """
    # Doubled 16 times the wait is beyond its cap; after a month of outage the power would be astronomical.
    doubled = FIRST_BACKOFF * float(2 ** min(max(times, 1) - 1, 16))
    return min(doubled, LONGEST_BACKOFF)


def _published_counters(source: str, published: Sequence[Published]) -> Increments:
    made = [a for o in published for a in o.artifacts]
    return of_source(
        source,
        files_ingested_total=len(published),
        files_partial_total=sum(o.error is not None for o in published),
        artifacts_published_total=len(made),
        bytes_published_total=sum(a.size_bytes for a in made),
    )
