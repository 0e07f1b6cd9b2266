"""Exports, each read back by the tool it is for or by that tool's documented format; `llm2rec encode`."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import held, make_corpus, no_room
from hypothesis import given
from hypothesis import strategies as st

from llm2rec_kit import cli
from llm2rec_kit.encoding.encoder import Encoder
from llm2rec_kit.export import formats
from llm2rec_kit.models import backbone
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.settings import Backbone, Data, Encoding
from llm2rec_kit.storage import tab_separated

CPU = {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def run(tiny, tmp_path):
    """A run with a corpus, an MNTP stage and its embeddings."""
    corpus = make_corpus()
    corpus.items[3, "title"] = 'Tab\there, "quotes" and\na line'
    run, model_and_tokenizer = Run("toy", tmp_path / "outputs"), tiny

    def make_corpus_(folder):
        corpus.save(folder)
        rows = [{"domain": "toy", "users": corpus.n_users, "items": corpus.n_items}]
        return {"source": "synthetic", "split": "leave_one_out", "train_domains": ["toy"], "statistics": rows}

    def make_stage(folder):
        backbone.save(*model_and_tokenizer, folder)
        return {"validation_loss": 1.25, "steps": 10}

    def make_table(folder):
        encoder = Encoder.load(run.require("mntp"), Encoding(pooling="last"), Backbone(**CPU))
        encoder.table(corpus.titles, out=folder / "mntp.npy")
        return {
            "stage": "mntp",
            "encoder": "mntp",
            "dim": encoder.dim,
            "attention": "bidirectional",
            **{k: getattr(encoder.settings, k) for k in ("pooling", "normalise", "max_tokens")},
        }

    run.make("corpus", make_corpus_, settings={})
    stage = {"steps": 10, "batch_size": 4, "learning_rate": 0.001}
    for name in ("csft", "mntp"):
        run.make(name, make_stage, settings=stage, inputs=["corpus"])
    run.make("embeddings/mntp", make_table, settings=CPU, inputs=["corpus", "mntp"])
    return run


def table(run) -> np.ndarray:
    return np.load(run.path_of("embeddings/mntp.npy"))


def test_sentence_transformers_gives_the_run_s_embeddings(run, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    folder = formats.export(run, "sentence-transformers", tmp_path / "out", "mntp")
    found = library.SentenceTransformer(str(folder), device="cpu").encode(make_corpus().titles)
    np.testing.assert_allclose(np.delete(found, 3, 0), np.delete(table(run)[1:], 3, 0), atol=1e-5)
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "sentence-transformers"
    for said in (
        "synthetic: made from a seed",
        "last pooling",
        "| mntp | 10 | 4 | 0.001 |",
        "validation loss 1.25",
        "torch 2",
    ):
        assert said in text
    assert "| contrastive" not in text
    assert "No recommender had been trained" in text


def test_a_folder_read_back_is_compared_with_the_table_by_both_libraries(run, tmp_path, monkeypatch, capsys):
    folder = formats.export(run, "sentence-transformers", tmp_path / "out", "mntp")
    titles, vectors = make_corpus().titles[:3], table(run)[1:4]
    off = vectors.copy()
    off[1, 2] += 0.5
    place = Backbone(**CPU)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert formats.read_back(folder, titles, off, place) == {"the kit": pytest.approx(0.5, abs=1e-5)}
    assert "sentence-transformers is not installed" in capsys.readouterr().out
    monkeypatch.undo()
    pytest.importorskip("sentence_transformers")
    found = formats.read_back(folder, titles, vectors, place)
    assert found == {"the kit": pytest.approx(0, abs=1e-5), "sentence-transformers": pytest.approx(0, abs=1e-5)}


def test_the_encoder_of_a_table_that_was_not_made_of_titles_is_refused(run, tmp_path):
    def copied(folder):
        np.save(folder / "llmemb.npy", table(run))
        return run.record("embeddings/mntp")

    run.make("embeddings/llmemb", copied, settings=CPU | {"text": "attributes"}, inputs=["corpus", "mntp"], quiet=True)
    with pytest.raises(ArtefactError, match=r"made of the items' attributes, not of their titles.*in the format npy"):
        formats.export(run, "sentence-transformers", tmp_path / "out", "llmemb")
    assert (formats.export(run, "npy", tmp_path / "npy", "llmemb") / "embeddings.npy").exists()


FROM_HUB = {"name": "Qwen/Qwen2-0.5B", "from_nothing": False}
OWN = {"attention": "bidirectional", "pooling": "mean", "normalise": "none"}
OF_A_BASELINE = {"attention": "as_trained", "pooling": "as_saved", "normalise": "unit"}


def carded(run, encoder, how, backbone=FROM_HUB, *, stage="", **data) -> str:
    """The card of an embedding, in a run with that backbone record and, where given, those settings of data."""
    if data:
        corpus = make_corpus()
        corpus = replace(corpus, items=corpus.items.with_columns(plain_title="title"))
        record = run.record("corpus") | ({"source": "amazon + synthetic"} if data["source"] == "mix" else {})
        run.make("corpus", lambda f: (corpus.save(f), record)[1], settings=data, quiet=True)
    run.make("backbone", lambda f: backbone, settings=backbone, quiet=True)
    about = {"stage": stage or encoder, "encoder": encoder, "dim": 32, **how}
    run.make("embeddings/one", lambda f: about, settings=about, quiet=True)
    return formats.write_card(run, "one")


def test_the_card_of_a_trained_stage_names_what_it_came_from_and_what_it_read(run):
    text = carded(run, "mntp", OWN)
    assert "Item titles to vectors of 32 numbers: mean pooling over the last hidden states, bidirectional attention" in text
    assert "CSFT, then MNTP, from Qwen/Qwen2-0.5B as it came." in text
    assert "read the training samples of the domains toy, and then the texts of all their items; nothing of others" in text
    alone = carded(run, "csft", OWN, {"name": "/home/me/models/mine", "from_nothing": False})
    assert ": CSFT, from mine as it came." in alone
    assert "/home/me" not in alone
    assert "of all their items" not in alone
    assert "from random weights" in carded(run, "csft", OWN, {"name": "tiny", "from_nothing": True})


def test_the_card_that_is_kept_in_a_run_holds_nothing_that_changes_after_it_or_is_another_run_s(run, monkeypatch):
    carded(run, "mntp", OWN)
    kept = formats.write_kept_card(run, "one")
    monkeypatch.setattr(formats, "_results", lambda run, stage: "| SASRec | 0.1234 |")
    whole = formats.write_card(run, "one")
    assert formats.write_kept_card(run, "one") == kept
    assert "| SASRec | 0.1234 |" in whole
    assert "toy, embedding one" in whole
    assert "run toy" not in kept
    others = [line for line in whole.splitlines() if "0.1234" not in line and not line.startswith("# Item encoder")]
    assert set(others) < set(kept.splitlines())
    assert [said for said in ("llm2rec export", "not been", "notebook 04") if said in kept] == ["llm2rec export"]


def test_the_card_of_what_was_not_trained_claims_no_training(run):
    raw = carded(run, "backbone", OWN, stage="raw")
    assert "The backbone of the run, Qwen/Qwen2-0.5B as it came: nothing was trained." in raw
    nothing = carded(run, "backbone", OWN, {"name": "tiny", "from_nothing": True}, stage="raw")
    assert "The backbone of the run, random weights: nothing was trained." in nothing
    assert "Its tokenizer alone was learned, from the texts of the domains toy." in nothing
    baseline = carded(run, "BAAI/bge-large-en-v1.5", OF_A_BASELINE, stage="baseline")
    assert "pooling and attention as the model came with them, length one. A baseline: BAAI/bge-large-en-v1.5" in baseline
    for text in (raw, baseline):
        assert "The model has learned nothing of it." in text
        assert "Not by this run." in text
        assert "trained on" not in text
        assert "LLM2Rec" not in text
        assert "llm2rec]" not in text


def test_the_card_tells_texts_from_titles_and_the_synthetic_part_of_a_mix(run):
    text = carded(run, "mntp", OWN, source="table", text="{title}. {brand}", text_words=20)
    assert "Item texts of the form `{title}. {brand}` (20 words at most) to vectors" in text
    mixed = carded(run, "mntp", OWN, source="mix", text="{title}", text_words=0)
    assert "{title}" not in mixed
    assert "(synthetic: made from a seed, no real shop)" in mixed


def test_the_card_names_the_step_whose_weights_were_kept(run):
    record = run.record("mntp") | {"kept_step": 7}
    run.make("mntp", lambda f: record, settings=run.manifest("mntp")["settings"], inputs=["corpus"], force=True, quiet=True)
    text = carded(run, "mntp", OWN)
    assert "| csft | 10 | 4 | 0.001 |" in text
    assert "| mntp | 7 | 4 | 0.001 |" in text


def test_npy_says_which_row_is_which_item(run, tmp_path):
    folder = formats.export(run, "npy", tmp_path / "out", "mntp")
    found = np.load(folder / "embeddings.npy")
    np.testing.assert_array_equal(found, table(run))
    items = pl.read_csv(folder / "items.csv")
    assert items["row"].to_list() == list(range(1, len(found)))
    assert items["source_id"][4] == "i4"
    assert items["title"][3] == 'Tab\there, "quotes" and\na line'
    assert json.loads((folder / "embeddings.json").read_text())["pooling"] == "last"


def with_titles(run, titles, **more) -> None:
    """The run's corpus with these first titles, and with what `more` says of all."""
    corpus = make_corpus()
    for at, title in enumerate(titles):
        corpus.items[at, "title"] = title
    corpus = replace(corpus, items=corpus.items.with_columns(**more))
    vectors, record = table(run), run.record("embeddings/mntp")
    run.make("corpus", lambda f: (corpus.save(f), run.record("corpus"))[1], settings={"other": 1}, quiet=True)
    made = {"settings": CPU, "inputs": ["corpus"], "quiet": True}
    run.make("embeddings/mntp", lambda f: (np.save(f / "mntp.npy", vectors), record)[1], **made)


