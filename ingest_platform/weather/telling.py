"""Who is told what `ingest run` made: not every batch, but of each partition the last one in the end."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from ingest_platform.weather.ingest import Report

# A materialization a minute and partition is enough for the UI; more would only grow the event log.
AT_MOST_EVERY = timedelta(minutes=1)
# A headline grid has 16 MB: while Dagster is away, a day of five models' hours would be 1.5 GB.
PICTURES_PER_MODEL = 2


@dataclass(slots=True)
class _Waiting:
    """A report that was not sent yet."""

    report: Report


class Teller:
    """Keeps the latest report of each partition until it may be sent, the latest two of a model with picture.

    Threads may share it.
    """

    def __init__(
        self, send: Callable[[Report], None], now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._send = send
        self._now = now
        self._waiting: dict[tuple[str, str], _Waiting] = {}  # the latest last
        self._sent: dict[tuple[str, str], datetime] = {}
        self._lock = threading.Lock()

    def keep(self, report: Report) -> None:
        """Take in one report; the caller, a feed in a hurry, does not wait for anybody."""
        what = report.model.id, report.partition
        with self._lock:
            self._waiting.pop(what, None)
            self._waiting[what] = _Waiting(report)
            self._drop_pictures(report.model.id)

    def _drop_pictures(self, model: str) -> None:
        of_model = [waiting for (id_, _), waiting in self._waiting.items() if id_ == model]
        for waiting in of_model[:-PICTURES_PER_MODEL]:
            waiting.report = replace(waiting.report, headline=None)

    def send_due(self, *, all_of_them: bool = False) -> None:
        """Send what may be sent, or all of it. What `send` raises is the caller's, and nothing is lost."""
        horizon = self._now() - AT_MOST_EVERY
        with self._lock:
            self._sent = {what: at for what, at in self._sent.items() if at > horizon}
            due = [what for what in self._waiting if all_of_them or what not in self._sent]
        for what in due:
            with self._lock:
                waiting = self._waiting[what]
            self._send(waiting.report)
            with self._lock:
                self._sent[what] = self._now()
                if self._waiting[what] is waiting:
                    del self._waiting[what]
