"""Somebody who looks at what ended, again and again, and tells a receiver that answers as the test wants."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from ingest_platform.operations.watch.alerts import (
    Ending,
    Kind,
    Outcome,
    Undelivered,
    Watch,
    deliver,
    judge,
    summary,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TICK = timedelta(seconds=30)
Answer = Literal["taken", "refused", "lost"]


@dataclass
class Desk:
    """The sensor's loop over a history that the test writes; its state passes through text at every look."""

    now: datetime = NOON
    history: list[Ending] = field(default_factory=list)
    cursor: str | None = None
    came: list[Mapping[str, Any]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)  # then all are taken
    seconds: float = 20.0

    def ends(
        self, name: str, outcome: Outcome, *, kind: Kind = "job", ago: float = 0.0, **facts: Any
    ) -> None:
        at = self.now - timedelta(seconds=ago)
        self.history.append(Ending(f"e{len(self.history)}", kind, name, at, outcome, **facts))

    def look(self) -> str:
        self.now += TICK
        watch = Watch.parse(self.cursor, self.now)
        endings = [ending for ending in self.history if ending.at > watch.since(self.now)]
        told, refusal = deliver(judge(watch, endings, looked_at=self.now), self._post, lambda: self.seconds)
        self.cursor = told.text()
        return summary(told, refusal)

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(told["event"], told["name"]) for told in self.came]

    def _post(self, message: Mapping[str, object]) -> None:
        answer = self.answers.pop(0) if self.answers else "taken"
        if answer != "refused":
            self.came.append(message)
        if answer != "taken":
            raise Undelivered("The receiver answered 500.")
