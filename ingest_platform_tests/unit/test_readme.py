"""The README says what is there: its make targets, its commands and options, its job line."""

import re
import shlex
from pathlib import Path

import click
import pytest

from ingest_platform.cli import main
from ingest_platform.weather.config import load_models

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))))
def test_every_make_target_of_the_readme_exists(target: str) -> None:
    """Else the first command a user types fails."""
    assert target in TARGETS


@pytest.mark.parametrize("line", re.findall(r"^\| `(ingest [^`]+)`", README, re.MULTILINE))
def test_every_command_of_the_readme_exists_with_its_options(line: str) -> None:
    """Else a cron line copied from the README ends with wrong usage."""
    _, name, *words = shlex.split(re.sub(r"[\[\]]", " ", line))

    command = main.commands[name]

    options = {option for p in command.params if isinstance(p, click.Option) for option in p.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_the_commands_of_the_readme_are_all_there_are() -> None:
    """Else a command is hidden from its users."""
    assert set(re.findall(r"^\| `ingest (\w+)", README, re.MULTILINE)) == set(main.commands)


def test_the_job_line_names_a_job_and_a_partition_of_a_shipped_model() -> None:
    """Else the line that operators copy is refused by Dagster."""
    (line,) = re.findall(r"^dagster job launch .*$", README, re.MULTILINE)
    words = shlex.split(line)

    job, tags = words[words.index("-j") + 1], words[words.index("--tags") + 1]

    models = {f"ingest_{model.id}": model for model in load_models()}
    (partition,) = re.findall(r'"dagster/partition": "([^"]+)"', tags)
    model = models[job]
    assert model.partition_key(model.partition_start(partition)) == partition
