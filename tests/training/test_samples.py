"""Prepared samples: on disk as in memory, used again only where they are the same, and never half-written."""

from __future__ import annotations

import doctest
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_corpus
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_csft import bracketed_backbone, bracketed_corpus, official

from llm2rec_kit.fitting import ragged as ragged_arrays
from llm2rec_kit.fitting.ragged import Ragged, compare_pieces, compute_offsets, count_common_prefix, index_spans
from llm2rec_kit.models import backbone
from llm2rec_kit.settings import CSFT, Backbone
from llm2rec_kit.training import samples
from llm2rec_kit.training.samples import prepare


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(ragged_arrays).failed == 0


pieces = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=5)


def ragged(lists) -> Ragged:
    return Ragged.of([np.array(p, dtype=np.int32) for p in lists])


@hypothesis_settings(deadline=None)
@given(pieces, pieces, st.data())
def test_common_prefix_and_take_are_what_a_loop_finds(a, b, data):
    of = np.array([data.draw(st.integers(0, len(b) - 1)) for _ in a])
    wanted = []
    for piece, other in zip(a, (b[i] for i in of), strict=True):
        n = 0
        while n < min(len(piece), len(other)) and piece[n] == other[n]:
            n += 1
        wanted.append(n)
    assert count_common_prefix(ragged(a), ragged(b), of).tolist() == wanted
    others = [b[i] for i in of]
    assert compare_pieces(ragged(a), ragged(others)).tolist() == [x == y for x, y in zip(a, others, strict=True)]
    skip = np.array([data.draw(st.integers(0, len(b[i]))) for i in of])
    taken = ragged(b).take(of, skip)
    assert [taken[k].tolist() for k in range(len(taken))] == [b[i][s:] for i, s in zip(of, skip, strict=True)]


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=6))
def test_spans_are_ranges_one_after_the_other(pairs):
    begins, lengths = (np.array([p[k] for p in pairs], dtype=np.int64) for k in (0, 1))
    assert index_spans(begins, lengths).tolist() == [i for a, n in pairs for i in range(a, a + n)]
    assert compute_offsets(lengths).tolist() == [sum(lengths[:k]) for k in range(len(lengths) + 1)]


def same(a: samples.Samples, b: samples.Samples) -> bool:
    flat = lambda s: (s.history, s.tails, s.answers)  # noqa: E731
    arrays = [(x.flat, y.flat, x.offsets, y.offsets) for x, y in zip(flat(a), flat(b), strict=True)]
    return (
        all(np.array_equal(p, q) and np.array_equal(r, s) for p, q, r, s in arrays)
        and all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("first", "seen", "item", "target"))
        and a.facts == b.facts
    )


@pytest.mark.parametrize("tokenisation", ["apart", "joined"])
def test_in_chunks_and_on_disk_as_in_one_piece_in_memory(tmp_path, monkeypatch, tokenisation):
    corpus, (_, tokenizer) = bracketed_corpus(seed=3), bracketed_backbone()
    settings = CSFT(tokenisation=tokenisation, max_tokens=20)
    whole = prepare(corpus, corpus.targets, tokenizer, settings)
    assert whole.facts["truncated"] > 0
    for chunk in (1, 2, 5):
        monkeypatch.setattr(samples, "CHUNK", chunk)
        monkeypatch.setattr(samples, "TEXTS", chunk)
        assert same(prepare(corpus, corpus.targets, tokenizer, settings), whole)
    on_disk = prepare(corpus, corpus.targets, tokenizer, settings, tmp_path / "made" / "train")
    assert same(on_disk, whole)
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["train"]
    (made,) = (tmp_path / "made" / "train").iterdir()
    assert same(samples.open_samples(made), whole)


def test_large_arrays_are_mapped_not_read(tmp_path, tiny):
    corpus = make_corpus(users=3000)
    found = prepare(corpus, corpus.samples("train"), tiny[1], CSFT(), tmp_path / "train")
    assert isinstance(found.history.flat, np.memmap)
    assert not found.history.flat.flags.writeable


