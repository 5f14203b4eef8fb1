"""A worker of the soak: `feed.follow` on the real parts until SIGTERM, in a hurry.

`python -m ingest_platform_tests.pressure.soak_worker <owner>`. What lasts minutes in production lasts seconds
here, so that a few minutes hold many leases, waits and passes; nothing else differs.
"""

import os
import signal
import sys
import threading
from datetime import timedelta

from ingest_platform.catalog import commit, lease
from ingest_platform.settings import Settings
from ingest_platform.weather import discover, feed, ingest
from ingest_platform.weather.config import load_models
from ingest_platform.weather.ingest import Report

LEASE = timedelta(seconds=6)
INTERVAL_SECONDS = 5.0


def hurry() -> None:
    """Leases, waits and the hourly full pass, all about ten to two hundred times shorter."""
    ingest.LEASE = lease.HAND_BACK_WITHIN = LEASE
    commit.FIRST_BACKOFF, commit.LONGEST_BACKOFF = timedelta(seconds=0.5), timedelta(seconds=4)
    discover.FULL_PASS_EVERY = timedelta(seconds=40)


def main() -> None:
    hurry()
    settings, stop = Settings.from_environment(os.environ), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    models = load_models(settings.weather_models, only=["mrms"])
    with feed.open_rails(settings) as rails:
        feed.follow(
            rails, models, owner=sys.argv[1], interval_seconds=INTERVAL_SECONDS, stop=stop, report=_tell
        )


def _tell(report: Report) -> None:
    for error in report.errors:
        sys.stderr.write(f"{report.partition}: {error}\n")


if __name__ == "__main__":
    main()