NASTY = [
    '"Quoted" title',
    'say "hi"',
    '"open',
    "NA",
    "tab\there",
    "two\nlines",
    "line\u2028end",
    "back\\slash",
    " spaces ",
    '"',
]


def test_items_csv_is_read_alike_by_polars_and_python(run, tmp_path):
    with_titles(run, NASTY)
    file = formats.export(run, "npy", tmp_path / "out", "mntp") / "items.csv"
    wanted = NASTY + make_corpus().titles[len(NASTY) :]
    assert pl.read_csv(file)["title"].to_list() == wanted
    with file.open(newline="") as opened:
        assert [row["title"] for row in csv.DictReader(opened)] == wanted


def test_a_column_of_the_items_called_row_has_another_name_and_that_is_told(run, tmp_path, capsys):
    """`write_items` is what npy, adapted, recommender and faiss have in common."""
    with_titles(run, [], row=pl.lit("aisle 3"), row_=pl.lit(7))
    items = pl.read_csv(formats.export(run, "npy", tmp_path / "out", "mntp") / "items.csv")
    assert items["row"].to_list() == list(range(1, 17))
    assert set(items["row__"]) == {"aisle 3"}
    assert set(items["row_"]) == {7}
    assert "out: the items' own column row is called row__ in items.csv" in capsys.readouterr().out


