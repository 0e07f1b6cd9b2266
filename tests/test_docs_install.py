"""docs/install.md: its commands are commands, its settings are settings, and what it says of folders is so."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from llm2rec_kit import cli, settings
from llm2rec_kit.fitting import tracking

PAGE = (Path(__file__).parents[1] / "docs" / "install.md").read_text()
COMMANDS = re.findall(r"(?m)^!?(llm2rec [^#\n]*)", PAGE)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_one(line):
    args = cli._parser().parse_args(shlex.split(line)[1:])
    assert callable(args.command)


def test_the_page_shows_commands_and_every_tracker():
    assert len(COMMANDS) >= 5
    for tracker in settings.TRACKERS[1:]:
        assert f"`{tracker}`" in PAGE


def test_every_setting_named_is_one():
    known = {f"{stage.prefix}.{f.name}" for stage in settings.STAGES for f in dataclasses.fields(stage)}
    named = set(re.findall(r"\b((?:csft|mntp|contrastive|backbone|evaluation)\.[a-z_]+)", PAGE))
    assert named
    assert named <= known


def test_the_variables_that_are_set_are_named():
    source = Path(tracking.__file__).read_text()
    for name in re.findall(r"(?m)^ +([A-Z_]{6,})=", source):
        assert f"`{name}`" in PAGE, name
