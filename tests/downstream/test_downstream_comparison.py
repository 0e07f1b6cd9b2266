"""Tables, intervals, tests and standings against what scipy and a plain loop say; slices against labels given by hand."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_corpus
from scipy import stats

from llm2rec_kit.downstream import comparison, evaluation, metrics, slices
from llm2rec_kit.downstream.ranking import Ranking
from llm2rec_kit.runs import Run

SEEDS = [1, 2]


def keep(run, domain, recommender, embedding, seed, ranks):
    """An evaluation artefact with these ranks."""
    stem = f"{recommender}-{embedding}-seed{seed}"
    facts = {"domain": domain, "recommender": recommender, "embedding": embedding, "seed": seed}
    found = Ranking(np.asarray(ranks, dtype=np.int32), np.ones((1, 4), dtype=np.int32))
    run.make(
        f"evaluation/{domain}/{stem}",
        lambda folder: evaluation.write_ranking(found, folder, stem, facts=facts, cutoffs=[10], counts=np.ones(4)),
        settings={},
        quiet=True,
    )
    return found.ranks


@pytest.fixture
def run(tmp_path):
    """SASRec over raw (middling), csft (clearly better), mntp (as csft, but for noise), id; GRU4Rec; popularity."""
    run, rng = Run("r", tmp_path), np.random.default_rng(0)
    base = rng.integers(5, 60, 400)
    for seed in SEEDS:
        noise = rng.integers(-2, 3, (2, 400))
        keep(run, "toy", "SASRec", "id", seed, base + 10)
        keep(run, "toy", "SASRec", "mntp", seed, np.maximum(1, base // 3 + noise[0]))
        keep(run, "toy", "SASRec", "csft", seed, np.maximum(1, base // 3 + noise[1]))
        keep(run, "toy", "SASRec", "raw", seed, base)
        keep(run, "toy", "GRU4Rec", "raw", seed, base + 5)
    keep(run, "toy", "popularity", "none", 0, rng.integers(1, 90, 400))
    return run


def of(run, recommender, embedding, seed):
    return np.load(run.path / f"evaluation/toy/{recommender}-{embedding}-seed{seed}.npy")


def test_the_table_has_means_stds_and_intervals_over_users(run):
    table = comparison.table(run, intervals=True)
    assert table.filter(recommender="SASRec")["embedding"].to_list() == ["raw", "csft", "mntp", "id"]
    assert table.filter(recommender="popularity")["seeds"].to_list() == [1]
    row = table.filter(recommender="SASRec", embedding="csft").row(0, named=True)
    values = [metrics.per_user(of(run, "SASRec", "csft", seed), "ndcg@10") for seed in SEEDS]
    assert row["ndcg@10 mean"] == pytest.approx(np.mean(values))
    assert row["ndcg@10 std"] == pytest.approx(np.std([v.mean() for v in values]))
    bounds = metrics.bootstrap_interval(np.mean(values, 0), seed=0)
    assert (row["ndcg@10 low"], row["ndcg@10 high"]) == pytest.approx(bounds)
    assert comparison.table(run, ["evaluation/toy/GRU4Rec-raw-seed1"])["seeds"].to_list() == [1]
    with pytest.raises(ValueError, match="has no evaluation yet"):
        comparison.table(run, [])


def test_the_readable_table_says_the_same(run):
    table = comparison.table(run, intervals=True)
    found = comparison.readable(table, "toy", ["recall@10"], {("SASRec", "csft"): "best"})
    assert found["recommender"].to_list() == ["SASRec"] * 4 + ["GRU4Rec", "popularity"]
    row = table.filter(recommender="SASRec", embedding="csft").row(0, named=True)
    text = found.filter(recommender="SASRec", embedding="csft")["recall@10"][0]
    assert text.startswith(f"{row['recall@10 mean']:.4f} ± {row['recall@10 std']:.4f} [")
    assert found.filter(place="best").height == 1
    assert "±" not in found.filter(recommender="popularity")["recall@10"][0]


def test_lists_are_means_over_seeds(run):
    found = comparison.lists(run, run.names("evaluation"))
    assert found.height == 6
    assert found["coverage@10"].to_list() == [1.0] * 6


def test_any_two_rows_are_compared_by_a_paired_test_with_holms_correction(run):
    rows = [("SASRec", "raw"), ("SASRec", "csft"), ("GRU4Rec", "raw"), ("popularity", "none")]
    pairs = [(rows[0], rows[1]), (rows[1], rows[0]), (rows[2], rows[0]), (rows[3], rows[1])]
    found = comparison.compare(run, "toy", pairs, seeds=SEEDS, metric="ndcg@10")
    values = {}
    for name, embedding in rows:
        seeds = [0] if name == "popularity" else SEEDS
        values[name, embedding] = np.mean([metrics.per_user(of(run, name, embedding, s), "ndcg@10") for s in seeds], 0)
    p = [stats.ttest_rel(values[b], values[a]).pvalue for a, b in pairs]
    assert found["p"].to_list() == pytest.approx(p)
    assert found["p_holm"].to_list() == pytest.approx(metrics.holm(p))
    assert found["difference"].to_list() == pytest.approx([values[b].mean() - values[a].mean() for a, b in pairs])
    assert found["verdict"].to_list()[:2] == ["better", "worse"]
    assert found["recommender"].to_list()[2:] == ["GRU4Rec / SASRec", "popularity / SASRec"]
    assert found["before"].to_list() == ["raw", "csft", "GRU4Rec-raw", "popularity-none"]


def test_what_cannot_be_told_apart_is_said_so(run):
    found = comparison.compare(run, "toy", [(("SASRec", "csft"), ("SASRec", "mntp"))], seeds=SEEDS)
    assert found["verdict"].to_list() == ["no detectable difference"]


def test_a_winner_only_where_the_test_allows(run):
    names = ["raw", "csft", "mntp", "id"]
    found = comparison.standing(run, "toy", [("SASRec", n) for n in names], seeds=SEEDS)
    assert [found["SASRec", n] for n in names] == ["", "tied for best", "tied for best", ""]
    found = comparison.standing(run, "toy", [("SASRec", n) for n in ("raw", "csft", "id")], seeds=SEEDS)
    assert list(found.values()) == ["", "best", ""]
    assert comparison.standing(run, "toy", [("SASRec", "raw")], seeds=SEEDS) == {("SASRec", "raw"): "best"}


def test_a_missing_evaluation_is_named(run):
    with pytest.raises(ValueError, match="no evaluation/toy/SASRec-contrastive-seed1"):
        comparison.compare(run, "toy", [(("SASRec", "raw"), ("SASRec", "contrastive"))], seeds=[1])
    with pytest.raises(ValueError, match="no evaluation/toy/SASRec-raw-seed3"):
        comparison.user_values(run, "toy", ("SASRec", "raw"), "mrr", [1, 3])


def test_slices_label_by_hand():
    corpus = make_corpus(users=60, items=9)
    labels = slices.of_samples(corpus)
    asked = np.bincount(corpus.sequence[corpus.samples("train")], minlength=10)
    for k, t in enumerate(corpus.samples("test")):
        start = corpus.offsets[corpus.owners(np.array([t]))[0]]
        had, target = corpus.sequence[start:t].tolist(), corpus.sequence[t]
        kind = "immediate repeat" if target == had[-1] else "seen before" if target in had else "novel"
        assert labels["target"][k] == kind
        low, high = {"1-3": (1, 3), "4-6": (4, 6), "7-9": (7, 9)}[labels["history"][k]]
        assert low <= len(had) <= high
        popularity = labels["popularity"][k]
        count = asked[target]
        low, high = (
            (0, 0) if popularity == "cold" else (50, 10**9) if popularity == "50+" else map(int, popularity.split("-"))
        )
        assert low <= count <= high
    assert set(labels["target"]) == {"immediate repeat", "seen before", "novel"}


@pytest.fixture
def sliced(tmp_path):
    """A corpus, and two rows of which `id` is better on repeats and worse on the rest."""
    corpus, run = make_corpus(users=400, items=9), Run("r", tmp_path)
    repeat = (slices.of_samples(corpus)["target"] == "immediate repeat").to_numpy()
    rng = np.random.default_rng(0)
    raw = keep(run, "toy", "SASRec", "raw", 1, rng.integers(1, 9, len(repeat)))
    other = keep(run, "toy", "SASRec", "id", 1, np.where(repeat, 1, 9))
    return corpus, run, repeat, raw, other


def test_the_metric_of_a_slice_is_the_mean_over_its_samples(sliced):
    corpus, run, repeat, raw, _ = sliced
    table = slices.table(run, "toy", corpus, [("SASRec", "raw"), ("SASRec", "id")], seeds=[1], metric="mrr")
    row = table.filter(label="immediate repeat", embedding="raw").row(0, named=True)
    assert row["samples"] == repeat.sum()
    assert row["mean"] == pytest.approx((1 / raw[repeat]).mean())
    assert row["low"] < row["mean"] < row["high"]
    for name in ("target", "popularity", "history"):
        some = table.filter(slice=name, embedding="raw")
        assert some["samples"].sum() == len(raw)
        assert (some["samples"] * some["mean"]).sum() == pytest.approx((1 / raw).sum())


def test_where_one_wins_and_loses(sliced):
    corpus, run, repeat, raw, other = sliced
    found = slices.gains(run, "toy", corpus, ("SASRec", "raw"), ("SASRec", "id"), seeds=[1], metric="mrr")
    verdict = dict(zip(found["label"], found["verdict"], strict=True))
    assert verdict["immediate repeat"] == "better"
    assert verdict["novel"] == "worse"
    row = found.filter(label="novel").row(0, named=True)
    novel = (slices.of_samples(corpus)["target"] == "novel").to_numpy()
    assert row["difference"] == pytest.approx((1 / other[novel] - 1 / raw[novel]).mean())
    ends = slices.extremes(run, "toy", corpus, ("SASRec", "raw"), ("SASRec", "id"), seeds=[1], most=3)
    assert ends[""].to_list() == ["won"] * 3 + ["lost"] * 3
    assert (ends["rank id"] < ends["rank raw"]).to_list() == [True] * 3 + [False] * 3
    assert ends["rank raw"][0] == pytest.approx(raw[repeat].max())
