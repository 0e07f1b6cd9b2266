"""Runs: reuse, staleness, damage, interruption, and files written by several at once."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from llm2rec_kit import runs, storage
from llm2rec_kit.runs import ArtefactError, Run, one_paragraph_errors, write_json


@pytest.fixture
def run(tmp_path) -> Run:
    return Run("toy", tmp_path)


def make(run, name, text="x", settings=None, inputs=(), **more):
    """Make an artefact of one file and return how often its build ran (0 or 1)."""
    calls = []

    def build(folder):
        calls.append(1)
        file = f"{name.split('/')[-1]}.txt" if "/" in name else "file.txt"
        (folder / file).write_text(text)
        return {"length": len(text)}

    run.make(name, build, settings=settings or {}, inputs=inputs, **more)
    return len(calls)


def test_second_make_reuses_and_says_so(run, capsys):
    assert make(run, "corpus") == 1
    assert make(run, "corpus") == 0
    assert "corpus: reused, nothing changed" in capsys.readouterr().out
    assert run.record("corpus") == {"length": 1}
    assert (run.require("corpus") / "file.txt").read_text() == "x"


def test_changed_settings_are_named(run, capsys):
    make(run, "csft", settings={"steps": 1, "seed": 3})
    assert make(run, "csft", "y", settings={"steps": 2, "seed": 3}) == 1
    assert "redoing, changed: settings.steps" in capsys.readouterr().out
    assert make(run, "csft", "y", settings={"steps": 2, "seed": 3}) == 0


def test_a_changed_input_redoes_and_an_equal_one_does_not(run):
    make(run, "corpus", "one")
    make(run, "csft", inputs=["corpus"])
    make(run, "corpus", "one", force=True)
    assert make(run, "csft", inputs=["corpus"]) == 0
    make(run, "corpus", "two", force=True)
    assert make(run, "csft", inputs=["corpus"]) == 1


def test_force_redoes(run):
    make(run, "corpus")
    assert make(run, "corpus", "z", force=True) == 1
    assert (run.path_of("corpus") / "file.txt").read_text() == "z"


def test_stale_agrees_with_make(run):
    assert run.stale("corpus", settings={"a": 1})
    make(run, "corpus", settings={"a": 1})
    assert not run.stale("corpus", settings={"a": 1})
    assert run.stale("corpus", settings={"a": 2})
    assert run.stale("corpus", settings={"a": 1}, force=True)


@pytest.mark.parametrize("name", ["corpus", "embeddings/raw"])
def test_a_damaged_file_is_named_never_used_and_redone(run, name):
    make(run, name)
    file = next(p for p in run.path.rglob("*.txt"))
    file.write_text("!")
    with pytest.raises(ArtefactError, match=f"{file.name} is damaged"):
        run.require(name)
    with pytest.raises(ArtefactError, match="is damaged"):
        make(run, "next", inputs=[name])
    assert make(run, name) == 1
    assert run.require(name)
    file.unlink()
    with pytest.raises(ArtefactError, match=f"{file.name} is missing"):
        run.require(name)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": {}}'])
def test_a_damaged_manifest_is_named_and_redone(run, text):
    make(run, "corpus")
    (run.path / "corpus" / "manifest.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"manifest\.json is damaged.*01_data_prep"):
        run.require("corpus")
    assert make(run, "corpus") == 1


@pytest.mark.parametrize(
    ("name", "notebook"),
    [
        ("corpus", "01_data_prep"),
        ("csft", "02_csft"),
        ("embeddings/raw", "03_item_embedding"),
        ("evaluation/games/SASRec-raw-seed1", "04_downstream_eval"),
        ("maps", "05_embedding_maps"),
    ],
)
def test_a_missing_artefact_names_its_notebook(run, name, notebook):
    with pytest.raises(ArtefactError, match=f"Run notebooks/{notebook}.ipynb first"):
        run.require(name)


def test_file_artefacts_live_side_by_side(run):
    for name in ("embeddings/raw", "embeddings/csft", "evaluation/games/SASRec-id-seed1"):
        make(run, name)
    assert run.names("embeddings") == ["embeddings/csft", "embeddings/raw"]
    assert run.names("evaluation") == ["evaluation/games/SASRec-id-seed1"]
    assert run.path_of("embeddings/raw").with_suffix(".txt").is_file()
    assert make(run, "embeddings/raw") == 0


def test_a_hidden_parent_folder_hides_nothing(tmp_path):
    run = Run("toy", tmp_path / ".cache" / "outputs")
    make(run, "embeddings/raw")
    assert run.names("embeddings") == ["embeddings/raw"]


def test_a_file_artefact_may_hold_folders(run):
    def build(folder):
        (folder / "raw").mkdir()
        (folder / "raw" / "part.txt").write_text("x")
        (folder / "empty").mkdir()

    run.make("embeddings/raw", build, settings={})
    assert (run.path / "embeddings" / "raw" / "part.txt").read_text() == "x"
    assert run.require("embeddings/raw")


@pytest.mark.parametrize("bad", [float("nan"), object()])
def test_a_record_that_cannot_be_kept_costs_no_work(run, bad):
    def build(folder):
        (folder / "file.txt").touch()
        return {"loss": bad}

    with pytest.raises(ValueError, match="record of 'csft'"):
        run.make("csft", build, settings={})
    assert not run.has("csft")
    assert (run.path / ".csft.partial" / "file.txt").is_file()


def test_what_a_failed_build_left_is_kept_for_the_same_settings_only(run):
    def fails(folder):
        (folder / "checkpoint").write_text("half")
        raise RuntimeError("power")

    for name, settings, kept in (("csft", {"a": 1}, True), ("mntp", {"a": 2}, False)):
        with pytest.raises(RuntimeError):
            run.make(name, fails, settings={"a": 1})
        assert not run.has(name)
        seen = []
        run.make(name, lambda folder, seen=seen: seen.append((folder / "checkpoint").exists()), settings=settings)
        assert seen == [kept]


KILLED = """
    import os, signal, sys
    from llm2rec_kit.runs import Run

    def build(folder):
        done = folder / "step"
        if done.exists():
            (folder / "result").write_text("resumed from " + done.read_text())
            return {}
        done.write_text("1")
        os.kill(os.getpid(), signal.SIGKILL)

    Run("toy", sys.argv[1]).make(sys.argv[2], build, settings={"steps": 2})
