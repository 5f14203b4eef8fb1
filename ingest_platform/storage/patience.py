"""How long and how hard we ask another's server: retries, back-off, and fewer requests when it is tired.

Knows nothing of HTTP: an attempt raises SourceUnavailable when asking again may help, and only that is
retried. A 404, a 403, a changed or damaged object pass through at once.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ingest_platform.errors import SourceUnavailable

# 30 % of requests refused: one in 0.3^(1+5) = 1,400 fails for good and is postponed by the ledger;
# with 3 it would be one in 120, a third of all GFS files of 40 ranges.
MAX_RETRIES = 5
PARALLEL_DOWNLOADS = 8  # 18 MB/s a stream was seen in-region: 69 MB of a GFS hour take 0.5 s instead of 3.7 s
BUDGET_SECONDS = 300.0  # below the heartbeat's lease; then the ledger's backoff is the better waiting room
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
# A wish beyond this is not slept through inside a run that holds a lease: the ledger postpones.
LONGEST_WISH_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Patience:
    """The rules for all requests of one process. Share one instance: its gates are per host."""

    max_retries: int = MAX_RETRIES
    parallel: int = PARALLEL_DOWNLOADS
    budget_seconds: float = BUDGET_SECONDS
    first_delay_seconds: float = FIRST_DELAY_SECONDS
    longest_delay_seconds: float = LONGEST_DELAY_SECONDS
    longest_wish_seconds: float = LONGEST_WISH_SECONDS
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic  # seconds
    random: Callable[[], float] = random.random  # uniform in [0, 1)
    _gates: "dict[str, Gate]" = field(default_factory=dict, repr=False, compare=False)

    def call[T](self, host: str, attempt: Callable[[], T]) -> T:
        """The first answer of `attempt` that is not SourceUnavailable.

        At most 1 + max_retries attempts within budget_seconds; then the last SourceUnavailable is
        raised, its retry_after kept. Waits are drawn from [0, first · 2^n] (full jitter: workers
        that failed together do not come back together), and never shorter than the server's wish.
        """
        gate = self.gate(host)
        deadline = self.clock() + self.budget_seconds
        retries = 0
        while True:
            try:
                return gate.through(attempt)
            except SourceUnavailable as refusal:
                delay = self.delay(retries, refusal.retry_after)
                retries += 1
                if retries > self.max_retries or delay is None or self.clock() + delay > deadline:
                    raise
            self.sleep(delay)

    def delay(self, retries: int, wish: float | None) -> float | None:
        """Seconds to wait after `retries` retries; None: the server's wish is longer than we stay."""
        if wish is not None and wish > self.longest_wish_seconds:
            return None
        ceiling = min(self.longest_delay_seconds, self.first_delay_seconds * 2.0**retries)
        return (wish or 0.0) + self.random() * ceiling

    def gate(self, host: str) -> "Gate":
        return self._gates.setdefault(host, Gate(self.parallel))


class Gate:
    """How many requests one host gets at once: halved when it refuses, one more after a round of successes.

    Between one request and `ceiling`. Refusals of requests that were already under way when the
    gate was halved belong to the same overload and do not halve it again.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = float(max(1, ceiling))
        self._limit = self._ceiling
        self._running = 0
        self._round = 0  # grows at each halving; a request carries the round in which it began
        self._free = threading.Condition()

    @property
    def limit(self) -> int:
        return int(self._limit)

    def through[T](self, attempt: Callable[[], T]) -> T:
        """Run `attempt` when there is room, and learn from its outcome."""
        with self._room() as began:
            try:
                answer = attempt()
            except SourceUnavailable:
                self._halve(began)
                raise
            self._widen()
            return answer

    @contextmanager
    def _room(self) -> Iterator[int]:
        with self._free:
            self._free.wait_for(lambda: self._running < self.limit)
            self._running += 1
            began = self._round
        try:
            yield began
        finally:
            with self._free:
                self._running -= 1
                self._free.notify_all()

    def _halve(self, began: int) -> None:
        with self._free:
            if began == self._round:
                self._round += 1
                self._limit = max(1.0, self._limit / 2)

    def _widen(self) -> None:
        with self._free:
            self._limit = min(self._ceiling, self._limit + 1 / self._limit)


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """Retry-After (RFC 9110, 10.2.3), a number or a date, as seconds from `now`; None if unreadable."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