def test_what_was_prepared_is_used_again_until_something_changes(tmp_path, monkeypatch, tiny):
    corpus, settings = make_corpus(), CSFT()
    targets, folder = corpus.samples("train"), tmp_path / "train"
    made = []
    really = samples._prepare
    monkeypatch.setattr(samples, "_prepare", lambda *a: (made.append(1), really(*a))[1])
    for _ in range(2):
        prepare(corpus, targets, tiny[1], replace(settings, steps=7, learning_rate=1.0), folder)
    assert len(made) == 1
    other = backbone.make_tiny(["x y z"], Backbone(hidden=32, layers=1, heads=2, vocabulary=300, device="cpu"))[1]
    renamed = replace(corpus, items=corpus.items.with_columns(title=corpus.items["title"] + "!"))
    for k, changed in enumerate(
        [
            (corpus, targets[:-1], tiny[1], settings),
            (renamed, targets, tiny[1], settings),
            (replace(corpus, max_history=2), targets, tiny[1], settings),
            (corpus, targets, other, settings),
            (corpus, targets, tiny[1], replace(settings, joiner="; ")),
            (corpus, targets, tiny[1], replace(settings, ending="")),
            (corpus, targets, tiny[1], replace(settings, max_tokens=30)),
            (corpus, targets, tiny[1], replace(settings, shared_prefix=False)),
            (corpus, targets, tiny[1], replace(settings, tokenisation="joined")),
        ]
    ):
        assert same(prepare(*changed, folder), really(*changed))
        assert len(made) == k + 2
        assert len(list(folder.iterdir())) == 1


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def of_zeros(path):
    np.save(path, np.zeros_like(np.load(path)))


def shorter(path):
    np.save(path, np.load(path)[:-1])


def emptied(path):
    path.write_bytes(b"")


def gone(path):
    path.unlink()


DAMAGE = [(how, f"{name}.npy") for name in ("history", "seen", "answers", "item") for how in (flipped, of_zeros, shorter)]
DAMAGE += [(halved, "history.npy"), (flipped, "tails_offsets.npy"), (emptied, "first.npy"), (gone, "target.npy")]
DAMAGE += [(halved, "facts.json"), (flipped, "facts.json"), (halved, "complete"), (flipped, "complete"), (gone, "complete")]


@pytest.fixture(scope="module")
def sound(tmp_path_factory, _tiny):
    """Samples in a folder, and the same in memory."""
    corpus, folder = make_corpus(users=300), tmp_path_factory.mktemp("prepared") / "train"
    wanted = prepare(corpus, corpus.samples("train"), _tiny[1], CSFT())
    assert same(prepare(corpus, corpus.samples("train"), _tiny[1], CSFT(), folder), wanted)
    return corpus, folder, wanted


@pytest.mark.parametrize(("how", "name"), DAMAGE)
def test_what_is_damaged_is_made_anew_and_told(sound, tmp_path, tiny, capsys, how, name):
    corpus, folder, wanted = sound
    (made,) = shutil.copytree(folder, tmp_path / "train").iterdir()
    prepare(corpus, corpus.samples("train"), tiny[1], CSFT(), made.parent)
    assert capsys.readouterr().out == ""
    how(made / name)
    assert same(prepare(corpus, corpus.samples("train"), tiny[1], CSFT(), made.parent), wanted)
    assert f"{made} are prepared again: " in capsys.readouterr().out
    assert list(made.parent.iterdir()) == [made]
    assert [p.read_bytes() for p in sorted(made.iterdir())] == [
        p.read_bytes() for p in sorted((folder / made.name).iterdir())
    ]


