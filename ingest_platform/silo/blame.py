"""What a failed import means for the version that it was to import: nobody's fault, or a person's decision.

An organism has one slot, and a version that is given up blocks it for up to an hour. So all that may heal is
tried again, ever later: a count that raced with a submission, a stream cut short, a definition file that lags
behind, an engine that was killed, a disk that was full.
"""

from datetime import timedelta

from ingest_platform.catalog.lease import is_blameless
from ingest_platform.catalog.model import Failed, Outcome, Postponed, SourceObject
from ingest_platform.errors import IngestError, PermanentError, TransientError


class RowsLost(PermanentError):
    """A release has so many records fewer that a person must say that it is meant."""


def outcomes_of(item: SourceObject, error: BaseException) -> list[Outcome]:
    """What the ledger is told. Nothing for what nobody foresaw: an attempt is used, as by a killed worker."""
    told = f"{type(error).__name__}: {error}"
    match error:
        case RowsLost():
            return [Failed(item, told, permanent=True)]
        case TransientError(retry_after=wish):
            return [Postponed(item, told, timedelta(seconds=wish) if wish else None)]
        case IngestError():
            # Our configuration: as soon as it is corrected, the same version is imported.
            return [Postponed(item, told)]
    return [Postponed(item, told)] if is_blameless(error) else []