def as_recbole(file) -> list[list[str | None]]:
    """A .item file as RecBole 1.2.1 reads it: pandas.read_csv(file, delimiter="\\t", dtype=str, engine="python"), which is
    Python's csv with pandas' default dialect, and its words for missing."""
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(
            csv.reader(opened, delimiter="\t", quotechar='"', doublequote=True, quoting=csv.QUOTE_MINIMAL, strict=True)
        )
    assert {len(row) for row in rows} == {len(rows[0])}
    return [[None if cell in tab_separated.PANDAS_MISSING else cell for cell in row] for row in rows[1:]]


def words(title: str) -> list[str]:
    """The tokens that RecBole makes of a `token_seq`."""
    return [word for word in title.split(" ") if word]


def test_recbole_reads_every_title_and_is_told_what_was_changed(run, tmp_path, capsys):
    with_titles(run, NASTY, domain=pl.lit('"odd" domain'))
    folder = formats.export(run, "recbole", tmp_path / "games", "mntp")
    rows = as_recbole(folder / "games.item")
    titles = NASTY + make_corpus().titles[len(NASTY) :]
    assert [int(row[0]) for row in rows] == list(range(1, len(titles) + 1))
    assert [words(row[1]) for row in rows] == [words(re.sub("[\t\n\u2028]", " ", title)) for title in titles]
    assert {row[2] for row in rows} == {' "odd" domain'}
    said = "3 with a tab, line break or other control character have a space in its place and 20 that begin with a quote"
    assert said in capsys.readouterr().out
    head = [line for line in (folder / "games.yaml").read_text().split("\n") if line.startswith("#")]
    assert said in head[1]


