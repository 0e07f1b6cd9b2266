"""Files made by one at a time; a full or closed disk named in words a user can act on."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from conftest import held
from hypothesis import given
from hypothesis import strategies as st

from llm2rec_kit import storage
from llm2rec_kit.runs import ArtefactError, Run


def test_threads_go_one_at_a_time_and_leave_no_file(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(50):
            with storage.hold_lock(tmp_path / ".lock"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(most) == 400
    assert max(most) == 1
    assert list(tmp_path.iterdir()) == []


HOLD = """
    import sys
    from llm2rec_kit.runs import Run

    def build(folder):
        print("building", flush=True)
        sys.stdin.readline()
        (folder / "who").write_text(sys.argv[2])

    Run("r", sys.argv[1]).make("corpus", build, settings={})
"""


def start(tmp_path, who):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path), who],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_second_process_waits_for_the_first_and_reuses_what_it_made(tmp_path):
    first = start(tmp_path, "first")
    assert first.stdout.readline() == "corpus: making\n"
    assert first.stdout.readline() == "building\n"
    second = start(tmp_path, "second")
    assert "another process is making it" in second.stdout.readline()
    first.communicate("go\n")
    said, _ = second.communicate()
    assert "corpus: reused" in said
    assert (tmp_path / "r" / "corpus" / "who").read_text() == "first"


def test_who_waits_for_a_killed_process_takes_over(tmp_path):
    first = start(tmp_path, "first")
    first.stdout.readline()
    assert first.stdout.readline() == "building\n"
    second = start(tmp_path, "second")
    second.stdout.readline()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    said, _ = second.communicate("go\n")
    assert "corpus: making" in said
    assert (tmp_path / "r" / "corpus" / "who").read_text() == "second"


@pytest.fixture
def mounted(tmp_path):
    """A function that mounts a tmpfs with these options on an empty folder."""
    done = []

    def mount(options: str):
        folder = tmp_path / f"disk{len(done)}"
        folder.mkdir()
        if os.geteuid() != 0:
            pytest.skip("mounting a small disk needs root")
        asked = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if asked.returncode:
            pytest.skip(f"this machine mounts nothing: {asked.stderr.strip()}")
        done.append(folder)
        return folder

    yield mount
    for folder in done:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named_and_nothing_finished_is_lost(mounted):
    run = Run("r", mounted("size=2m"))
    run.make("corpus", lambda folder: (folder / "a").write_bytes(b"x" * 1000) and {}, settings={})

    def large(folder):
        (folder / "b").write_bytes(b"x" * 5_000_000)

    with pytest.raises(
        ArtefactError, match=r"'csft' of run 'r' could not be written: the disk of .*/r is full \(0 MiB free\)"
    ):
        run.make("csft", large, settings={})
    assert run.require("corpus")
    assert not run.has("csft")
    (run.path / ".csft.partial" / "b").unlink()
    run.make("csft", lambda folder: {}, settings={})


def test_a_full_disk_is_seen_through_a_librarys_own_error(mounted):
    run = Run("r", mounted("size=2m"))

    def through_safetensors(folder):
        import torch
        from safetensors.torch import save_file

        save_file({"w": torch.zeros(2_000_000)}, str(folder / "model.safetensors"))

    def through_polars(folder):
        import polars as pl

        pl.DataFrame({"x": range(2_000_000)}).write_parquet(folder / "x.parquet", compression="uncompressed")

    for build in (through_safetensors, through_polars):
        with pytest.raises(ArtefactError, match=r"the disk of .* is full"):
            run.make("csft", build, settings={}, force=True)


def test_a_read_only_place_is_named(mounted):
    disk = mounted("size=1m")
    run = Run("r", disk)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(ArtefactError, match=r"/r cannot be written to \(Read-only file system\).*--outputs"):
        run.make("corpus", lambda folder: {}, settings={})
    with pytest.raises(ArtefactError, match="the folder of run 'new' could not be written"):
        Run("new", disk)
    with pytest.raises(OSError, match=r"Nothing can be made: .* cannot be written to"):
        storage.check_writable(disk / "r")


def test_a_limit_on_file_sizes_is_named(tmp_path):
    code = """
        import resource, sys
        from llm2rec_kit.runs import Run
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        Run("r", sys.argv[1]).make("corpus", lambda folder: (folder / "a").write_bytes(b"x" * 200_000) and {}, settings={})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True)
    assert "may not grow as large as it must (`ulimit -f`" in done.stderr.splitlines()[-1]
    assert not Run("r", tmp_path).has("corpus")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        PermissionError(errno.EACCES, "Permission denied", "/etc/data.csv"),  # the data's, not the run's
        PermissionError(errno.EACCES, "connection refused by the sandbox"),
    ],
)
def test_other_errors_stay_what_they_are(tmp_path, error):
    assert storage.explain_write_error(error, tmp_path) == ""

    def build(folder):
        raise error

    with pytest.raises(type(error)):
        Run("r", tmp_path).make("corpus", build, settings={})


