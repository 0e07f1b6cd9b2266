"""A run's promises: complete or absent, reused when nothing changed, damage named, killed without loss."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from llm2rec_kit.runs import ArtefactError, Run, hash_file, read_records, write_json


def builder(text="x", calls=None):
    def build(folder):
        if calls is not None:
            calls.append(1)
        (folder / "data.txt").write_text(text)
        return {"length": np.int64(len(text))}

    return build


@pytest.fixture
def run(tmp_path):
    return Run("r", tmp_path)


def test_a_finished_artefact_is_reused_and_says_so(run, capsys):
    calls = []
    for _ in range(2):
        path = run.make("corpus", builder(calls=calls), settings={"seed": 1})
    assert len(calls) == 1
    assert "reused" in capsys.readouterr().out
    assert (path / "data.txt").read_text() == "x"
    assert run.record("corpus") == {"length": 1}
    manifest = run.manifest("corpus")
    assert manifest["files"] == {"data.txt": hash_file(path / "data.txt")}
    assert run.read_info()["stages"]["corpus"]["settings"] == {"seed": 1}


def test_changed_settings_changed_input_and_force_redo(run, capsys):
    run.make("corpus", builder("a"), settings={})
    calls = []
    for text, settings, force in (
        ("a", {"k": 1}, False),
        ("a", {"k": 2}, False),
        ("b", {"k": 2}, False),
        ("b", {"k": 2}, True),
    ):
        run.make("corpus", builder(text), settings={"text": text})
        run.make("csft", builder(calls=calls), settings=settings, inputs=["corpus"], force=force)
    assert len(calls) == 4
    said = capsys.readouterr().out
    assert "changed: settings.k" in said
    assert "changed: inputs.corpus" in said
    assert "forced" in said


def test_equal_content_from_other_settings_leaves_what_follows_alone(run):
    calls = []
    for k in (1, 2):
        run.make("corpus", builder(), settings={"k": k})
        run.make("csft", builder(calls=calls), settings={}, inputs=["corpus"])
    assert len(calls) == 1


def test_a_missing_artefact_names_its_notebook(run):
    with pytest.raises(ArtefactError, match=r"no 'csft' yet .* Run notebooks/02_csft.ipynb"):
        run.require("csft")
    with pytest.raises(ArtefactError, match="03_item_embedding"):
        run.make("evaluation/d/a", builder(), settings={}, inputs=["embeddings/raw"])


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_file_is_named_and_never_used(run, damage, capsys):
    path = run.make("corpus", builder(), settings={}) / "data.txt"
    path.write_text("y") if damage == "change" else path.unlink()
    with pytest.raises(ArtefactError, match=r"data.txt is (damaged|missing).*01_data_prep"):
        run.require("corpus")
    run.make("corpus", builder(), settings={})
    assert "data.txt is" in capsys.readouterr().out
    assert run.require("corpus")


def test_a_broken_manifest_is_named(run):
    run.make("corpus", builder(), settings={})
    (run.path / "corpus" / "manifest.json").write_text('{"files": ')
    with pytest.raises(ArtefactError, match=r"manifest.json is damaged"):
        run.require("corpus")
    run.make("corpus", builder(), settings={})
    assert run.require("corpus")


def test_file_artefacts_have_their_manifest_beside_them(run):
    def build(folder):
        np.save(folder / "raw.npy", np.arange(3))
        return {"dim": 3}

    path = run.make("embeddings/raw", build, settings={})
    assert np.load(path.with_suffix(".npy")).tolist() == [0, 1, 2]
    assert json.loads((run.path / "embeddings" / "raw.json").read_text())["record"] == {"dim": 3}
    assert run.names("embeddings") == ["embeddings/raw"]
    assert sorted(p.name for p in (run.path / "embeddings").iterdir()) == ["raw.json", "raw.npy"]


def test_an_error_while_making_leaves_the_old_artefact_and_the_working_folder(run):
    run.make("corpus", builder("old"), settings={"k": 1})

    def broken(folder):
        (folder / "half.txt").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run.make("corpus", broken, settings={"k": 2})
    assert (run.require("corpus") / "data.txt").read_text() == "old"

    def resumed(folder):
        return {"found": (folder / "half.txt").read_text()}

    run.make("corpus", resumed, settings={"k": 2})
    assert run.record("corpus") == {"found": "half"}


def test_what_is_refused_before_a_file_was_written_leaves_no_working_folder(run):
    def refuse(folder):
        (folder / "nothing").mkdir(exist_ok=True)
        raise ValueError("no such data")

    def remove(folder):
        shutil.rmtree(folder)
        raise ValueError("no such data")

    def stop(folder):
        (folder / "step-1").write_text("")
        raise KeyboardInterrupt

    for build in (refuse, remove):
        with pytest.raises(ValueError, match="no such data"):
            run.make("corpus", build, settings={})
        assert not (run.path / ".corpus.partial").exists()
    with pytest.raises(KeyboardInterrupt):
        run.make("corpus", stop, settings={})
    assert (run.path / ".corpus.partial" / "step-1").exists()  # to go on from
    with pytest.raises(ValueError, match="no such data"):
        run.make("corpus", refuse, settings={})
    assert (run.path / ".corpus.partial" / "step-1").exists()


def test_the_working_folder_of_other_settings_is_not_resumed(run):
    def broken(folder):
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.make("corpus", broken, settings={"k": 1})
    path = run.make("corpus", builder(), settings={"k": 2})
    assert not (path / "half.txt").exists()


KILL = """
import os, signal
from llm2rec_kit.runs import Run
def build(folder):
    (folder / "half.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
Run("r", {outputs!r}).make({name!r}, build, settings={{}})
"""


@pytest.mark.parametrize("name", ["corpus", "embeddings/raw"])
def test_kill_9_leaves_no_artefact(run, tmp_path, name):
    done = subprocess.run([sys.executable, "-c", KILL.format(outputs=str(tmp_path), name=name)], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert not run.has(name)
    with pytest.raises(ArtefactError):
        run.require(name)
    assert run.names("embeddings") == []


def test_write_json_is_all_or_nothing(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"k": 1})
    for bad in ({"k": float("nan")}, {"k": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, bad)
    assert json.loads(path.read_text()) == {"k": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_records_are_read_back_from_a_notebook(tmp_path):
    cell = {
        "outputs": [
            {"data": {"application/vnd.llm2rec.record+json": {"name": "csft", "values": {"loss": 1.5}}}},
            {"text": "x"},
        ]
    }
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": [{}, cell]}))
    assert read_records(tmp_path / "n.ipynb") == {"csft": {"loss": 1.5}}


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\nb", "x" * 201, "é" * 101])
def test_a_run_is_one_plain_folder(tmp_path, name):
    with pytest.raises(ValueError, match="plain folder name"):
        Run(name, tmp_path)