def test_nothing_is_told_where_nothing_was_changed(run, tmp_path, capsys):
    with_titles(run, [])
    folder = formats.export(run, "recbole", tmp_path / "games", "mntp")
    assert capsys.readouterr().out == ""
    assert [row[1] for row in as_recbole(folder / "games.item")] == make_corpus().titles
    assert (folder / "games.yaml").read_text().count("#") == 2  # how to call it, and that there are no times
    assert "'data_path': the folder that this file's folder is in" in (folder / "games.yaml").read_text()


ODD = st.text(st.sampled_from('NAn"ul \t\n\r\\\0\x0b\x1c\x85\u2028\u2029\ufeff'), max_size=5)


@given(st.lists(st.one_of(ODD, st.none(), st.sampled_from(sorted(tab_separated.PANDAS_MISSING))), min_size=1, max_size=4))
def test_every_reader_of_tab_separated_text_sees_the_same(tmp_path_factory, texts):
    file = tmp_path_factory.getbasetemp() / "odd.tsv"
    rows = range(len(texts))
    tab_separated.write(pl.DataFrame({"n": rows, "text": texts, "end": "e"}, schema_overrides={"text": pl.String}), file)
    plain = [line.split("\t") for line in file.read_bytes().decode().removesuffix("\n").split("\n")][1:]
    assert as_recbole(file) == [[n, text or None, end] for n, text, end in plain]
    assert len(file.read_text().splitlines()) == len(texts) + 1
    shown = [re.sub(tab_separated.BREAKS, " ", text or "") for text in texts]
    assert [text for _, text, _ in plain] == [
        " " + t if t.startswith('"') or t in tab_separated.PANDAS_MISSING - {""} else t for t in shown
    ]


def atomic(file) -> tuple[list[str], list[list[str]]]:
    """A RecBole atomic file by its documented format: a typed header, tab-separated."""
    head, *rows = [line.split("\t") for line in file.read_bytes().decode().removesuffix("\n").split("\n")]
    assert all(re.fullmatch(r"\w+:(token|token_seq|float|float_seq)", h) for h in head)
    assert {len(r) for r in rows} == {len(head)}
    return [h.split(":")[0] for h in head], rows


