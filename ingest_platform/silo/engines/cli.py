"""Any silo or rhydb binary that has a `preprocessing` command, as a child process."""

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ingest_platform.errors import PermanentError
from ingest_platform.silo.engines.contract import Built, the_index
from ingest_platform.silo.engines.process import run, scrubbed
from ingest_platform.silo.inputs import Inputs
from ingest_platform.silo.stopping import NEVER

# Each program refuses unknown names under its own prefix only, and older ones have other options.
CONFIG_VARIABLES = ("SILO_PREPROCESSING_CONFIG", "RHYDB_PREPROCESSING_CONFIG")


@dataclass(frozen=True, slots=True)
class CliEngine:
    """A binary of SILO's own release."""

    binary: Path
    environ: Mapping[str, str] = field(repr=False)

    @property
    def identity(self) -> str:
        """Its bytes: programs tell their version in different ways. PermanentError if it is not there."""
        try:
            with self.binary.open("rb") as file:
                return f"{self.binary.name} {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
        except OSError as error:
            raise PermanentError(
                f"{self.binary}: the engine's binary cannot be read: {error}. Nothing was built. Correct"
                " engine.binary."
            ) from error

    def build(
        self, inputs: Inputs, staging: Path, *, timeout_seconds: float, stop: threading.Event = NEVER
    ) -> Built:
        """As the contract says; `inputs` must have been laid out for `staging`."""
        began = time.monotonic()
        log_tail = run(
            [str(self.binary), "preprocessing"],
            environment=scrubbed(self.environ, **dict.fromkeys(CONFIG_VARIABLES, str(inputs.config))),
            folder=inputs.folder,
            log=inputs.folder / "engine.log",
            timeout_seconds=timeout_seconds,
            stop=stop,
        )
        return Built(the_index(staging, log_tail), log_tail, time.monotonic() - began)
