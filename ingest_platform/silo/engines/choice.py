"""Which engine an organism's settings ask for."""

from collections.abc import Mapping

from ingest_platform.errors import PermanentError
from ingest_platform.silo.engines.cli import CliEngine
from ingest_platform.silo.engines.contract import Engine
from ingest_platform.silo.engines.rhydb import RhydbEngine
from ingest_platform.silo.engines.sentinel import SentinelEngine
from ingest_platform.silo.model import Organism


def engine_of(organism: Organism, environ: Mapping[str, str]) -> Engine:
    """The engine of `organism`; `environ` is what its processes inherit of."""
    settings = organism.engine
    match settings.kind:
        case "rhydb":
            return RhydbEngine(environ)
        case "cli" if settings.binary is not None:
            return CliEngine(settings.binary, environ)
        case "sentinel" if settings.exchange is not None:
            return SentinelEngine(settings.exchange, organism.output)
    raise PermanentError(f"{organism.id}: engine {settings.kind} lacks its binary or exchange folder")