"""


@pytest.mark.parametrize("name", ["csft", "embeddings/raw"])
def test_kill_9_leaves_no_artefact_and_the_next_make_resumes(tmp_path, name):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), name]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    run = Run("toy", tmp_path)
    assert not run.has(name)
    assert run.names("embeddings") == []
    with pytest.raises(ArtefactError, match="first"):
        run.require(name)
    assert subprocess.run(command).returncode == 0
    assert run.require(name)
    result = run.path_of(name) / "result" if name == "csft" else run.path / "embeddings" / "result"
    assert result.read_text() == "resumed from 1"


def test_a_torn_swap_of_folders_is_redone(run, monkeypatch):
    make(run, "corpus", "old")
    replace, moves = os.replace, []

    def dies_between(source, target):
        if str(source).endswith(".corpus.partial"):
            raise KeyboardInterrupt
        moves.append(source)
        return replace(source, target)

    monkeypatch.setattr(os, "replace", dies_between)
    with pytest.raises(KeyboardInterrupt):
        make(run, "corpus", "new", force=True)
    monkeypatch.undo()
    assert not run.has("corpus")
    assert make(run, "corpus", "new") == 1
    assert (run.require("corpus") / "file.txt").read_text() == "new"
    assert sorted(p.name for p in run.path.iterdir() if p.is_dir()) == ["corpus"]


def test_json_is_whole_while_several_write_it(tmp_path):
    file, bad = tmp_path / "a.json", []

    def write(k):
        for _ in range(25):
            write_json(file, {"by": k, "filler": [k] * 2000})
            value = json.loads(file.read_text())
            if value["filler"] != [value["by"]] * 2000:
                bad.append(value["by"])

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not bad
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_stages_finished_at_once_are_all_in_run_json(run, monkeypatch):
    monkeypatch.setattr(runs.run, "collect_provenance", dict)
    threads = [threading.Thread(target=make, args=(run, f"embeddings/e{k}")) for k in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(run.read_info()["stages"]) == sorted(f"embeddings/e{k}" for k in range(16))


def test_what_another_process_is_making_is_not_looked_into(run, monkeypatch):
    make(run, "embeddings/raw")
    working = run.path / "embeddings" / ".csft.partial"
    (working / "deep").mkdir(parents=True)
    scandir = os.scandir

    def gone(folder):
        if ".csft.partial" in str(folder):
            raise FileNotFoundError(folder)  # moved to its place just now
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", gone)
    assert run.artefacts() == ["embeddings/raw"]


@pytest.mark.parametrize("name", ["csft", "embeddings/raw"])
@pytest.mark.parametrize("at", ["hash_files", "write_json"])
def test_what_is_built_is_not_built_again_when_finishing_was_interrupted(run, monkeypatch, capsys, name, at):
    make(run, name, "old", settings={"k": 0})
    built = []

    def build(folder):
        built.append(folder)
        (folder / f"{Path(name).name}.txt").write_text("hours of work")
        return {"loss": 1.5}

    def fails(*given):
        raise {"hash_files": KeyboardInterrupt, "write_json": OSError(errno.ENOSPC, "No space left on device")}[at]

    with monkeypatch.context() as patch:
        patch.setattr(runs.working_folder if at == "hash_files" else runs.run, at, fails)
        with pytest.raises((KeyboardInterrupt, ArtefactError)):
            run.make(name, build, settings={"k": 1})
    assert run.record(name) == {"length": 3}  # the old one is there as it was
    cost = json.loads(next(run.path.rglob(".key.json")).read_text())["built"]["cost"]
    run.make(name, build, settings={"k": 1})
    assert "all was built when it was interrupted" in capsys.readouterr().out
    assert len(built) == 1
    assert run.record(name) == {"loss": 1.5}
    assert run.file(name, f"{Path(name).name}.txt").read_text() == "hours of work"
    assert run.read_info()["stages"][name]["seconds"] == cost["seconds"]
    assert not list(run.path.rglob(".key.json"))


def test_what_a_crash_of_the_machine_cut_short_is_built_again(run, monkeypatch):
    built = []

    def build(folder):
        built.append((folder / "weights").exists())
        (folder / "weights").write_bytes(b"x" * 100)

    with monkeypatch.context() as patch:
        patch.delattr(runs.working_folder, "hash_files")
        with pytest.raises(AttributeError):
            run.make("csft", build, settings={})
    (run.path / ".csft.partial" / "weights").write_bytes(b"x" * 60)
    run.make("csft", build, settings={})
    assert built == [False, False]
    assert (run.require("csft") / "weights").stat().st_size == 100


def test_write_json_keeps_the_old_text_when_it_fails(tmp_path):
    write_json(tmp_path / "a.json", {"a": np.float32(1.5), "b": np.arange(2), "c": tmp_path})
    before = (tmp_path / "a.json").read_text()
    assert json.loads(before) == {"a": 1.5, "b": [0, 1], "c": str(tmp_path)}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert (tmp_path / "a.json").read_text() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".hidden", "a/"])
def test_a_run_name_is_one_plain_folder(tmp_path, name):
    with pytest.raises(ValueError, match="one plain folder name"):
        Run(name, tmp_path)


def test_provenance_and_stage_times(run):
    make(run, "corpus", settings={"seed": 1})
    about = run.read_info()
    assert about["stages"]["corpus"]["settings"] == {"seed": 1}
    assert about["stages"]["corpus"]["seconds"] >= 0
    assert about["stages"]["corpus"]["peak_memory_mib"] > 10
    assert about["versions"]["torch"].startswith("2.13.0")
    assert about["machine"]["cores"] == os.cpu_count()


def test_errors_are_one_paragraph_and_exit_2(capsys):
    with pytest.raises(SystemExit) as stop, one_paragraph_errors():
        raise ArtefactError("no corpus")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "llm2rec: no corpus\n"
    with pytest.raises(KeyError), one_paragraph_errors():
        raise KeyError("a bug keeps its traceback")


# -- what a manifest and a name may reach ------------------------------------------------------------------------------


def forged(run, name, files):
    """Have a finished artefact's manifest name other files, its seal right."""
    path = run.manifest_path(name)
    storage.write_note(path, json.loads(path.read_text()) | {"files": files})
    return path


