"""Embeddings in files: the same as in memory, resumed after kill -9, shared out over processes."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_corpus
from tokenizers import normalizers

from llm2rec_kit import cli
from llm2rec_kit.encoding import encoder
from llm2rec_kit.encoding.encoder import Encoder
from llm2rec_kit.settings import Backbone, Encoding
from llm2rec_kit.storage.npy_writer import RowFile, share

TITLES = [f"{t} {k}" for k in range(4) for t in make_corpus().titles] + make_corpus().titles * 2
CPU = Backbone(device="cpu")


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(encoder, "WINDOW", 10)


@pytest.fixture
def folder(tiny, tmp_path):
    """A saved encoder."""
    Encoder(*tiny).save(tmp_path / "encoder")
    return tmp_path / "encoder"


def left(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.name.startswith("."))


def test_a_file_holds_what_memory_holds(tiny, tmp_path, small_windows):
    subject = Encoder(*tiny)
    found = subject.encode(TITLES, out=tmp_path / "deep" / "e.npy")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, subject.encode(TITLES))
    np.testing.assert_array_equal(np.load(tmp_path / "deep" / "e.npy"), found)
    table = subject.table(TITLES, out=tmp_path / "t.npy")
    np.testing.assert_array_equal(table, subject.table(TITLES))
    np.testing.assert_array_equal(np.load(tmp_path / "t.npy"), table)
    assert left(tmp_path) == left(tmp_path / "deep") == []
    assert subject.encode([], out=tmp_path / "none.npy").shape == np.load(tmp_path / "none.npy").shape == (0, 32)
    assert subject.table([], out=tmp_path / "none.npy").tolist() == [[0.0] * 32]


KILLED = """
import os, signal, sys
from llm2rec_kit.encoding import encoder
from llm2rec_kit.storage import npy_writer
from llm2rec_kit.settings import Backbone
encoder.WINDOW = 10
from test_encoder_files import CPU, TITLES
write, calls = npy_writer.RowFile.write, 0
def killed(self, start, block):
    global calls
    calls += 1
    if calls == 4:
        if sys.argv[3] == "half":
            os.pwrite(self._file, block.tobytes()[: 100], self._data + start * self.dim * 4)
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, start, block)
npy_writer.RowFile.write = killed
encoder.Encoder.load(sys.argv[1], place=CPU).table(TITLES, out=sys.argv[2])
"""


@pytest.mark.parametrize("how", ["whole", "half"])
def test_kill_9_and_going_on_gives_the_same_bytes(folder, tmp_path, small_windows, monkeypatch, how):
    out, subject = tmp_path / "e.npy", Encoder.load(folder, place=CPU)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(out), how],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert not out.exists()
    assert len(left(tmp_path)) == 2
    seen, vectors = [], subject._vectors
    monkeypatch.setattr(subject, "_vectors", lambda ids: (seen.append(len(ids)), vectors(ids))[1])
    found = subject.table(TITLES, out=out)
    assert len(seen) == -(-len(TITLES) // 10) - 3
    np.testing.assert_array_equal(found, Encoder.load(folder, place=CPU).table(TITLES))
    assert left(tmp_path) == []


@pytest.mark.parametrize("other", ["titles", "model", "settings", "rope", "tokenizer"])
def test_what_something_else_left_is_not_gone_on_with(tiny, tmp_path, small_windows, monkeypatch, other):
    model, tokenizer = tiny
    subject, calls = Encoder(model, tokenizer), []

    def interrupted(ids):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(ids)
        return Encoder._vectors(subject, ids)

    monkeypatch.setattr(subject, "_vectors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        subject.encode(TITLES, out=tmp_path / "e.npy")
    assert len(left(tmp_path)) == 2
    titles = TITLES
    if other == "titles":
        titles = [*TITLES[:-1], "another"]
    if other == "model":
        next(model.parameters()).data.mul_(2)
    if other == "rope":
        model = type(model)(
            type(model.config)(**model.config.to_dict() | {"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}})
        )
        model.load_state_dict(tiny[0].state_dict())
    if other == "tokenizer":
        rules = tokenizer.backend_tokenizer
        rules.normalizer = normalizers.Sequence([rules.normalizer, normalizers.Lowercase()])
    changed = Encoder(model, tokenizer, Encoding(pooling="last" if other == "settings" else "mean"))
    np.testing.assert_array_equal(changed.encode(titles, out=tmp_path / "e.npy"), changed.encode(titles))
    assert left(tmp_path) == []


def test_a_mark_without_its_file_is_not_believed(tmp_path):
    file = RowFile(tmp_path / "e.npy", 4, 2, {})
    file.write(0, np.ones((2, 2), np.float32))
    assert RowFile(tmp_path / "e.npy", 4, 2, {}).done == 2
    file.partial.unlink()
    assert RowFile(tmp_path / "e.npy", 4, 2, {}).done == 0


def test_a_title_without_a_token_is_refused_before_the_work_and_leaves_nothing(tiny, tmp_path, monkeypatch):
    subject = Encoder(*tiny)
    monkeypatch.setattr(subject, "_vectors", lambda ids: pytest.fail("titles were computed before the last was looked at"))
    with pytest.raises(ValueError, match="has no token"):
        subject.encode([*TITLES, ""], out=tmp_path / "e.npy")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_can_never_be_finished_are_removed(tiny, tmp_path, small_windows, monkeypatch):
    """As with a tokenizer that knows a title's letters and makes no token of them."""
    subject, calls = Encoder(*tiny), []

    def no_token(titles):
        calls.append(titles)
        if len(calls) == 4:
            raise ValueError("has no token")
        return Encoder._prepare(subject, titles)

    monkeypatch.setattr(subject, "_prepare", no_token)
    with pytest.raises(ValueError, match="has no token"):
        subject.encode(TITLES, out=tmp_path / "e.npy")
    assert len(calls) >= 4
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_a_part_of_the_rows_is_given_the_rest(tmp_path, monkeypatch):
    """Before a disk is full, the system takes what there is room for, without an error."""
    write, rows = os.pwrite, np.arange(12, dtype=np.float32).reshape(4, 3)
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, data[: max(1, len(data) // 2)], at))
    file = RowFile(tmp_path / "e.npy", 4, 3, {})
    file.write(0, rows)
    np.testing.assert_array_equal(file.finish(), rows)


@pytest.mark.parametrize("name", ["*.npy", "a[1].npy", "e.npy"])
def test_only_what_is_left_of_the_same_file_is_removed(tmp_path, name):
    stale, mine = f".{name}.{'0' * 16}.partial", f".{name}.{'0' * 16}.partial.0-of-1"
    others = [f".other.npy.{'0' * 16}.partial", f".{name}.old.npy.{'0' * 16}.partial", f".{name}.partial-notes"]
    for left_over in (stale, mine, *others):
        (tmp_path / left_over).touch()
    file = RowFile(tmp_path / name, 1, 1, {})
    file.write(0, np.ones((1, 1), np.float32))
    file.finish()
    assert left(tmp_path) == sorted(others)


@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
def test_rows_that_were_changed_since_are_computed_again(tmp_path, capsys, shard):
    rows = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    file = RowFile(tmp_path / "e.npy", 8, 3, {}, shard, lead=1)
    for start in range(file.start, file.stop - 1):
        file.write(start, rows[start : start + 1])
    again = RowFile(tmp_path / "e.npy", 8, 3, {}, shard, lead=1)
    assert again.done == file.stop - file.start - 1
    assert capsys.readouterr().out == ""
    data = bytearray(file.partial.read_bytes())
    data[-3 * 4 - 1] ^= 1  # in the last row that is there
    file.partial.write_bytes(data)
    changed = RowFile(tmp_path / "e.npy", 8, 3, {}, shard, lead=1)
    assert changed.done == 0
    assert "not those that were written" in capsys.readouterr().out
    changed.write(file.start, rows[file.start : file.stop])
    assert RowFile(tmp_path / "e.npy", 8, 3, {}, shard, lead=1).done == file.stop - file.start


def test_the_shares_cover_all_rows():
    for rows in (0, 1, 5, 12):
        for world in (1, 2, 3, 7):
            slices = [share(rows, r, world) for r in range(world)]
            assert [i for a, b in slices for i in range(a, b)] == list(range(rows))


def test_each_process_fills_its_slice_and_the_last_one_finishes(tiny, tmp_path, small_windows):
    subject, whole = Encoder(*tiny), Encoder(*tiny).encode(TITLES)
    out = tmp_path / "e.npy"
    for rank in (2, 0, 1):
        assert not out.exists()
        start, stop = share(len(TITLES), rank, 3)
        part = subject.encode(TITLES, out=out, shard=(rank, 3))
        np.testing.assert_allclose(part, whole[start:stop], atol=1e-5)
        np.testing.assert_array_equal(part, subject.encode(TITLES, shard=(rank, 3)))
    np.testing.assert_allclose(np.load(out), whole, atol=1e-5)
    assert left(tmp_path) == []


UNDER_TORCHRUN = """
import sys
import torch.distributed as dist
from llm2rec_kit.encoding import encoder
from test_encoder_files import CPU, TITLES
encoder.WINDOW = 10
dist.init_process_group("gloo")
assert encoder.find_rank() == (dist.get_rank(), 2)
encoder.Encoder.load(sys.argv[1], place=CPU).encode(TITLES, out=sys.argv[2], shard=encoder.find_rank())
dist.barrier()
import os; assert os.path.exists(sys.argv[2])
dist.destroy_process_group()
"""


def test_of_two_that_finish_together_the_slower_one_finds_its_rows(tmp_path):
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    one, other = (RowFile(tmp_path / "e.npy", 4, 2, {}, (rank, 2)) for rank in (0, 1))
    one.write(0, rows[:2])
    other.write(2, rows[2:])
    assert np.array_equal(one.finish(), rows[:2])  # finds both shares done and gives the file its name
    assert np.array_equal(other.read(np.array([2])), rows[2:3])
    assert np.array_equal(other.finish(), rows[2:])
    assert [p.name for p in tmp_path.iterdir()] == ["e.npy"]


def test_two_gloo_processes_fill_one_file(folder, tmp_path):
    script, out = tmp_path / "encode.py", tmp_path / "e.npy"
    script.write_text(UNDER_TORCHRUN)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(folder), str(out)]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(np.load(out), Encoder.load(folder, place=CPU).encode(TITLES), atol=1e-5)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[1]", b'{"pooling": "\xff"}', b'{"pooling": 5}', b'{"max_tokens": "x"}', None]
)
def test_a_damaged_mark_of_an_encoder_is_named(folder, content):
    mark = folder / encoder.MARK
    mark.unlink()
    if content is None:
        mark.symlink_to(mark.name)
    else:
        mark.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged|cannot be read") as stop:
        Encoder.load(folder, place=CPU)
    assert str(folder) in str(stop.value)
    assert "llm2rec.json" in str(stop.value)
    assert "\n" not in str(stop.value)


