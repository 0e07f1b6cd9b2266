"""Differences from the paper in standard deviations over seeds, and when a corpus is the paper's data set."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit import paper
from llm2rec_kit.corpus import mix
from llm2rec_kit.reproduction.studies import directions, printed_gaps
from llm2rec_kit.settings import STAGES, Encoding


def sized(items, domain, source="amazon"):
    small = make_corpus()
    table = pl.DataFrame({"item": range(1, items + 1), "title": "x", "domain": domain})
    return dataclasses.replace(small, items=table, facts={"source": source})


@pytest.mark.parametrize(
    ("items", "domain", "source", "is_"),
    [
        (9517, "Video_Games", "amazon", "Games"),
        (9517, "games", "llm2rec", "Games"),
        (12454, "Arts, Crafts & Sewing", "amazon", "Arts"),
        (9516, "games", "amazon", None),
        (9517, "games", "synthetic", None),
        (9517, "toys", "amazon", None),
    ],
)
def test_a_data_set_is_the_papers_by_name_and_size(items, domain, source, is_):
    assert printed_gaps.find_dataset(sized(items, domain, source), domain) == is_


def test_differences_by_hand():
    ours = pl.DataFrame(
        {
            "model": ["A", "B", "C"],
            "recall@10": [0.12, 0.1, 0.3],
            "recall@10 std": [0.01, 0.0, 0.1],
            "ndcg@10": [0.05] * 3,
            "ndcg@10 std": [0.005] * 3,
        }
    )
    printed = pl.DataFrame({"model": ["A", "B"], "recall@10": [0.1, 0.2], "ndcg@10": [0.06, 0.05], "recall@20": [0.3, 0.4]})
    found = printed_gaps.compare_in_std(ours, printed, ["model"])
    assert found.select("model", "metric").rows() == [
        ("A", "recall@10"),
        ("A", "ndcg@10"),
        ("B", "recall@10"),
        ("B", "ndcg@10"),
    ]
    assert found["in stds"].to_list() == [pytest.approx(2), pytest.approx(-2), None, pytest.approx(0)]
    assert found["percent"].to_list() == pytest.approx([20, -100 / 6, -50, 0])


def test_nothing_in_common_is_an_empty_frame():
    ours = pl.DataFrame({"model": ["C"], "recall@10": [0.1], "recall@10 std": [0.1]})
    assert len(printed_gaps.compare_in_std(ours, pl.DataFrame({"model": ["A"], "recall@10": [0.1]}), ["model"])) == 0


def test_the_public_reproduction():
    found = printed_gaps.compare_reproduction()
    assert len(found) == 18 * 4
    (cell,) = found.filter(dataset="Baby", model="LLM2Rec 1000", metric="ndcg@10").to_dicts()
    assert cell["in stds"] == pytest.approx((0.0533 - 0.0503) / 0.0005)
    (cell,) = found.filter(dataset="Goodreads", model="LLM2Rec 1000", metric="recall@10").to_dicts()
    assert cell["in stds"] is None  # its std is printed as 0.0000


def test_the_printed_llm2vec_is_the_untrained_backbone():
    same = printed_gaps.compare_untrained()
    assert same["dataset"].to_list() == ["Games", "Sports", "Goodreads"]
    assert same["equal"].all()


@pytest.mark.parametrize(
    ("sets", "row", "line"),
    [
        (2, "mix-2", "2 training sets: they stand beside the paper's row mix-2."),
        (3, None, "The paper mixes 2 and 6 training sets, this run 3: its mix stands beside no printed number."),
        (6, "mix-6", "6 training sets: they stand beside the paper's row mix-6."),
        (7, None, "The paper mixes 2 and 6 training sets, this run 7: its mix stands beside no printed number."),
    ],
)
def test_a_mix_stands_beside_the_row_with_as_many_training_sets(sets, row, line):
    several = [f"set {k}" for k in range(sets)]
    arms = {"raw": [], "csft_single": several[:1], "csft_mixed": several}
    rest = {"raw": "backbone", "csft_single": "single"}
    whole = rest | ({"csft_mixed": row} if row else {})
    assert printed_gaps.compare_mixing(arms, "set 0") == (whole, "in-domain")
    assert printed_gaps.compare_mixing(arms, "nobody's") == (whole, "out-of-domain")
    assert printed_gaps.compare_mixing(arms, "set 1") == (
        rest,
        "out-of-domain",
    )  # the paper has no set that only its mixes saw
    assert printed_gaps.match_mix(sets) == line


def test_the_rows_of_table_5_are_told_by_their_training_sets():
    """By hand from the paper: CSFT on nothing, on Games, on Games and Arts, on all six."""
    arms = {str(n): ["Games", "Arts", "Movies", "Home", "Electronics", "Tools"][:n] for n in range(7)}
    names = {"0": "backbone", "1": "single", "2": "mix-2", "6": "mix-6"}
    assert printed_gaps.compare_mixing(arms, "Games") == (names, "in-domain")


def test_ours_is_measured_where_a_domain_is_a_data_set_of_the_paper():
    means = {f"{m} {kind}": [0.1] * 3 for m in paper.METRICS for kind in ("mean", "std")}
    rows = {"domain": ["games", "games", "own"], "recommender": "SASRec", "embedding": ["a", "a-unit", "a"]}
    names, datasets = {"a": "LLM2Rec"}, {"games": "Games", "own": None}
    found = printed_gaps.compare_table(pl.DataFrame(rows | means), names, datasets)
    assert found.select("recommender", "dataset", "model").unique().rows() == [("SASRec", "Games", "LLM2Rec")]
    assert found["metric"].to_list() == list(paper.METRICS)
    row = paper.read_overall().filter(recommender="SASRec", dataset="Games", model="LLM2Rec").row(0, named=True)
    assert found["in stds"].to_list() == pytest.approx([(0.1 - row[m]) / 0.1 for m in paper.METRICS])
    nowhere = dict.fromkeys(datasets)
    assert len(printed_gaps.compare_table(pl.DataFrame(rows | means), names, nowhere)) == 0


def test_ours_stands_once_beside_a_printed_row_in_the_form_that_the_paper_prints():
    """The official evaluation has BERT at unit length, and the printed LLM2Vec is the untrained backbone."""
    models = {"raw": "LLM2Vec", "llm2vec": "LLM2Vec", "bert": "BERT", "contrastive": "LLM2Rec"}
    labels = [
        {"embedding": f"{table}-unit" if length == "unit" else table, "model": model, "length": length}
        for table, model in models.items()
        for length in ("none", "unit")
    ]
    embeddings = [row["embedding"] for row in labels]
    means = {f"{m} std": [0.1] * len(labels) for m in paper.METRICS}
    means |= {f"{m} mean": [float(n) for n in range(len(labels))] for m in paper.METRICS}
    table = pl.DataFrame({"domain": "games", "recommender": "SASRec", "embedding": embeddings} | means)
    found = printed_gaps.compare_table(table, directions.name_models(labels), {"games": "Games"})
    ours = {(r["model"], r["metric"]): embeddings[int(r["ours"])] for r in found.iter_rows(named=True)}
    assert len(ours) == len(found)
    chosen = {"LLM2Vec": "raw", "BERT": "bert-unit", "LLM2Rec": "contrastive"}
    assert ours == {(model, m): name for model, name in chosen.items() for m in paper.METRICS}


def test_far_cells_are_counted_on_both_sides():
    gaps = pl.DataFrame({"in stds": [-3.0, 0.5, 2.0, 2.5, None]})
    assert printed_gaps.count_far(gaps) == {"cells": 5, "median_distance_in_stds": 2.25, "beyond_2_stds": 2}


def test_a_mix_of_one_domain_is_none():
    assert "nothing to mix" in printed_gaps.describe_mix(["games"], 10)
    said = printed_gaps.describe_mix(["games", "arts"], 1000)
    assert said.startswith("single: ['games'], mixed: ['games', 'arts']; 1,000 steps of CSFT each. ")
    assert said.endswith(printed_gaps.match_mix(2))


def test_disagreements_stand_beside_what_the_run_had():
    of_run = {s.prefix: s() for s in STAGES} | {"encoding": Encoding(attention="causal")}
    found = printed_gaps.list_disagreements(of_run, make_corpus())
    here = dict(found.select("parameter", "this run").rows())
    assert here["encoding_attention"] == "causal"
    assert found["parameter"].to_list() == paper.read_disagreements()["parameter"].to_list()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([], "leave_one_out"),  # nothing says
        (["released", "released"], "released"),
        (["global_time", "global_time"], "global_time"),
        (["leave_one_out", "global_time"], "tea: leave_one_out, oil: global_time"),
    ],
)
def test_disagreements_have_the_split_of_a_mix_from_its_parts(parts, said):
    """A mix does not read `data_split`, which keeps its default."""
    made = {"released": {"split_rules": {"tea": "global_time", "oil": "global_time"}}}
    named = [(name, make_corpus(seed=k)) for k, name in enumerate(("tea", "oil"))]
    corpora = [
        dataclasses.replace(
            c,
            items=c.items.with_columns(domain=pl.lit(name)),
            users=c.users.with_columns(domain=pl.lit(name)),
            facts={"split": split, **made.get(split, {})},
        )
        for (name, c), split in zip(named, parts, strict=False)
    ]
    found = printed_gaps.list_disagreements({s.prefix: s() for s in STAGES}, mix(corpora) if corpora else make_corpus())
    assert dict(found.select("parameter", "this run").rows())["data_split"] == said
