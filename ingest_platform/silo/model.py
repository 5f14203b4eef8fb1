"""What an organism is: its settings, as a YAML file or a container's environment gives them.

No I/O, no network, no Dagster.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ingest_platform.yaml_file import UNSHOWN

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def _without_password(url: object) -> object:
    """Errors, ledger and status page show addresses. An @ in the path is no password."""
    if isinstance(url, str) and re.match(r"\w*:?/*[^/?#]*@", url):
        raise PydanticCustomError(
            UNSHOWN, "has user:password@, and addresses are shown to many. Leave it out"
        )
    return url


def _to_be_continued(url: str) -> str:
    if {"?", "#"} & set(url):
        raise ValueError("the rest of an address is put behind this one, so it has no ? or #")
    return url


HttpUrl = Annotated[
    str, StringConstraints(pattern=r"^https?://[^\s/]+(/\S*)?$"), BeforeValidator(_without_password)
]
BaseUrl = Annotated[HttpUrl, AfterValidator(_to_be_continued)]


class Settings(BaseModel):
    """Frozen; an unknown key is an error, so that a typo cannot pass for a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Timeouts(Settings):
    """How long a server may take."""

    connect_seconds: float = Field(
        default=30, gt=0, description="Until a connection stands; upstream's newest importer waits 30 s too"
    )
    read_seconds: float = Field(
        default=300,
        gt=0,
        description="Between two bytes; upstream's only limit, as its database thinks first",
    )
    total_seconds: float = Field(
        default=3600, gt=0, description="For a whole download, against a stream that drips"
    )


class EngineSettings(Settings):
    """Who builds the index."""

    kind: Literal["rhydb", "cli", "sentinel"] = Field(
        default="rhydb",
        description="rhydb: its Python wheel in a child process; cli: a binary; sentinel: a"
        " runner in another container, told by files",
    )
    binary: Path | None = Field(default=None, description="cli: path of the silo or rhydb binary")
    exchange: Path | None = Field(
        default=None, description="sentinel: folder shared with the runner, its input"
    )
    timeout_seconds: float = Field(default=3600, gt=0, description="Until a build is killed")

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        if (self.binary is None) != (self.kind != "cli"):
            raise ValueError("binary: the cli engine needs it, the others have none")
        if (self.exchange is None) != (self.kind != "sentinel"):
            raise ValueError("exchange: the sentinel engine needs it, the others have none")
        return self


class Organism(Settings):
    """One organism of a Loculus instance."""

    id: Name = Field(description="Partition, and name in commands and metrics")
    backend_url: BaseUrl = Field(description="http://host:8079/<organism>; what precedes /get-released-data")
    lineage_definitions: dict[Name, dict[int, HttpUrl]] = Field(
        default_factory=dict,
        description="Lineage system → pipeline version → URL of its definition file; the system is the stem"
        " of the file that generateLineageIndex names",
    )
    hierarchical_filters: dict[Name, BaseUrl] = Field(
        default_factory=dict,
        description="Metadata field → URL of the service that makes <field>.yaml for the field's values:"
        " <url>/silo-lineage",
    )
    preprocessing_config: Path | None = Field(
        default=None,
        description="SILO's preprocessing_config.yaml; the files that it names lie beside it. Only a"
        " sentinel engine does without: its runner has them",
    )
    database_folder: Path | None = Field(
        default=None,
        description="Folder of the files that preprocessing_config names; without it they lie beside it",
    )
    output: Path = Field(description="Folder that SILO's API polls; its numeric folders are indexes")
    poll_interval_seconds: int = Field(default=30, ge=1, description="Time between two conditional requests")
    hard_refresh_seconds: int = Field(
        default=3600,
        ge=0,
        description="Time after which everything is looked at again, unchanged ETag or not",
    )
    keep: int = Field(default=2, ge=1, description="Valid indexes that stay in the output folder")
    row_drop_limit: float = Field(
        default=0.5, ge=0, le=1, description="Share of rows that a release may lose before it is refused"
    )
    timeouts: Timeouts = Field(
        default_factory=Timeouts,
        description="For the backend; a server of lineage files or hierarchies has 60 s at most",
    )
    engine: EngineSettings = Field(default_factory=EngineSettings, description="Who builds the index")

    @model_validator(mode="before")
    @classmethod
    def _without_trailing_slashes(cls, given: object) -> object:
        if isinstance(given, dict) and isinstance(given.get("backend_url"), str):
            return {**given, "backend_url": given["backend_url"].rstrip("/")}
        return given

    @model_validator(mode="after")
    def _engine_knows_the_database(self) -> Self:
        if self.preprocessing_config is None and self.engine.kind != "sentinel":
            raise ValueError(f"preprocessing_config: the {self.engine.kind} engine cannot do without it")
        return self

    @model_validator(mode="after")
    def _systems_have_versions(self) -> Self:
        for system, versions in self.lineage_definitions.items():
            if not versions or min(versions) < 1:
                raise ValueError(f"lineage_definitions.{system}: expected versions from 1 with their URLs")
        return self

    @model_validator(mode="after")
    def _no_two_make_one_file(self) -> Self:
        if both := sorted(self.hierarchical_filters.keys() & self.lineage_definitions.keys()):
            raise ValueError(
                f"hierarchical_filters.{both[0]}: lineage_definitions makes {both[0]}.yaml already"
            )
        return self
