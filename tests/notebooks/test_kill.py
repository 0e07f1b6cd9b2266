"""kill -9 in the middle of a notebook: the same command goes on from there and ends with the same numbers.

Those of 01, 03 and 05 run with LLM2REC_KILL=all: a minute or two each, and tests/test_runs_faults.py kills what they stand on.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import psutil
import pytest

from llm2rec_kit.runs import Run

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def copied(toy_run, tmp_path):
    """A copy of the finished run, without results.json, and the command that made it, for the copy."""
    shutil.copytree(toy_run.run.path, tmp_path / "toy")
    (tmp_path / "toy" / "results.json").unlink()
    return Run("toy", tmp_path), [*toy_run.words[:-1], str(tmp_path)]


def killed_at(words: list[str], mark: str) -> str:
    """What a command said until a line held `mark`; then it and all its children were killed with signal 9."""
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    said = ""
    for line in running.stdout:
        said += line
        if mark in line:
            break
    else:
        raise AssertionError(f"{mark!r} never came:\n{said[-2000:]}")
    family = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
    assert len(family) > 1  # the kernel at least
    for process in family:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(family[1:])
    running.communicate()
    return said


def finish(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(os.environ.get("LLM2REC_KILL") != "all", reason="LLM2REC_KILL=all runs it; a minute or two each")
@pytest.mark.parametrize(
    ("number", "gone", "mark"),
    [
        ("01", ["corpus"], "corpus: making"),
        ("03", ["mntp", "contrastive", "embeddings", "encoder"], "contrastive: making"),
        ("05", ["maps"], "maps: making"),
    ],
)
def test_killed_where_nothing_is_half_kept(copied, toy_run, number, gone, mark):
    run, words = copied
    for folder in gone:
        shutil.rmtree(run.path / folder)
    killed_at([*words, "--only", number], mark)
    killed = mark.split(":")[0]
    assert not run.has(killed)
    said = finish([*words, "--only", number])
    assert mark in said
    for folder in {killed, *gone} - {"embeddings"}:
        made, before = (r.manifest(folder)["files"] for r in (run, toy_run.run))
        assert made == before  # to the last byte
    if number == "03":
        assert "mntp: reused" in said
    assert (run.path / "results.json").read_bytes() == (toy_run.run.path / "results.json").read_bytes()


def test_killed_in_csft(copied, toy_run):
    run, words = copied
    shutil.rmtree(run.path / "csft")
    killed_at([*words, "--only", "02"], "csft step 5/10")
    assert not run.has("csft")
    said = finish([*words, "--only", "02"])
    assert "backbone: reused" in said
    assert "csft: resuming from checkpoint-3" in said
    assert run.manifest("csft")["files"] == toy_run.run.manifest("csft")["files"]  # weights too, to the last byte
    assert (run.path / "results.json").read_bytes() == (toy_run.run.path / "results.json").read_bytes()


def test_killed_among_the_trainings_of_the_recommenders(copied, toy_run):
    run, words = copied
    shutil.rmtree(run.path / "evaluation")
    killed_at([*words, "--only", "04"], "evaluation/games/SASRec-csft-seed2024:")
    kept = len(run.names("evaluation/games"))
    assert kept >= 2
    said = finish([*words, "--only", "04"])
    assert f"{20 - kept} trainings to do, {kept} reused" in said
    assert (run.path / "results.json").read_bytes() == (toy_run.run.path / "results.json").read_bytes()


def test_killed_among_the_studies(copied, toy_run):
    run, words = copied
    studies = run.path / "experiments"
    shutil.rmtree(studies / ".store")  # whose files the studies hold, too
    for made in [*studies.rglob("*llm2vec*")]:
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    killed_at([*words, "--only", "06"], "llm2vec: making")
    said = finish([*words, "--only", "06"])
    assert "llm2vec: making" in said or "llm2vec: resuming" in said
    assert "csft_mixed: reused" in said
    assert (run.path / "results.json").read_bytes() == (toy_run.run.path / "results.json").read_bytes()
