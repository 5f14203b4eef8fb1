"""docs/weather.md says what the code does: its tables are the generated ones, its example loads."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from ingest_platform.weather.config import load_models
from ingest_platform.weather.model import Horizon, LeadRange, Model, Parameter, Source
from ingest_platform.weather.reference import PAGE, tables, with_tables

REMEDY = "Run: python -m ingest_platform.weather.reference"


def test_the_tables_in_the_page_are_the_generated_ones() -> None:
    """Else a user sets what the code no longer knows."""
    page = PAGE.read_text(encoding="utf-8")

    assert page == with_tables(page), REMEDY


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    """Else a table that nobody placed is never shown, and the comparison is empty."""
    with pytest.raises(ValueError, match="no place for the table 'models'"):
        with_tables("# Weather\n")


@pytest.mark.parametrize("section", [Model, Source, Horizon, LeadRange, Parameter])
def test_every_setting_says_what_it_means(section: type[BaseModel]) -> None:
    """Else the table has holes where a user looks for help."""
    assert [name for name, field in section.model_fields.items() if not field.description] == []


def test_every_shipped_array_is_in_the_table_of_grids() -> None:
    """Else a user does not know what can be read."""
    grids = tables()["grids"]

    for model in load_models():
        for parameter in model.parameters:
            assert f"| `{model.id}` | `{parameter.name}` | {parameter.units} |" in grids


def test_the_example_of_a_model_loads(tmp_path: Path) -> None:
    """Else the first thing a user copies fails."""
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "example.yaml").write_text(example, encoding="utf-8")

    (model,) = load_models(tmp_path, only=["mrms_hourly"])

    assert model.parameters[0].product == "MultiSensor_QPE_01H_Pass2_00.00"