def test_samples_of_something_else_under_this_name_are_not_used(tmp_path, tiny, capsys):
    corpus, folder = make_corpus(), tmp_path / "train"
    prepare(corpus, corpus.samples("train"), tiny[1], CSFT(), folder)
    (place,) = folder.iterdir()
    prepare(corpus, corpus.samples("valid"), tiny[1], CSFT(), tmp_path / "valid")
    (other,) = (tmp_path / "valid").iterdir()
    shutil.rmtree(place)
    other.rename(place)
    wanted = prepare(corpus, corpus.samples("train"), tiny[1], CSFT())
    assert same(prepare(corpus, corpus.samples("train"), tiny[1], CSFT(), folder), wanted)
    assert "made from something else" in capsys.readouterr().out


def test_what_a_killed_writer_left_goes(tmp_path, tiny):
    corpus, folder = make_corpus(), tmp_path / "train"
    for left in (".partial", ".tmp1a2b"):
        (folder / left).mkdir(parents=True)
        (folder / left / "history.npy").write_bytes(b"half")
    prepare(corpus, corpus.samples("train"), tiny[1], CSFT(), folder)
    assert len(list(folder.iterdir())) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def test_of_processes_that_prepare_the_same_one_does_it_and_the_others_wait(tmp_path, monkeypatch, tiny):
    corpus, folder = make_corpus(), tmp_path / "train"
    really, made, found = samples._prepare, [], []

    def once(*given):
        made.append(1)
        if len(made) == 1:
            other.start()
        return really(*given)

    other = threading.Thread(target=lambda: found.append(prepare(corpus, corpus.samples("train"), tiny[1], CSFT(), folder)))
    monkeypatch.setattr(samples, "_prepare", once)
    first = prepare(corpus, corpus.samples("train"), tiny[1], CSFT(), folder)
    other.join()
    assert same(first, found[0])
    assert len(made) == 1


def test_a_writer_that_fails_leaves_nothing_half_written(tmp_path, monkeypatch, tiny):
    corpus, folder = make_corpus(), tmp_path / "train"
    monkeypatch.setattr(samples, "write_json", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        prepare(corpus, corpus.samples("train"), tiny[1], CSFT(), folder)
    assert list(folder.iterdir()) == []


def test_the_two_tokenisations_are_counted(tiny):
    corpus, (_, tokenizer) = bracketed_corpus(), bracketed_backbone()
    targets = corpus.samples("train")
    wanted = [
        official(tokenizer, corpus, t, CSFT(tokenisation="joined"))[0] != official(tokenizer, corpus, t, CSFT())[0]
        for t in targets
    ]
    assert 0 < sum(wanted) < len(wanted)
    joined = prepare(corpus, targets, tokenizer, CSFT(tokenisation="joined"))
    assert joined.facts["tokenised_otherwise"] == sum(wanted)
    counted = samples.compare_tokenisations(corpus, targets, tokenizer, CSFT())
    assert (counted["compared"], counted["tokenised_otherwise"]) == (len(targets), sum(wanted))
    assert counted["joined_tokens"] < counted["apart_tokens"]
    assert samples.compare_tokenisations(corpus, targets, tokenizer, CSFT(), most=3)["compared"] == 3


def test_settings_of_an_earlier_call_do_not_cut_the_text(tmp_path, tiny):
    _, tokenizer = tiny
    corpus = make_corpus()
    wanted = prepare(corpus, corpus.samples("train"), tokenizer, CSFT(), tmp_path)
    made = list(tmp_path.iterdir())
    tokenizer(["a long title", "x"], truncation=True, max_length=1, padding=True)  # the fast tokenizer keeps these
    assert same(prepare(corpus, corpus.samples("train"), tokenizer, CSFT()), wanted)
    assert same(prepare(corpus, corpus.samples("train"), tokenizer, CSFT(), tmp_path), wanted)
    assert list(tmp_path.iterdir()) == made


def test_a_title_without_tokens_is_named(tiny):
    corpus = make_corpus()
    titles = corpus.titles
    titles[3] = ""
    with pytest.raises(ValueError, match=r"Title '' has no token.*01_data_prep"):
        prepare(replace(corpus, items=corpus.items.with_columns(title=np.array(titles))), corpus.targets, tiny[1], CSFT())