def test_recbole_s_atomic_files(run, tmp_path):
    corpus = make_corpus()
    folder = formats.export(run, "recbole", tmp_path / "games", "mntp")
    assert sorted(p.name for p in folder.iterdir()) == ["games.inter", "games.item", "games.itememb", "games.yaml"]
    names, rows = atomic(folder / "games.inter")
    assert names == ["user_id", "item_id", "timestamp"]
    for user in range(corpus.n_users):
        own = sorted((float(t), int(i)) for u, i, t in rows if int(u) == user)
        assert [i for _, i in own] == corpus.sequence[corpus.offsets[user] : corpus.offsets[user + 1]].tolist()
    names, rows = atomic(folder / "games.item")
    assert rows[3] == ["4", 'Tab here, "quotes" and a line', "toy", "i3"]
    names, rows = atomic(folder / "games.itememb")
    assert names == ["iid", "iemb"]
    found = np.array([[float(x) for x in r[1].split(" ")] for r in rows], dtype=np.float32)
    np.testing.assert_array_equal(found, table(run)[1:])
    settings = yaml.safe_load((folder / "games.yaml").read_text())
    assert settings["preload_weight"] == {"iid": "iemb"}
    assert settings["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]}  # this corpus names no leave_one_out in its facts


@pytest.mark.parametrize(
    ("facts", "rule", "alone"),
    [
        ({"split": "leave_one_out"}, {"LS": "valid_and_test"}, True),
        ({"split": "released", "split_rules": {"toy": "leave_one_out"}}, {"LS": "valid_and_test"}, True),
        ({"split": "released", "split_rules": {"toy": "global_time"}}, {"RS": [0.8, 0.1, 0.1]}, True),
        ({"split": "global_time"}, {"RS": [0.8, 0.1, 0.1]}, False),
        (
            {"split": "released", "split_rules": {"toy": "leave_one_out", "other": "global_time"}},
            {"RS": [0.8, 0.1, 0.1]},
            False,
        ),
        ({"split": "leave_one_out"}, {"LS": "valid_and_test"}, False),
        ({"split": "given"}, {"RS": [0.8, 0.1, 0.1]}, True),
    ],
)
def test_recbole_is_told_the_split_or_that_it_has_another(facts, rule, alone):
    corpus = replace(make_corpus(), facts=facts)
    if not alone:
        other = pl.when(pl.int_range(pl.len()) < pl.len() - 1).then("domain").otherwise(pl.lit("other")).alias("domain")
        corpus = replace(corpus, items=corpus.items.with_columns(other))
    text = formats._recbole_settings(corpus, "games")
    assert yaml.safe_load(text)["eval_args"]["split"] == rule
    assert ("each domain by itself" in text) == ("RS" in rule and not alone)
    assert ("samples are those that the source gave" in text) == (facts["split"] == "given")
    assert ("has no times" in text) == ("RS" in rule)


def test_the_kit_reads_its_own_recbole_export(run, tmp_path):
    from llm2rec_kit.data import sources

    corpus = make_corpus()
    folder = formats.export(run, "recbole", tmp_path / "games", "mntp")
    found = sources.load(Data(source="recbole", path=str(folder)))
    events = found.events.sort("time", maintain_order=True).group_by("user", maintain_order=True).agg("item")
    lists = {int(user): [int(i) for i in items] for user, items in events.iter_rows()}
    for user in range(corpus.n_users):
        assert lists[user] == corpus.sequence[corpus.offsets[user] : corpus.offsets[user + 1]].tolist()
    titles = dict(found.items.select("source_id", "title").iter_rows())
    assert titles["1"] == corpus.titles[0]


def test_the_projector_s_files(run, tmp_path):
    folder = formats.export(run, "projector", tmp_path / "out", "mntp")
    config = (folder / "projector_config.pbtxt").read_text()
    paths = dict(re.findall(r'(\w+_path): "([^"]+)"', config))
    assert re.fullmatch(r"embeddings \{\n(  \w+: \"[^\"]*\"\n)+\}\n", config)
    tensors = [[float(x) for x in line.split("\t")] for line in (folder / paths["tensor_path"]).read_text().splitlines()]
    np.testing.assert_array_equal(np.array(tensors, dtype=np.float32), table(run)[1:])
    head, *rows = [line.split("\t") for line in (folder / paths["metadata_path"]).read_text().splitlines()]
    assert head == ["title", "domain", "interactions", "item"]
    assert len(rows) == len(tensors)
    assert rows[3][0] == 'Tab here, "quotes" and a line'
    assert sum(int(r[2]) for r in rows) == len(make_corpus().sequence)


def test_what_stands_at_the_target_is_not_written_into(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(p.name for p in tmp_path.iterdir())
    for name, says in (
        ("mine", "not an empty folder"),
        ("mine/thesis.txt", "not an empty folder"),
        ("link", "mine exists and"),
        ("loop", "Nothing can be written"),
        ("pipe", "not an empty folder"),
    ):
        with pytest.raises(ValueError, match=says):
            formats.export(run, "npy", tmp_path / name, "mntp")
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize("kind", [kind for kind in formats.FORMATS if kind not in formats.OF_A_RECOMMENDER])
def test_a_failed_export_leaves_nothing(run, tmp_path, kind):
    (tmp_path / "empty").mkdir()
    before = held(tmp_path)
    for to in ("new", "deep/er/new", "empty"):
        with no_room(), pytest.raises(Exception, match=r"(?i)too large|write|I/O|os error"):
            formats.export(run, kind, tmp_path / to, "mntp")
        assert held(tmp_path) == before


def test_what_a_killed_export_left_goes_with_the_next(run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / ".empty.partial").mkdir()
    (tmp_path / ".empty.partial" / "half").write_text("x")
    assert formats.export(run, "npy", tmp_path / "empty", "mntp") == tmp_path / "empty"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "outputs"]
    assert "half" not in held(tmp_path / "empty")


def test_what_cannot_be_exported_is_said(run, tmp_path):
    with pytest.raises(ValueError, match="no format 'csv'"):
        formats.export(run, "csv", tmp_path / "out", "mntp")
    with pytest.raises(ArtefactError, match=r"no embedding 'contrastive'; it has \['mntp'\]"):
        formats.export(run, "npy", tmp_path / "out")
    record = {"stage": "minilm", "encoder": "all-MiniLM-L6-v2", "dim": 3}
    run.make("embeddings/minilm", lambda folder: record, settings={}, quiet=True)
    with pytest.raises(ArtefactError, match="all-MiniLM-L6-v2, which is not the run's to load or to write"):
        formats.export(run, "sentence-transformers", tmp_path / "out", "minilm")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [*(k for k in formats.FORMATS if k not in formats.OF_A_RECOMMENDER), "faiss"])
