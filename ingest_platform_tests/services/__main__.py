"""`python -m ingest_platform_tests.services install|start|stop|endpoints`: the tests' servers by hand.

`start` prints `export` lines; a shell that evaluates them makes pytest use those servers instead of its own.
"""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ingest_platform_tests.services import root
from ingest_platform_tests.services.install import install
from ingest_platform_tests.services.processes import ServerUnavailable, stop_all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. 0 when everything is there or, outside CI, when only a skip of tests is the price."""
    parser = argparse.ArgumentParser(prog="python -m ingest_platform_tests.services", description=__doc__)
    parser.add_argument("verb", choices=("install", "start", "stop", "endpoints"))
    folder = root() / "services"
    match parser.parse_args(arguments).verb:
        case "install":
            return _install()
        case "start":
            return _start(folder)
        case "stop":
            return _stop(folder)
        case _:
            return _endpoints(folder)


def _install() -> int:
    wanting = install()
    for advice in wanting:
        sys.stderr.write(f"{advice}; until then the tests that need it are skipped\n")
    return 1 if wanting and os.environ.get("CI") else 0


def _start(folder: Path) -> int:
    if (folder / "endpoints").exists():
        sys.stderr.write("The servers run already; these are their endpoints:\n")
        return _endpoints(folder)
    # Only here: `install` runs before every test session and needs no database driver.
    from ingest_platform_tests.services.endpoints import start_all

    folder.mkdir(parents=True)
    try:
        endpoints = start_all(folder)
    except ServerUnavailable as error:
        _stop(folder)
        sys.stderr.write(f"{error}\n")
        return 1
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in endpoints.items()]
    (folder / "endpoints").write_text("".join(lines))
    return _endpoints(folder)


def _stop(folder: Path) -> int:
    for name in stop_all(folder):
        sys.stderr.write(f"stopped {name}\n")
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _endpoints(folder: Path) -> int:
    if not (folder / "endpoints").exists():
        sys.stderr.write("No servers run; `make services` starts them.\n")
        return 1
    sys.stdout.write((folder / "endpoints").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
