"""The code location: the sources, what keeps them healthy, and the resources they share."""

import dagster as dg

from ingest_platform.operations.defs import definitions as operations
from ingest_platform.resources import resources
from ingest_platform.silo.defs import definitions as silo
from ingest_platform.weather.defs import definitions as weather

defs = dg.Definitions.merge(
    weather(),
    silo(),
    operations(),
    dg.Definitions(resources=resources(), executor=dg.in_process_executor),
)
