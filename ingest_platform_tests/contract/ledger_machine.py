"""A dict beside the ledger: two workers, purges and a reconcile, with crashes, lost answers and wrong clocks.

The store is a dict too: what a snapshot holds is told apart from what the ledger says it holds, and the
two must agree for every reader at every moment.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Claim, Failed, Outcome, Postponed, Purge, SourceObject
from ingest_platform.catalog.tables import DAWN
from ingest_platform.errors import LostLease, Stale
from ingest_platform_tests.contract.ledger_expected import Broken, Expected, Work
from ingest_platform_tests.contract.ledger_world import (
    LEASE,
    LONG_AFTER,
    SOURCE,
    PlayedClock,
    cycles,
    end_of,
    published,
    sighting,
)

PARTITIONS = cycles(2)
MOMENT = timedelta(seconds=1)

# Mostly one partition, mostly one slot: what goes wrong, goes wrong between two on the same thing.
partitions = st.sampled_from([PARTITIONS[0]] * 4 + [PARTITIONS[1]])
# Where the connection breaks: before the effect, after it (the answer is lost), or not at all.
breaks = st.sampled_from(["", "", "", "before", "after"])
slots = st.sampled_from(["f000", "f000", "f000", "f001"])
etags = st.sampled_from(["a", "b", "c"])
minutes = st.integers(0, 5)
limits = st.sampled_from([None, 1])
steps = st.sampled_from(["go on"] * 6 + ["heartbeat", "die", "postponed", "failed", "permanent"])


class LedgerMachine(RuleBasedStateMachine):
    """Safety after every step; at the end everybody is dead, and what is left must heal by itself."""

    fresh: Callable[[], str]  # an empty ledger
    dispose: Callable[[str], None]

    def __init__(self) -> None:
        super().__init__()
        self.url = type(self).fresh()
        self.clock = PlayedClock()
        self.breaking = ""
        self.ledger = Catalog.open(self.url, now=self.clock, at=self.interrupt)
        self.expected = Expected()
        self.store: dict[tuple[str, str], dict[str, str]] = {}  # uri, snapshot: etag by slot
        self.hands: dict[int, Work] = {}
        self.purges: list[tuple[Purge, str]] = []
        self.listing: set[str] = set()
        self.names = 0

    def interrupt(self, point: str) -> None:
        if self.breaking and point.endswith(f"{self.breaking} COMMIT"):
            raise Broken(point)

    @contextmanager
    def connection(self, broken: str) -> Iterator[None]:
        self.breaking = broken
        try:
            yield
        except Broken:
            assert broken
        finally:
            self.breaking = ""

    def new_name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}{self.names}"

    def holds(self, partition: str, owner: str) -> bool:
        """Whether a lease was given in this name: asked of the ledger, since the answer may be lost."""
        rows = self.ledger.partitions(SOURCE)
        return any(row.partition == partition and row.lease_owner == owner for row in rows)

    # Hypothesis draws from few rules more evenly than from many: each role is one, its choices are drawn.

    @rule(
        partition=partitions,
        versions=st.lists(st.tuples(slots, etags, minutes), min_size=1, max_size=3),
        broken=breaks,
    )
    def sensor(self, partition: str, versions: list[tuple[str, str, int]], broken: str) -> None:
        self.see(partition, versions, broken)
        for wanted in self.ledger.request(SOURCE):
            assert self.expected.state[wanted.partition] == "open"

    @rule(minutes=st.sampled_from([3, 3, 3, 30, 1, -3, 600, -600]))
    def time_passes(self, minutes: int) -> None:
        self.clock.advance(timedelta(minutes=minutes))

    @rule(partition=partitions, slot=slots, etag=etags, minute=minutes)
    def undisturbed_run(self, partition: str, slot: str, etag: str, minute: int) -> None:
        self.see(partition, [(slot, etag, minute)], "")
        self.hands.pop(0, None)
        for _ in range(3):
            self.go_on(0, partition, None, "")

    @rule(step=steps, partition=partitions, limit=limits, broken=breaks)
    def first_worker(self, step: str, partition: str, limit: int | None, broken: str) -> None:
        self.work(1, step, partition, limit, broken)

    @rule(step=steps, partition=partitions, limit=limits, broken=breaks)
    def second_worker(self, step: str, partition: str, limit: int | None, broken: str) -> None:
        self.work(2, step, partition, limit, broken)

    @rule(step=st.sampled_from(["expire", "erase", "erase", "admit"]), data=st.data(), broken=breaks)
    def retention(self, step: str, data: st.DataObject, broken: str) -> None:
        if step == "expire":
            self.expire(data.draw(partitions), data.draw(st.integers(0, 1)), broken)
        elif step == "admit":
            self.admit(data.draw(partitions), broken)
        elif self.purges:
            which = data.draw(st.integers(0, len(self.purges) - 1))
            self.delete_and_erase(*self.purges[which], broken)
            if data.draw(st.booleans()):
                self.forget()

    @rule(step=st.sampled_from(["list", "delete", "repair"]), partition=partitions, broken=breaks)
    def reconcile(self, step: str, partition: str, broken: str) -> None:
        if step == "list":
            self.listing = {uri for uri, _ in self.store}
        elif step == "delete":
            self.delete_orphans()
        else:
            self.repair(partition, broken)

    # The source.

    def see(self, partition: str, versions: list[tuple[str, str, int]], broken: str) -> None:
        # No two partitions share a key.
        keys = [(f"{partition}/{slot}", etag, minute, slot) for slot, etag, minute in versions]
        with self.connection(broken):
            self.ledger.see(
                SOURCE, [sighting(k, e, minute=m, partition=partition, slot=s) for k, e, m, s in keys]
            )
        if broken == "before":
            return
        expected = self.expected
        if partition not in expected.state and end_of(partition) >= expected.horizon:
            expected.state[partition] = "open"
        if expected.state.get(partition) == "open":
            for slot, etag, minute in sorted(versions, key=lambda v: v[2]):
                name = (partition, slot, etag)
                before, order = expected.rank.get(name, (-1, len(expected.rank)))
                expected.rank[name] = (max(before, minute), order)

    # The workers: each claims, writes to the store, commits; any of it may come late.

    def work(self, worker: int, step: str, partition: str, limit: int | None, broken: str) -> None:
        if step == "go on" or worker not in self.hands:
            self.go_on(worker, partition, limit, broken)
        elif step == "die":
            del self.hands[worker]
        elif step == "heartbeat":
            self.heartbeat(self.hands[worker])
        else:
            self.fail(self.hands.pop(worker), step, broken)

    def go_on(self, worker: int, partition: str, limit: int | None, broken: str) -> None:
        work = self.hands.get(worker)
        if work is None:
            self.claim(worker, partition, limit, broken)
        elif work.written is None:
            self.write(work)
        else:
            self.commit(worker, work, broken)

    def claim(self, worker: int, partition: str, limit: int | None, broken: str) -> None:
        owner, claim = self.new_name("worker"), None
        with self.connection(broken):
            claim = self.ledger.claim(SOURCE, partition, owner=owner, lease=LEASE, limit=limit)
        if self.holds(partition, owner):
            assert self.expected.state[partition] == "open"
            self.expected.holder[partition] = owner
        if claim is not None:
            assert claim.objects
            self.begin(worker, claim, owner)

    def begin(self, worker: int, claim: Claim, owner: str) -> None:
        if claim.snapshot is None:
            assert claim.uri not in self.expected.uris, "a uri was given twice"
        self.expected.uris.add(claim.uri)
        self.hands[worker] = Work(claim, owner)

    def write(self, work: Work) -> None:
        """The store commit: on the claim's base, under a new name, named by nobody."""
        base = self.store.get((work.claim.uri, work.claim.snapshot or ""))
        if work.claim.snapshot is not None and base is None:
            return  # the base was deleted by a purge: a storage error
        work.written = self.new_name("s")
        content = (base or {}) | {o.slot: o.etag for o in work.claim.objects}
        self.store[work.claim.uri, work.written] = content

    def commit(self, worker: int, work: Work, broken: str) -> None:
        due, refused = self.refusal(work), None
        with self.connection(broken):
            try:
                outcomes = [published(o) for o in work.claim.objects]
                self.ledger.commit(work.claim, work.written or "", outcomes)
            except (LostLease, Stale) as error:
                refused = type(error)
        assert refused is due
        if refused is None and broken != "before":
            self.committed(work)
        if refused is None and broken == "":
            del self.hands[worker]

    def refusal(self, work: Work) -> type[Exception] | None:
        """What the rules say to this commit."""
        partition, expected = work.claim.partition, self.expected
        if expected.holder.get(partition) != work.owner:
            return LostLease
        return Stale if any(self.outdated(partition, o) for o in work.claim.objects) else None

    def outdated(self, partition: str, held: SourceObject) -> bool:
        live = self.expected.live.get((partition, held.slot))
        rank = self.expected.rank
        return live is not None and rank[partition, held.slot, live] > rank[partition, held.slot, held.etag]

    def committed(self, work: Work) -> None:
        partition = work.claim.partition
        del self.expected.holder[partition]
        self.expected.live |= {(partition, o.slot): o.etag for o in work.claim.objects}
        self.expected.commits += len(work.claim.objects)

    def fail(self, work: Work, kind: str, broken: str) -> None:
        ours = self.expected.holder.get(work.claim.partition) == work.owner
        answer = None
        with self.connection(broken):
            answer = self.ledger.fail(work.claim, [outcome(o, kind) for o in work.claim.objects])
        assert answer in (None, ours)
        if ours and broken != "before":
            del self.expected.holder[work.claim.partition]

    def heartbeat(self, work: Work) -> None:
        try:
            self.ledger.heartbeat(work.claim, LEASE)
        except LostLease:
            return
        assert self.expected.holder.get(work.claim.partition) == work.owner

    # Retention and its undoing.

    def expire(self, upto: str, keep: int, broken: str) -> None:
        owner = self.new_name("purge")
        taken: tuple[Purge, ...] = ()
        cutoff = end_of(upto) + MOMENT
        with self.connection(broken):
            taken = self.ledger.expire(SOURCE, cutoff=cutoff, keep_latest=keep, owner=owner, lease=LEASE)
        if broken != "before":
            self.expected.horizon = max(self.expected.horizon, cutoff)
        for partition in PARTITIONS:
            if self.holds(partition, owner):
                adopted = self.expected.state[partition] == "purging"
                assert adopted or partition not in self.expected.pinned
                self.expected.state[partition] = "purging"
                self.expected.holder[partition] = owner
                self.expected.clear(partition)
        self.purges += [(purge, owner) for purge in taken]

    def delete_and_erase(self, purge: Purge, owner: str, broken: str) -> None:
        """A purge goes on, perhaps long after others went by; it is not told whether it is still wanted."""
        self.delete(purge.uri)
        ours = self.expected.holder.get(purge.partition) == owner
        refused = False
        with self.connection(broken):
            try:
                self.ledger.erase(purge)
            except LostLease:
                refused = True
        assert refused != ours
        if ours and broken != "before":
            self.expected.state[purge.partition] = "purged"
            del self.expected.holder[purge.partition]

    def forget(self) -> None:
        self.ledger.forget(SOURCE)
        for partition, state in list(self.expected.state.items()):
            if state == "purged" and end_of(partition) < self.expected.horizon:
                del self.expected.state[partition]
                self.expected.pinned.discard(partition)

    def delete(self, uri: str | None) -> None:
        self.store = {name: content for name, content in self.store.items() if name[0] != uri}

    def admit(self, partition: str, broken: str) -> None:
        with self.connection(broken):
            self.ledger.admit(SOURCE, partition, end_of(partition))
        if broken != "before" and self.expected.state.get(partition, "purged") == "purged":
            self.expected.state[partition] = "open"
            self.expected.pinned.add(partition)

    # Reconcile.

    def delete_orphans(self) -> None:
        """The listing may be old; the ledger is read after it."""
        wanted = {row.uri for row in self.ledger.partitions() if row.state != "purged"}
        for uri in self.listing - wanted:
            self.delete(uri)

    def repair(self, partition: str, broken: str) -> None:
        owner = self.new_name("reconcile")
        held = self.ledger.hold(SOURCE, partition, owner=owner, lease=LEASE)
        if held is None:
            return
        self.expected.uris.add(held.uri)
        self.expected.holder[partition] = owner
        with self.connection(broken):
            self.ledger.repair(held)
        if broken != "before":
            del self.expected.holder[partition]
            self.expected.unpublish(partition)

    # What must hold at every moment.

    @invariant()
    def all_is_well(self) -> None:
        rows = {row.partition: row for row in self.ledger.partitions(SOURCE)}
        assert {key: row.state for key, row in rows.items()} == self.expected.state, (
            "nothing comes back by itself"
        )
        for partition, state in self.expected.state.items():
            self.readers_get_what_was_committed(partition)
            states = {(o.slot, o.etag): o.state for o in self.ledger.objects(SOURCE, partition)}
            if state == "open":
                self.no_object_is_lost(partition, states)
            assert state != "purged" or not states
        counted = sum(c.value for c in self.ledger.counts() if c.name == "files_ingested_total")
        assert counted == self.expected.commits, "a commit counts once"

    def readers_get_what_was_committed(self, partition: str) -> None:
        """No double commit, no version over a newer one, rows and bytes of one snapshot."""
        snapshot = self.ledger.published(SOURCE, partition)
        rows = {str(a["name"]): str(a["etag"]) for a in snapshot.artifacts} if snapshot else {}
        assert rows == {slot: etag for (p, slot), etag in self.expected.live.items() if p == partition}
        if snapshot:
            assert self.store.get((snapshot.uri, snapshot.snapshot)) == rows, "rows and bytes differ"

    def no_object_is_lost(self, partition: str, states: dict[tuple[str, str], str]) -> None:
        """Of each slot sighted, the newest version is live, waits, or is in quarantine."""
        newest: dict[str, tuple[tuple[int, int], str]] = {}
        for (p, slot, etag), rank in self.expected.rank.items():
            if p == partition:
                newest[slot] = max(newest.get(slot, ((-1, -1), "")), (rank, etag))
        for slot, (_, etag) in newest.items():
            assert states[slot, etag] in ("pending", "ingested", "quarantined")

    def teardown(self) -> None:
        try:
            self.heal()
        finally:
            self.ledger.close()
            type(self).dispose(self.url)

    def heal(self) -> None:
        """All are dead. The system alone must publish what waits and finish the purges."""
        self.hands.clear()
        self.clock.advance(timedelta(days=30))
        for purge in self.ledger.expire(SOURCE, cutoff=DAWN, keep_latest=0, owner="last", lease=LEASE):
            self.ledger.erase(purge)
        for partition in PARTITIONS:
            self.clock.advance(LONG_AFTER)
            while self.ledger.has_due(SOURCE, partition):
                claim = self.ledger.claim(SOURCE, partition, owner="last", lease=LEASE)
                if claim is not None:  # None: what was due had no attempts left
                    self.ledger.commit(claim, "last", [published(o) for o in claim.objects])
            assert not self.ledger.has_due(SOURCE, partition)
            states = {o.state for o in self.ledger.objects(SOURCE, partition)}
            assert states <= {"ingested", "superseded", "quarantined"}
            assert self.ledger.partition_state(SOURCE, partition) != "purging"


def outcome(held: SourceObject, kind: str) -> Outcome:
    return Postponed(held, kind) if kind == "postponed" else Failed(held, kind, kind == "permanent")
