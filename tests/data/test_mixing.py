"""Mixing by settings: runs and folders found, what is missing named, stale when a part changed."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit import corpus, pipeline
from llm2rec_kit.data import item_text, mixing
from llm2rec_kit.downstream import saved_recommender
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Data
from llm2rec_kit.training import llmemb


def saved(folder, domain: str, seed: int = 0, max_history: int = 10) -> None:
    c = make_corpus(seed=seed, max_history=max_history)
    name = pl.lit(domain).alias("domain")
    replace(c, items=c.items.with_columns(name), users=c.users.with_columns(name)).save(folder)


def test_runs_by_name_and_folders_by_path(tmp_path):
    saved(tmp_path / "one" / "corpus", "tea")
    saved(tmp_path / "elsewhere", "oil", 1)
    chosen = Data(source="mix", mix=["one", f"{tmp_path}/elsewhere"])
    mixed = mixing.mix_corpora(chosen, tmp_path)
    assert mixed.domains == mixed.train_domains == ["tea", "oil"]
    assert mixing.mix_corpora(replace(chosen, train_domains=["oil"]), tmp_path).train_domains == ["oil"]
    before = mixing.hash_parts(chosen, tmp_path)
    assert len(before) == 10
    saved(tmp_path / "elsewhere", "oil", 2)
    changed = {k for k, v in mixing.hash_parts(chosen, tmp_path).items() if before[k] != v}
    assert changed
    assert all("elsewhere/" in k for k in changed)


def test_training_domains_may_have_the_papers_names(tmp_path):
    for k, domain in enumerate(("games", "Arts_Crafts_and_Sewing", "Sports")):
        saved(tmp_path / domain / "corpus", domain, k)
    asked = Data(source="mix", mix=["games", "Arts_Crafts_and_Sewing", "Sports"], train_domains=["Games", "Arts"])
    assert mixing.mix_corpora(asked, tmp_path).train_domains == ["games", "Arts_Crafts_and_Sewing"]


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"names 'none', and no corpus is in .*none/corpus.*01_data_prep"):
        mixing.mix_corpora(Data(source="mix", mix=["none"]), tmp_path)
    assert not (tmp_path / "none").exists()
    saved(tmp_path / "one", "tea")
    with pytest.raises(ValueError, match=r"data_train_domains names \['oil'\]; the mix has \['tea'\]"):
        mixing.mix_corpora(Data(source="mix", mix=["one"], train_domains=["oil"]), tmp_path)
    with pytest.raises(ValueError, match=r"reads no data_path; found data_mix \['one'\] and data_path 'x'"):
        mixing.mix_corpora(Data(source="mix", mix=["one"], path="x"), tmp_path)
    with pytest.raises(ValueError, match=r"takes the names of runs.*found data_mix \[\]"):
        mixing.mix_corpora(Data(source="mix"), tmp_path)


def test_a_part_whose_files_are_not_its_manifests_is_refused(tmp_path):
    corpus, run = make_corpus(), Run("one", tmp_path)
    run.make("corpus", lambda folder: corpus.save(folder) or {}, settings={}, quiet=True)
    asked = Data(source="mix", mix=["one"], max_history=corpus.max_history)
    assert mixing.mix_corpora(asked, tmp_path).n_items == corpus.n_items
    path = run.path / "corpus" / "items.parquet"
    other = pl.read_parquet(path).with_columns(title=pl.lit("edited"))
    path.unlink()
    other.write_parquet(path)
    for reads in (mixing.mix_corpora, mixing.hash_parts, mixing.compute_statistics):
        with pytest.raises(
            ValueError, match=r"data_mix names 'one', and .*items\.parquet is damaged .* Make that corpus anew"
        ):
            reads(asked, tmp_path)
    (run.path / "corpus" / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"data_mix names 'one', and .*manifest\.json is damaged: it is no manifest"):
        mixing.find_folders(asked, tmp_path)


@pytest.mark.parametrize("file", mixing.FILES)
def test_a_damaged_part_without_a_manifest_is_refused(tmp_path, file):
    saved(tmp_path / "one", "tea")
    asked = Data(source="mix", mix=["one"])
    assert mixing.hash_parts(asked, tmp_path)
    for text in (b"", (tmp_path / "one" / file).read_bytes()[:-20], b"{}"):
        (tmp_path / "one" / file).write_bytes(text)
        with pytest.raises(ValueError, match=r"data_mix names 'one', and .* Make that corpus anew"):
            mixing.hash_parts(asked, tmp_path)


def test_settings_that_a_mix_does_not_read_are_told_and_another_length_of_history_is_refused(tmp_path, capsys):
    saved(tmp_path / "one", "tea", max_history=20)
    asked = Data(source="mix", mix=["one"], train_domains=["tea"], max_history=20)
    assert mixing.mix_corpora(asked, tmp_path).max_history == 20
    assert capsys.readouterr().out == ""
    mixing.mix_corpora(replace(asked, min_interactions=3, split="global_time"), tmp_path)
    said = "mix: without effect, since each part stays as it was made: data_min_interactions, data_split\n"
    assert capsys.readouterr().out == said
    with pytest.raises(ValueError, match=r"data_max_history is 10, and the corpora in data_mix were made with 20: set"):
        mixing.mix_corpora(replace(asked, max_history=10), tmp_path)


def test_statistics_of_the_parts_stand_under_each_other(tmp_path):
    saved(tmp_path / "one" / "corpus", "tea")
    saved(tmp_path / "two" / "corpus", "oil", 1)
    found = mixing.compute_statistics(Data(source="mix", mix=["one", "two"]), tmp_path)
    assert found["domain"].to_list() == ["tea", "oil"]
    assert found["interactions"].to_list() == [len(make_corpus(seed=seed).sequence) for seed in (0, 1)]


def test_a_table_over_a_mix_tells_no_form_of_text_that_none_of_its_titles_has(tmp_path):
    run = Run("mixed", tmp_path)
    for source, told in (("mix", ""), ("table", "{title}. {brand}")):
        run.make("corpus", lambda folder: None, settings={"source": source, "text": "{title}. {brand}"}, quiet=True)
        assert pipeline._template(run) == told


def test_the_titles_of_a_part_without_texts_are_read_beside_one_with_texts():
    def part(domain: str, text: str):
        c = make_corpus(seed=len(domain))
        items = c.items.with_columns(domain=pl.lit(domain), brand=pl.lit("Oak"))
        return replace(c, items=item_text.render_texts(items, text, 0), users=c.users.with_columns(domain=pl.lit(domain)))

    parts = [part("tea", "{title} ({brand})"), part("ginger", "{title}")]
    mixed = corpus.mix(parts)
    plain = [title for one in parts for title in corpus.read_plain_titles(one.items)]
    assert corpus.read_plain_titles(mixed.items).to_list() == plain
    assert mixed.items["title"][0] == f"{plain[0]} (Oak)"
    assert saved_recommender.Titles(mixed.items).find(plain[-1])[-1] == mixed.n_items
    of_parts = [item for one in parts for item in llmemb.list_attributes(one.items)]
    assert llmemb.list_attributes(mixed.items) == of_parts