def test_a_place_to_write_is_left_as_it_was(tmp_path):
    storage.check_writable(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Nothing can be made"):
        storage.check_writable(tmp_path / "file" / "run")


def test_a_file_that_could_not_be_written_is_what_it_was(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"old")

    def break_off():
        with storage.write_whole(file) as part:
            assert part.suffix == ".png"
            part.write_bytes(b"ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        break_off()
    assert file.read_bytes() == b"old"
    with storage.write_whole(file) as part:
        part.write_bytes(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_could_not_be_written_is_what_it_was(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("old")
    before = held(tmp_path)

    def break_off(folder):
        with storage.write_whole_folder(folder) as part:
            (part / "half").write_text("x")
            raise KeyboardInterrupt

    for name in ("full", "new", "deep/er/new"):
        with pytest.raises(KeyboardInterrupt):
            break_off(tmp_path / name)
        assert held(tmp_path) == before
    (tmp_path / ".full.partial").mkdir()  # of a killed process
    (tmp_path / ".full.partial" / "half").write_text("x")
    with storage.write_whole_folder(tmp_path / "full") as part:
        (part / "whole").write_text("new")
        assert held(tmp_path / "full") == {"kept": b"old"}
    assert held(tmp_path) == {"full": b"", "full/whole": b"new"}


def test_a_folder_stays_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("old")
    before, replace = held(tmp_path), os.replace

    def refused(source, target):
        if source.name == ".full.partial":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(OSError, match="No space"), storage.write_whole_folder(tmp_path / "full"):
        pass
    assert held(tmp_path) == before


@pytest.mark.parametrize("why", ["the working folder", "mounted"])
def test_a_folder_that_has_to_stay_gets_new_contents(tmp_path, monkeypatch, why):
    folder = tmp_path / "stays"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "kept").write_text("old")
    if why == "mounted":
        monkeypatch.setattr(type(folder), "is_mount", lambda path: path == folder)
    else:
        monkeypatch.chdir(folder)
        folder = type(folder)()
    before, inode = held(tmp_path), folder.stat().st_ino

    def write(error):
        with storage.write_whole_folder(folder) as part:
            (part / "deep").mkdir()
            (part / "deep" / "new").write_text("new")
            assert {name: data for name, data in held(tmp_path).items() if storage.PARTIAL not in name} == before
            raise error

    with pytest.raises(KeyboardInterrupt):
        write(KeyboardInterrupt)
    assert held(tmp_path) == before
    (folder / storage.PARTIAL).mkdir()  # of a killed process
    assert not storage.is_free(folder)
    with storage.write_whole_folder(folder) as part:
        (part / "deep").mkdir()
        (part / "deep" / "new").write_text("new")
    assert held(folder) == {"deep": b"", "deep/new": b"new"}
    assert folder.stat().st_ino == inode
    storage.clear(folder / "deep")
    (folder / storage.PARTIAL).mkdir()
    assert storage.is_free(folder)


def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "there" / "kept.txt")
    for text in ("first", "second"):  # the first makes what the link leads to
        storage.write_text(link, text)
        assert link.is_symlink()
        assert (tmp_path / "there" / "kept.txt").read_text() == text
    assert len(list(tmp_path.rglob("*.txt"))) == 2


@pytest.mark.parametrize("kind", ["a folder", "a named pipe", "a device", "loop", "Not a directory"])
def test_what_is_no_file_is_not_replaced(tmp_path, kind):
    at = tmp_path / "target"
    if kind == "a folder":
        at.mkdir()
    elif kind == "a named pipe":
        os.mkfifo(at)
    elif kind == "a device":
        at.symlink_to("/dev/null")
    elif kind == "loop":
        at.symlink_to(at)
    else:
        at.write_text("a file")
        at = at / "below"
    before = sorted(p.lstat().st_ino for p in tmp_path.iterdir())
    with pytest.raises(ValueError, match=rf"{at}.*({kind}|symbolic links)"):
        storage.write_text(at, "new")
    assert sorted(p.lstat().st_ino for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b"null", b"\xff\xfe", b"[" * 200_000])
def test_a_damaged_note_is_named(tmp_path, content):
    note = tmp_path / "note.json"
    note.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{note} is damaged") as said:
        storage.read_json(note)
    assert len(str(said.value)) < 300 + len(str(note))


def test_a_note_that_is_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        storage.read_json(tmp_path / "none.json")
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder where a file is expected"):
        storage.read_json(tmp_path)
    storage.write_json(tmp_path / "list.json", [1, 2])
    assert storage.read_json(tmp_path / "list.json", list) == [1, 2]


@given(st.text())
def test_a_safe_name_is_one_part_that_is_seen(name):
    try:
        safe = storage.make_safe_name(name)
    except ValueError:
        return
    assert Path(safe).parts == (safe,)
    assert not safe.startswith(".")
    assert not any(ord(c) < 32 or c in "/\\\x7f" for c in safe)
    assert storage.make_safe_name(safe) == safe


@pytest.mark.parametrize("name", ["", "..", "/", " . ", "\n", "x" * 500])
def test_a_name_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match="cannot be the name of a folder"):
        storage.make_safe_name(name)


