"""The ledger's counters as metric families for Prometheus: what adds up, what is shown before the first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from ingest_platform.catalog.model import Count


@dataclass(frozen=True, slots=True)
class CounterOf:
    """One exported counter and the ledger's counters that it adds up."""

    name: str
    help: str
    ledger: tuple[tuple[str, str], ...]  # (ledger's name, value of the label that tells them apart)
    labels: tuple[str, ...] = ("model",)
    # Shown as 0 before the first, so that rate() sees it: the values of all labels after the first.
    known: tuple[str, ...] = ()


def counter(of: CounterOf, counts: Iterable[Count], configured: Mapping[str, Sequence[str]]) -> Metric:
    """`configured`: of a counter's first label the values that are shown before anything was counted."""
    values: dict[tuple[str, ...], float] = {} if of.labels else {(): 0.0}
    if of.labels:
        ids = configured.get(of.labels[0], ())
        values = dict.fromkeys(product(ids, *[of.known] * (len(of.labels) - 1)), 0.0)
    told_apart = dict(of.ledger)
    for count in counts:
        if count.name in told_apart:
            labels = {"outcome": told_apart[count.name], "model": model_of(count), **count.labels}
            key = tuple(labels.get(label, "") for label in of.labels)
            values[key] = values.get(key, 0.0) + count.value
    family = CounterMetricFamily(of.name, of.help, labels=of.labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def model_of(count: Count) -> str:
    """A model that the configuration no longer has keeps its counters."""
    return model_named(count.labels.get("source", ""))


def model_named(source: str) -> str:
    """The label `model` of a source: all organisms are one source, and the model `silo`."""
    return source.partition(".")[2] or source