@pytest.mark.parametrize("anew", ["corpus", "mntp"])
def test_a_table_of_what_was_made_anew_since_is_not_exported(run, tmp_path, kind, anew):
    """The rows of a table made over another corpus are other items; one of another training is not what its name says."""
    corpus = make_corpus(items=9)
    build = {"corpus": lambda f: (corpus.save(f), run.record("corpus"))[1], "mntp": lambda f: (f / "weights").touch()}[anew]
    run.make(anew, build, settings={"other": 1}, quiet=True)
    said = r"embeddings/mntp of run 'toy' .* any more\. Run notebooks/03_item_embedding\.ipynb again"
    with pytest.raises(ArtefactError, match=said):
        formats.export(run, kind, tmp_path / "out", "mntp")
    assert [p.name for p in tmp_path.iterdir()] == ["outputs"]


def test_the_command_exports(run, tmp_path, capsys):
    words = ["export", "toy", "--format", "npy", "--to", str(tmp_path / "out"), "--stage", "mntp"]
    assert cli.main([*words, "--outputs", str(tmp_path / "outputs")]) == 0
    assert "embeddings.json, embeddings.npy, items.csv" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", "none", *words[2:], "--outputs", str(tmp_path / "outputs")])
    assert stop.value.code == 2
    assert "There is no run 'none'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "item", "parquet"])
def test_the_command_encodes_titles_of_any_file(run, tmp_path, kind, capsys):
    titles = ["Star Harbor", 'Puzzle, "Deluxe"', "Star Harbor"]
    frame, file = pl.DataFrame({"id": [1, 2, 3], "title": titles}), tmp_path / f"titles.{kind}"
    if kind == "txt":
        file.write_text("\n".join(titles) + "\n")
    elif kind == "parquet":
        frame.write_parquet(file)
    elif kind == "csv":
        frame.write_csv(file)
    else:
        frame = frame.rename({"title": "title:token_seq"}) if kind == "item" else frame
        frame.write_csv(file, separator="\t", quote_style="never")
    words = ["encode", str(run.path_of("mntp")), str(file), "--to", str(tmp_path / "e.npy"), "--device", "cpu"]
    assert cli.main(words) == 0
    expected = Encoder.load(run.path_of("mntp"), place=Backbone(**CPU)).encode(titles)
    np.testing.assert_array_equal(np.load(tmp_path / "e.npy"), expected)
    assert "(3, 32), a row a title" in capsys.readouterr().out
    assert cli.main([*words, "--pooling", "last", "--attention", "causal", "--normalise", "unit"]) == 0
    np.testing.assert_allclose(np.linalg.norm(np.load(tmp_path / "e.npy"), axis=1), 1, atol=1e-5)


