"""What a check says, before anybody draws it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of one check. `severe` tells an operator's alarm from a remark."""

    passed: bool
    message: str
    severe: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
