"""The two families of failure: another try may help, or it cannot.

IngestError
├── TransientError            retried with jitter inside the step, then by the ledger
│   ├── SourceUnavailable     5xx, throttling, network: not the object's fault
│   ├── SourceChanged         412: the object became another version while it was read
│   ├── Incomplete            the source has not finished publishing the object
│   ├── StoreUnavailable      our own store did not take or give bytes
│   ├── LostLease             another worker holds the partition
│   ├── Stale                 a newer version was published, or the object's row is gone
│   └── Damaged               404, wrong length, bad framing: a file burns an attempt, a release waits
└── PermanentError            quarantined at once; only a person or a new version helps

Every message names the object, what was expected and found, what is still safe, and the remedy.
"""


class IngestError(Exception):
    """Root of everything this platform raises on purpose."""


class TransientError(IngestError):
    """Trying again may help. `retry_after` is the source's own wish, in seconds."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SourceUnavailable(TransientError):
    """The source answered 5xx or 429, or the network broke."""


class SourceChanged(TransientError):
    """The source object is no longer the version that was discovered."""


class Incomplete(TransientError):
    """The source has not finished publishing the object."""


class StoreUnavailable(TransientError):
    """Our own store failed to take or give bytes."""


class LostLease(TransientError):
    """The partition's token moved on: another worker holds it."""


class Stale(TransientError):
    """A newer version of a slot was published meanwhile, or the object's row is gone."""


class Damaged(TransientError):
    """The object itself is missing or damaged; after the last attempt it is quarantined."""


class PermanentError(IngestError):
    """No retry can help: bad configuration, an unknown format, a refused object."""