def test_the_command_fills_its_share_under_torchrun(run, tmp_path, monkeypatch):
    file, out = tmp_path / "t.txt", tmp_path / "e.npy"
    file.write_text("\n".join([*make_corpus().titles[:3], "Iron Vale", "Café"]))
    words = ["encode", str(run.path_of("mntp")), str(file), "--to", str(out), "--device", "cpu"]
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert not out.exists()
        assert cli.main(words) == 0
    assert np.load(out).shape == (5, 32)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to a folder", "in a file", "loop"])
def test_encode_replaces_nothing_but_files_and_says_so_before_the_model_is_looked_for(tmp_path, capsys, kind):
    to = tmp_path / "to"
    if kind == "folder":
        to.mkdir()
    elif kind == "pipe":
        os.mkfifo(to)
    elif kind == "device":
        to.symlink_to("/dev/null")
    elif kind == "link to a folder":
        to.symlink_to(tmp_path)
    elif kind == "loop":
        to.symlink_to(to)
    else:
        (tmp_path / "file").write_text("x")
        to = tmp_path / "file" / "e.npy"
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        cli.main(["encode", "no/such/model", "no titles.txt", "--to", str(to)])
    found = capsys.readouterr().err
    assert stop.value.code == 2
    assert str(to) in found
    assert "writ" in found
    assert "no/such/model" not in found
    assert len(found.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_encode_keeps_a_link_and_replaces_the_file_that_it_leads_to(run, tmp_path):
    (tmp_path / "t.txt").write_text("Star Harbor\n")
    (tmp_path / "there").mkdir()
    np.save(tmp_path / "there" / "e.npy", np.zeros(2))
    (tmp_path / "link.npy").symlink_to(tmp_path / "there" / "e.npy")
    assert cli.main(["encode", str(run.path_of("mntp")), str(tmp_path / "t.txt"), "--to", str(tmp_path / "link.npy")]) == 0
    assert (tmp_path / "link.npy").is_symlink()
    assert np.load(tmp_path / "there" / "e.npy").shape == (1, 32)
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["e.npy"]


def test_encode_on_a_full_disk_names_it_and_leaves_what_stood_there(run, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("Star Harbor\n" * 40)
    np.save(tmp_path / "e.npy", np.zeros(2))
    with no_room(4096), pytest.raises(SystemExit) as stop:
        cli.main(["encode", str(run.path_of("mntp")), str(tmp_path / "t.txt"), "--to", str(tmp_path / "e.npy")])
    found = capsys.readouterr().err
    assert stop.value.code == 2
    assert "e.npy could not be written: a file in" in found
    assert "--to" in found
    assert "--outputs" not in found
    assert np.load(tmp_path / "e.npy").tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.txt", "one\n\nthree", "1 of 3 titles are missing or empty (row 2)"),
        ("t.csv", "name\nx", "no column 'title'; it has"),
        ("t.doc", "x", "none of .txt"),
        ("", "", "There is no file"),
    ],
)
def test_a_bad_file_of_titles_is_one_paragraph(run, tmp_path, capsys, name, text, says):
    (tmp_path / "in").mkdir()
    if name:
        (tmp_path / "in" / name).write_text(text)
    file = str(tmp_path / "in" / (name or "none.txt"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["encode", str(run.path_of("mntp")), file, "--to", str(tmp_path / "e.npy")])
    found = capsys.readouterr().err
    assert stop.value.code == 2
    assert says in found
    assert len(found.strip().splitlines()) == 1
