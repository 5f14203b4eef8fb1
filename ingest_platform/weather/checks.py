"""Is the published data whole, plausible and fresh? Verdicts from the ledger's counts and a read-back sample.

Pure but for `read_back`, which opens the published snapshot. Decides nothing about alarms: that is the
caller's, by `Verdict.passed` and `Verdict.severe`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from ingest_platform.catalog.model import Coverage
from ingest_platform.pages.verdict import Verdict
from ingest_platform.weather.model import Kind, Model

if TYPE_CHECKING:
    from ingest_platform.catalog.model import Snapshot
    from ingest_platform.storage.store import Store

# The longest gap that is still weather, not an outage: three missed cycles, scans or observations.
STALE_AFTER_CADENCES = 3
# Reading everything back would double the work. This much is a dozen GFS fields or one 0.5 km satellite band.
READ_BACK_BYTES = 24_000_000
# A mosaic may be dry nearly everywhere and a band dark at night: only a field that is all missing is wrong.
MISSING_SHARE_LIMIT = 0.9999


@dataclass(frozen=True, slots=True)
class Completeness:
    """How much of a partition is live. `missing` names leads (hours) or parameters with too few times."""

    partition: str
    live: int
    expected: int
    missing: tuple[Any, ...]
    overdue: bool

    @property
    def percent(self) -> float:
        return 100.0 * self.live / self.expected if self.expected else 100.0


def completeness_of(model: Model, found: Coverage, now: datetime) -> Completeness:
    """Leads of a cycle, or observations of an hour, against what the model publishes."""
    start = model.partition_start(found.partition)
    overdue = now > start + timedelta(minutes=model.complete_after_minutes)
    if model.kind is Kind.FORECAST:
        expected = model.expected_leads(start)
        live = {seconds // 3600 for seconds in found.leads}
        missing: tuple[Any, ...] = tuple(sorted(set(expected) - live))
        return Completeness(found.partition, len(expected) - len(missing), len(expected), missing, overdue)
    per_hour = 60 // model.cadence_minutes
    counts = {p.name: min(per_hour, found.times.get(p.name, 0)) for p in model.parameters}
    short = tuple(sorted(name for name, count in counts.items() if count < per_hour))
    return Completeness(found.partition, sum(counts.values()), per_hour * len(counts), short, overdue)


def completeness(model: Model, partitions: Sequence[Coverage], now: datetime) -> Verdict:
    """Fails after the deadline with exactly what is missing; before it, tells how far the partition is.

    `partitions`: in order of time. Those between and after them that nothing ever came of count as well.
    """
    found_or_not = sorted((*partitions, *_unheard_of(model, partitions, now)), key=lambda p: p.event_end)
    states = [completeness_of(model, found, now) for found in found_or_not]
    late = [state for state in states if state.overdue and state.missing]
    facts = {
        state.partition: f"{state.live}/{state.expected} ({state.percent:.1f} %)" for state in states[-10:]
    }
    if not late:
        return Verdict(True, "every partition past its deadline is whole", facts=facts)
    told = "; ".join(f"{s.partition}: {list(s.missing)} missing, {s.percent:.1f} % live" for s in late[:10])
    # An hour of radar with one scan less is a remark; a forecast without a lead is an alarm.
    return Verdict(False, told, severe=model.kind is Kind.FORECAST, facts=facts)


def _unheard_of(model: Model, partitions: Sequence[Coverage], now: datetime) -> Iterator[Coverage]:
    """Partitions since the first known one that have no row: the source published nothing of them."""
    known = {found.partition for found in partitions}
    moment = min((model.partition_start(key) for key in known), default=now)
    while moment < now:
        key = model.partition_key(moment)
        if key not in known:
            yield Coverage(key, model.partition_end(key), None, {}, {}, {}, None)
        moment += timedelta(hours=model.partition_hours)


def parameters_seen(model: Model, partitions: Sequence[Coverage]) -> Verdict:
    """A configured parameter that no live grid has is most likely a wrong name in the YAML."""
    seen: Counter[str] = Counter()
    for found in partitions:
        seen.update(found.grids)
    never = [p.name for p in model.parameters if not seen[p.name]]
    if never and seen:
        return Verdict(
            False,
            f"configured but never seen: {', '.join(never)}. Compare variable, level and window with the "
            f"source's inventory, or remove them from {model.id}.yaml.",
            severe=False,
        )
    return Verdict(
        True, f"{len(seen)} of {len(model.parameters)} configured parameters are live", facts=dict(seen)
    )


def source_stale(model: Model, newest: datetime | None, now: datetime) -> Verdict:
    """Fails when the source has published nothing for three cadences over its usual delay."""
    limit = STALE_AFTER_CADENCES * timedelta(minutes=model.cadence_minutes) + timedelta(
        minutes=model.delay_minutes
    )
    if newest is None:
        return Verdict(True, "nothing has been discovered yet", severe=False)
    age = now - newest
    fresh = age <= limit
    told = f"newest object is of {newest:%Y-%m-%dT%H:%M:%S}Z, {age} ago; expected within {limit}"
    remedy = (
        ""
        if fresh
        else f". Look whether {model.id}'s source moved: its buckets and templates are dated in the YAML."
    )
    return Verdict(fresh, told + remedy)


@dataclass(frozen=True, slots=True)
class ReadBack:
    """One live grid as the store gives it now."""

    variable: str
    level: str
    lowest: float
    highest: float
    missing_share: float
    checksum_holds: bool


def read_back(store: Store, snapshot: Snapshot) -> tuple[ReadBack, ...]:
    """Read some grids of the snapshot that the ledger names. Raises icechunk's errors if they are lost.

    Which ones follows from the snapshot's name: a verdict can be repeated, and each parameter has its turn.
    """
    import icechunk
    import numpy as np
    import zarr

    repository = icechunk.Repository.open(store.icechunk_storage(snapshot.uri))
    root = zarr.open_group(repository.readonly_session(snapshot_id=snapshot.snapshot).store, mode="r")
    results = []
    for row in _sampled(snapshot):
        try:
            results.append(_read_grid(root, row))
        except (RuntimeError, ValueError):
            # A codec that cannot decode is a finding, not a failure of the check.
            results.append(ReadBack(row["variable"], row["level"], np.nan, np.nan, 1.0, False))
    return tuple(results)


def _read_grid(root: Any, row: Mapping[str, Any]) -> ReadBack:
    import numpy as np
    from isal import isal_zlib

    array: Any = root[row["array"]]
    level = () if row["level_index"] is None else (row["level_index"],)
    stored = np.ascontiguousarray(array[(row["time_index"], *level)])
    values = stored.astype(np.float32)
    if "_FillValue" in array.attrs:
        packed = np.where(stored == array.attrs["_FillValue"], np.nan, values)
        values = packed * array.attrs["scale_factor"] + array.attrs["add_offset"]
    good = values[np.isfinite(values)]
    return ReadBack(
        row["variable"],
        row["level"],
        float(good.min()) if good.size else np.nan,
        float(good.max()) if good.size else np.nan,
        1 - good.size / values.size,
        row["checksum"] == f"crc32:{isal_zlib.crc32(stored):08x}",
    )


def _sampled(snapshot: Snapshot) -> Iterator[Mapping[str, Any]]:
    """The newest grid of some parameters, until their encoded size reaches the limit; at least one."""
    newest = {row["variable"]: row for row in sorted(snapshot.artifacts, key=itemgetter("valid_time"))}
    # Not a secret: the order only has to differ between snapshots.
    shuffled = random.Random(snapshot.snapshot).sample(sorted(newest), len(newest))  # noqa: S311
    left = READ_BACK_BYTES
    for name in shuffled:
        yield newest[name]
        left -= newest[name]["size_bytes"]
        if left <= 0:
            return


def value_range(model: Model, samples: Sequence[ReadBack]) -> Verdict:
    """Fails for values that nature does not have, and for fields without any value."""
    ranges = {p.name: p.valid_range for p in model.parameters}
    wrong = []
    for sample in samples:
        low, high = ranges.get(sample.variable, (float("-inf"), float("inf")))
        if sample.missing_share > MISSING_SHARE_LIMIT:
            wrong.append(f"{sample.variable} ({sample.level}): {sample.missing_share:.2%} missing")
        elif sample.lowest < low or sample.highest > high:
            found = f"{sample.lowest:g} … {sample.highest:g}"
            wrong.append(f"{sample.variable} ({sample.level}): {found}, possible {low:g} … {high:g}")
    facts = {
        f"{s.variable} {s.level}": f"{s.lowest:.4g} … {s.highest:.4g}, {s.missing_share:.1%} missing"
        for s in samples
    }
    return Verdict(not wrong, "; ".join(wrong) or f"{len(samples)} sampled grids are plausible", facts=facts)


def catalog_store(samples: Sequence[ReadBack]) -> Verdict:
    """Fails when the store gives other bytes than the ledger recorded."""
    wrong = [f"{s.variable} ({s.level})" for s in samples if not s.checksum_holds]
    if wrong:
        return Verdict(False, f"bytes differ from the ledger's checksum: {', '.join(wrong)}. Run reconcile.")
    return Verdict(True, f"{len(samples)} sampled grids are bit for bit what was committed")
