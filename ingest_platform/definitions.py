"""The code location: the sources, and the resources they share."""

import dagster as dg

from ingest_platform.resources import resources
from ingest_platform.weather.defs import definitions as weather

defs = dg.Definitions.merge(
    weather(),
    dg.Definitions(resources=resources(), executor=dg.in_process_executor),
)
