"""The ledger's numbers as metric families for Prometheus: what adds up, what is shown before the first count,
what has no sample.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ingest_platform.catalog.model import Count

type Reading = datetime | timedelta | float


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


def gauges_by(
    label: str, helps: Mapping[str, str], readings: Mapping[str, Mapping[str, Reading | None]]
) -> Iterator[Metric]:
    """A family for each name in `helps`. `readings`: value of the label → name → reading. What never happened
    has no sample: it is neither 0 nor now.
    """
    for name, text in helps.items():
        family = GaugeMetricFamily(name, text, labels=[label])
        for labelled, values in readings.items():
            value = values[name]
            if value is not None:
                family.add_metric([labelled], _number(value))
        yield family


def _number(value: Reading) -> float:
    """Unix time of a moment, seconds of a span."""
    match value:
        case datetime():
            return value.timestamp()
        case timedelta():
            return value.total_seconds()
    return value


def model_of(count: Count) -> str:
    """A model that the configuration no longer has keeps its counters."""
    return model_named(count.labels.get("source", ""))


def model_named(source: str) -> str:
    """The label `model` of a source: all organisms are one source, and the model `silo`."""
    return source.partition(".")[2] or source