def test_a_path_out_of_a_file_stays_in_its_folder(tmp_path):
    base = tmp_path / "run"
    base.mkdir()
    (base / "out").symlink_to(tmp_path)
    (base / "loop").symlink_to(base / "loop")
    assert storage.require_inside(base, "a/b.json") == base / "a/b.json"
    for name in ("../x", "a/../../x", "/etc/hosts", "", "out/x", "a\0b", 7):
        with pytest.raises(ValueError, match="leads out of"):
            storage.require_inside(base, name)
    with pytest.raises(ValueError, match="loop"):
        storage.require_inside(base, "loop")


def test_a_file_is_hashed_once_unless_it_has_just_changed(tmp_path, monkeypatch):
    file, hash_file = tmp_path / "file", storage.hash_file
    file.write_bytes(b"one")
    hashed = []
    monkeypatch.setattr(storage, "hash_file", lambda path: hashed.append(path) or hash_file(path))

    def find(seconds: float) -> str:
        monkeypatch.setattr(storage.time, "time_ns", lambda: file.stat().st_ctime_ns + int(seconds * 1e9))
        return storage.hash_file_once(file)

    assert [find(0.5), find(0.5)] == [hash_file(file)] * 2
    assert len(hashed) == 2  # what changes it in the same tick of the clock leaves its times and size as they are
    assert [find(2), find(3), find(0.5)] == [hash_file(file)] * 3
    assert len(hashed) == 4
    before = find(2)
    file.write_bytes(b"two")
    assert find(2) == hash_file(file) != before