@pytest.mark.parametrize("name", ["corpus", "evaluation/d/a"])
@pytest.mark.parametrize(
    "file", ["../../../victim", "..", "/tmp/victim", "link/victim", ".", "a/../../victim", "\0", "\ud800"]
)
def test_a_manifest_reaches_nothing_outside_its_folder(run, tmp_path, name, file):
    make(run, name)
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    run.manifest_path(name).parent.joinpath("link").symlink_to(tmp_path)
    path = forged(run, name, {file: runs.hash_file(victim)})
    for ask in (run.require, run.record, run.digest):
        with pytest.raises(ArtefactError, match=r"is damaged|cannot be read") as stop:
            ask(name)
        assert str(path.parent) in str(stop.value)
        assert "\n" not in str(stop.value)
    other = Run("other", tmp_path)
    with pytest.raises(ArtefactError):
        other.link_from(run, name)
    run.forget(name)
    assert not run.has(name)
    assert make(run, name) == 1
    assert victim.read_text() == "theirs"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "toy", "victim"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../other", "evaluation/../../x", "/tmp/x", "a/.hidden/b", ".x", "out/x", "a\0b"]
)
def test_an_artefacts_name_stays_in_the_run(run, tmp_path, name):
    (run.path / "out").symlink_to(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for ask in (run.path_of, run.require, run.forget, lambda name: make(run, name)):
        with pytest.raises(ArtefactError, match=r"leads out of|has no part that"):
            ask(name)
    assert run.has(name) is False  # also where something of that name is there
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_begun_through_a_link_is_begun_anew(run, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (run.path / ".csft.partial").symlink_to(theirs)
    make(run, "csft")
    assert not list(theirs.iterdir())
    assert not (run.path / "csft").is_symlink()


def test_a_file_where_a_folder_is_to_be_is_named_or_put_aside(run, capsys):
    (run.path / "csft").write_text("mine")
    make(run, "csft")
    assert (run.path / "csft.damaged").read_text() == "mine"
    assert "csft.damaged" in capsys.readouterr().out
    assert run.artefacts() == ["csft"]
    (run.path / "evaluation").write_text("mine")
    with pytest.raises(ArtefactError, match="evaluation is no folder"):
        make(run, "evaluation/d/a")


def test_manifests_and_notes_of_earlier_versions_are_taken_as_they_are(run, capsys):
    make(run, "corpus", settings={"seed": 3})
    for path in (run.manifest_path("corpus"), run.path / "run.json"):
        older = json.loads(path.read_text())
        del older["seal"]
        for stage in older.get("stages", {}).values():
            del stage["seal"]
        path.write_text(json.dumps(older))
    assert make(run, "corpus", settings={"seed": 3}) == 0
    assert run.read_info()["stages"]["corpus"]["seconds"] >= 0
    assert run.read_info()["seeds"] == {"corpus": 3}
    assert "damaged" not in capsys.readouterr().out


def test_what_is_taken_from_another_run_or_the_store_keeps_its_seal(run, tmp_path):
    (tmp_path / ".store").mkdir()
    make(run, "corpus")
    one, two = Run("one", tmp_path), Run("two", tmp_path)
    one.link_from(run, "corpus")
    assert make(two, "corpus") == 0
    manifests = [json.loads(r.manifest_path("corpus").read_text()) for r in (run, one, two)]
    assert all(m == manifests[0] and storage.is_sealed(m) and "seal" in m for m in manifests)
    assert list(one.read_info()["stages"]) == list(two.read_info()["stages"]) == ["corpus"]


# -- run.json ----------------------------------------------------------------------------------------------------------


def test_another_runs_run_json_is_put_aside(run, tmp_path, capsys):
    other = Run("other", tmp_path)
    for one, text in ((run, "x"), (other, "y")):
        one.write_info("asked", {"profile": one.name})
        make(one, "corpus", text, settings={"seed": 1})
        make(one, "csft", text, settings={"seed": 2})
    (run.path / "run.json").write_bytes((other.path / "run.json").read_bytes())
    about = run.read_info()
    assert (about["asked"], sorted(about["stages"])) == ({}, ["corpus", "csft"])
    assert "seconds" not in about["stages"]["corpus"]
    assert "none of the stages that it notes" in capsys.readouterr().out
    assert (run.path / "run.json.damaged").read_bytes() == (other.path / "run.json").read_bytes()
    make(run, "csft", "z", settings={"seed": 3})
    assert run.read_info()["stages"]["csft"]["seconds"] >= 0
    assert run.read_info()["seeds"] == {"corpus": 1, "csft": 3}


def test_a_renamed_run_keeps_all_and_a_stage_that_is_gone_is_not_shown(run, tmp_path):
    run.write_info("asked", {"profile": "demo"})
    make(run, "corpus", settings={"seed": 1})
    make(run, "csft")
    run.path.rename(tmp_path / "mine")
    run = Run("mine", tmp_path)
    assert (run.read_info()["name"], run.read_info()["asked"]) == ("mine", {"profile": "demo"})
    assert sorted(run.read_info()["stages"]) == ["corpus", "csft"]
    run.forget("csft")
    assert list(run.read_info()["stages"]) == ["corpus"]


def test_a_run_without_run_json_is_still_found(run, tmp_path):
    make(run, "corpus", settings={"seed": 1})
    (run.path / "run.json").unlink()
    assert runs.find("toy", tmp_path).read_info()["stages"]["corpus"]["settings"] == {"seed": 1}
    with pytest.raises(ValueError, match="There is no run 'none'"):
        runs.find("none", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="is no folder"):
        Run("file", tmp_path)