def test_the_file_of_titles_is_not_replaced_by_their_embeddings(folder, tmp_path, capsys):
    titles = tmp_path / "titles.txt"
    titles.write_text("Chess Set\nStar Harbor\n")
    with pytest.raises(SystemExit):
        cli.main(["encode", str(folder), str(titles), "--to", str(titles), "--device", "cpu"])
    assert "titles.txt holds something else" in capsys.readouterr().err
    assert titles.read_text() == "Chess Set\nStar Harbor\n"
    with pytest.raises(ValueError, match="holds something else"):
        RowFile(titles, 2, 4, {})


@pytest.mark.parametrize("titles", [["Chess", None], ["Chess", 5], "Chess", ["Chess \ud83d"]])
def test_titles_are_a_list_of_texts(tiny, titles):
    with pytest.raises(ValueError, match=r"^(T|t)itles are"):
        Encoder(*tiny).encode(titles)


def test_embeddings_that_are_no_numbers_are_refused(tiny, tmp_path):
    model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("Chess", add_special_tokens=False)["input_ids"][0]] = torch.inf
    with pytest.raises(ValueError, match=r"1 of 2 embeddings .* not finite"):
        Encoder(model, tokenizer).encode(["Chess", "12"], out=tmp_path / "e.npy")
    assert not (tmp_path / "e.npy").exists()
