"""Tables, intervals, tests and standings against what scipy and a plain loop say; slices against labels given by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus
from scipy import stats

from llm2rec_kit import evaluating
from llm2rec_kit.corpus import TEST
from llm2rec_kit.downstream import evaluation
from llm2rec_kit.downstream.ranking import Ranking
from llm2rec_kit.results import evaluations, metrics, significance, slices
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Evaluation

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


def of_corpus(place, corpus):
    """A run with this corpus."""
    run = Run("r", place)
    run.make("corpus", lambda folder: corpus.save(folder), settings={}, quiet=True)
    return run


@pytest.fixture
def run(tmp_path):
    """SASRec over raw (middling), csft (clearly better), mntp (as csft, but for noise), id; GRU4Rec; popularity."""
    run, rng = of_corpus(tmp_path, make_corpus(users=400)), np.random.default_rng(0)
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
    table = significance.tabulate(run, intervals=True)
    assert table.filter(recommender="SASRec")["embedding"].to_list() == ["raw", "csft", "mntp", "id"]
    assert table.filter(recommender="popularity")["seeds"].to_list() == [1]
    row = table.filter(recommender="SASRec", embedding="csft").row(0, named=True)
    values = [metrics.compute_per_sample(of(run, "SASRec", "csft", seed), "ndcg@10") for seed in SEEDS]
    assert row["ndcg@10 mean"] == pytest.approx(np.mean(values))
    assert row["ndcg@10 std"] == pytest.approx(np.std([v.mean() for v in values]))
    bounds = metrics.compute_intervals(np.mean(values, 0)[:, None], np.arange(400), seed=0)
    assert (row["ndcg@10 low"], row["ndcg@10 high"]) == pytest.approx(tuple(bounds[:, 0]))
    assert significance.tabulate(run, ["evaluation/toy/GRU4Rec-raw-seed1"])["seeds"].to_list() == [1]
    with pytest.raises(ValueError, match="has no evaluation yet"):
        significance.tabulate(run, [])


def test_the_readable_table_says_the_same(run):
    csft = (pl.col("recommender") == "SASRec") & (pl.col("embedding") == "csft")
    table = significance.tabulate(run, intervals=True).with_columns(
        place=pl.when(csft).then(pl.lit("best")).otherwise(pl.lit(""))
    )
    found = significance.make_readable(table, "toy", ["recall@10"])
    assert found["recommender"].to_list() == ["SASRec"] * 4 + ["GRU4Rec", "popularity"]
    row = table.filter(recommender="SASRec", embedding="csft").row(0, named=True)
    text = found.filter(recommender="SASRec", embedding="csft")["recall@10"][0]
    assert text.startswith(f"{row['recall@10 mean']:.4f} ± {row['recall@10 std']:.4f} [")
    assert found.filter(place="best").height == 1
    assert "±" not in found.filter(recommender="popularity")["recall@10"][0]


def test_lists_are_means_over_seeds(run):
    found = significance.tabulate_lists(run, run.names("evaluation"))
    assert found.height == 6
    assert found["coverage@10"].to_list() == [1.0] * 6


def test_any_two_rows_are_compared_by_a_paired_test_with_holms_correction(run):
    rows = [("SASRec", "raw"), ("SASRec", "csft"), ("GRU4Rec", "raw"), ("popularity", "none")]
    pairs = [(rows[0], rows[1]), (rows[1], rows[0]), (rows[2], rows[0]), (rows[3], rows[1])]
    found = significance.compare(run, "toy", pairs, seeds=SEEDS, metric="ndcg@10")
    values = {}
    for name, embedding in rows:
        seeds = [0] if name == "popularity" else SEEDS
        values[name, embedding] = np.mean(
            [metrics.compute_per_sample(of(run, name, embedding, s), "ndcg@10") for s in seeds], 0
        )
    p = [stats.ttest_rel(values[b], values[a]).pvalue for a, b in pairs]
    assert found["p"].to_list() == pytest.approx(p)
    assert found["p_holm"].to_list() == pytest.approx(metrics.correct_holm(p))
    assert found["difference"].to_list() == pytest.approx([values[b].mean() - values[a].mean() for a, b in pairs])
    assert found["before mean"].to_list() == pytest.approx([values[a].mean() for a, _ in pairs])
    assert found["after mean"].to_list() == pytest.approx([values[b].mean() for _, b in pairs])
    assert found["verdict"].to_list()[:2] == ["better", "worse"]
    assert found["recommender"].to_list()[2:] == ["GRU4Rec / SASRec", "popularity / SASRec"]
    assert found["before"].to_list() == ["raw", "csft", "GRU4Rec-raw", "popularity-none"]


def test_what_cannot_be_told_apart_is_said_so(run):
    found = significance.compare(run, "toy", [(("SASRec", "csft"), ("SASRec", "mntp"))], seeds=SEEDS)
    assert found["verdict"].to_list() == ["no detectable difference"]


def test_the_verdict_is_of_the_corrected_p(run):
    """A difference that is detectable alone, and not as one of forty; in slices likewise."""
    base = of(run, "SASRec", "raw", 1)
    keep(run, "toy", "SASRec", "like", 1, np.where(np.arange(400) < 6, 1, base))
    pair = (("SASRec", "raw"), ("SASRec", "like"))
    alone = significance.compare(run, "toy", [pair], seeds=[1], metric="recall@3").row(0, named=True)
    assert 0.05 / 40 < alone["p"] < 0.05
    assert (alone["p_holm"], alone["verdict"]) == (alone["p"], "better")
    among = significance.compare(run, "toy", [pair] * 40, seeds=[1], metric="recall@3")
    assert among["p"].to_list() == [alone["p"]] * 40
    assert set(among["verdict"]) == {"no detectable difference"}
    corpus = make_corpus(users=400)
    found = slices.tabulate_gains(run, "toy", corpus, *pair, seeds=[1], metric="recall@3")
    labels = slices.label_samples(corpus)
    p = []
    for column, label in found.select("slice", "label").iter_rows():
        here = (labels[column] == label).to_numpy()
        difference = (of(run, "SASRec", "like", 1)[here] <= 3) * 1.0 - (base[here] <= 3)
        p.append(stats.ttest_1samp(difference, 0).pvalue if difference.any() else 1.0)
    assert found["p_holm"].to_list() == pytest.approx(metrics.correct_holm(p))
    assert found["verdict"].to_list() == [
        "better" if x < 0.05 else "no detectable difference" for x in metrics.correct_holm(p)
    ]
    assert min(p) < 0.05 <= min(metrics.correct_holm(p))


def test_a_winner_only_where_the_test_allows(run):
    names = ["raw", "csft", "mntp", "id"]
    found = significance.judge_standing(run, "toy", [("SASRec", n) for n in names], seeds=SEEDS)
    assert [found["SASRec", n] for n in names] == ["", "tied for best", "tied for best", ""]
    found = significance.judge_standing(run, "toy", [("SASRec", n) for n in ("raw", "csft", "id")], seeds=SEEDS)
    assert list(found.values()) == ["", "best", ""]
    assert significance.judge_standing(run, "toy", [("SASRec", "raw")], seeds=SEEDS) == {("SASRec", "raw"): "best"}


def test_a_missing_evaluation_is_named(run):
    with pytest.raises(ValueError, match="no evaluation/toy/SASRec-contrastive-seed1"):
        significance.compare(run, "toy", [(("SASRec", "raw"), ("SASRec", "contrastive"))], seeds=[1])
    with pytest.raises(ValueError, match="no evaluation/toy/SASRec-raw-seed3"):
        significance.read_sample_values(run, "toy", ("SASRec", "raw"), "mrr", [1, 3])


def test_slices_label_by_hand():
    corpus = make_corpus(users=60, items=9)
    labels = slices.label_samples(corpus)
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
    corpus = make_corpus(users=400, items=9)
    run = of_corpus(tmp_path, corpus)
    repeat = (slices.label_samples(corpus)["target"] == "immediate repeat").to_numpy()
    rng = np.random.default_rng(0)
    raw = keep(run, "toy", "SASRec", "raw", 1, rng.integers(1, 9, len(repeat)))
    other = keep(run, "toy", "SASRec", "id", 1, np.where(repeat, 1, 9))
    return corpus, run, repeat, raw, other


def test_the_metric_of_a_slice_is_the_mean_over_its_samples(sliced):
    corpus, run, repeat, raw, _ = sliced
    table = slices.tabulate(run, "toy", corpus, [("SASRec", "raw"), ("SASRec", "id")], seeds=[1], metric="mrr")
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
    found = slices.tabulate_gains(run, "toy", corpus, ("SASRec", "raw"), ("SASRec", "id"), seeds=[1], metric="mrr")
    verdict = dict(zip(found["label"], found["verdict"], strict=True))
    assert verdict["immediate repeat"] == "better"
    assert verdict["novel"] == "worse"
    row = found.filter(label="novel").row(0, named=True)
    novel = (slices.label_samples(corpus)["target"] == "novel").to_numpy()
    assert row["difference"] == pytest.approx((1 / other[novel] - 1 / raw[novel]).mean())
    ends = slices.find_extremes(run, "toy", corpus, ("SASRec", "raw"), ("SASRec", "id"), seeds=[1], most=3)
    assert ends[""].to_list() == ["won"] * 3 + ["lost"] * 3
    assert (ends["rank id"] < ends["rank raw"]).to_list() == [True] * 3 + [False] * 3
    assert ends["rank raw"][0] == pytest.approx(raw[repeat].max())
    targets = corpus.samples("test")
    expected = {" / ".join([corpus.titles[i - 1] for i in corpus.history(t)[:-4:-1]]) for t in targets[repeat]}
    assert set(ends["history, newest first"][:3]) <= expected


@pytest.mark.parametrize(("better", "won", "lost"), [(58, 5, 2), (3, 3, 5), (60, 5, 0)])
def test_where_few_lose_none_that_won_is_called_lost_nor_the_other_way(tmp_path, better, won, lost):
    corpus = make_corpus(users=60)
    run = of_corpus(tmp_path, corpus)
    keep(run, "toy", "SASRec", "raw", 1, np.full(60, 10))
    keep(run, "toy", "SASRec", "id", 1, np.where(np.arange(60) < better, np.arange(60) % 7 + 2, 13))
    ends = slices.find_extremes(run, "toy", corpus, ("SASRec", "raw"), ("SASRec", "id"), seeds=[1])
    assert ends[""].to_list() == ["won"] * won + ["lost"] * lost
    assert (ends["rank id"] < ends["rank raw"]).to_list() == [True] * won + [False] * lost


# -- several test samples a user --------------------------------------------------------------------------------------


@pytest.fixture
def by_time(tmp_path):
    """A corpus whose users have one to many test samples, as a split by time gives them, and two rows with ranks that lean by user."""
    corpus, rng = make_corpus(users=60, items=9, longest=12), np.random.default_rng(0)
    splits = np.where(rng.random(len(corpus.targets)) < 0.5, TEST, corpus.splits).astype(np.uint8)
    corpus = dataclasses.replace(corpus, splits=splits)
    run, users = of_corpus(tmp_path, corpus), corpus.owners(corpus.samples("test"))
    likes = rng.random(60) < 0.5
    for name, better in (("raw", False), ("csft", True)):
        for seed in SEEDS:
            drawn = rng.integers(1, 30, len(users))
            keep(run, "toy", "SASRec", name, seed, np.where(likes[users] & better, np.maximum(1, drawn // 4), drawn))
    return corpus, run, users


def mean_of(run, embedding, metric):
    return np.mean([metrics.compute_per_sample(of(run, "SASRec", embedding, s), metric) for s in SEEDS], 0)


def drawn_by_user(values, users, seed=0, draws=1000):
    """95% interval of the mean: users drawn with all their samples, in a plain loop."""
    named, rng = list(dict.fromkeys(users.tolist())), np.random.default_rng(seed)
    parts = [values[users == u] for u in named]
    means = [np.concatenate([parts[k] for k in draw]).mean() for draw in rng.integers(0, len(named), (draws, len(named)))]
    return pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def clustered_p(difference, users):
    """p of a mean with errors that may be correlated within a user, a loop over users."""
    n, mean = len(set(users.tolist())), difference.mean()
    sums = [(difference[users == u] - mean).sum() for u in set(users.tolist())]
    error = np.sqrt(n / (n - 1) * np.sum(np.square(sums))) / len(difference)
    return pytest.approx(2 * stats.t.sf(abs(mean) / error, n - 1))


def test_users_of_test_samples_are_in_the_order_of_the_ranks(by_time):
    corpus, run, users = by_time
    assert np.array_equal(significance.read_users(run, "toy"), users)
    assert len(np.unique(users)) < len(users)
    for k, target in enumerate(corpus.samples("test")):
        assert corpus.offsets[users[k]] <= target < corpus.offsets[users[k] + 1]


def test_intervals_of_the_table_draw_users(by_time):
    _, run, users = by_time
    row = significance.tabulate(run, intervals=True).filter(embedding="csft").row(0, named=True)
    values = mean_of(run, "csft", "ndcg@10")
    assert row["ndcg@10 mean"] == pytest.approx(values.mean())
    assert (row["ndcg@10 low"], row["ndcg@10 high"]) == drawn_by_user(values, users)


def test_tests_are_across_users(by_time):
    _, run, users = by_time
    row = significance.compare(run, "toy", [(("SASRec", "raw"), ("SASRec", "csft"))], seeds=SEEDS).row(0, named=True)
    difference = mean_of(run, "csft", "ndcg@10") - mean_of(run, "raw", "ndcg@10")
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["p"] == clustered_p(difference, users)
    assert (row["low"], row["high"]) == drawn_by_user(difference, users)
    assert row["p"] > stats.ttest_1samp(difference, 0).pvalue  # what samples as users would have claimed


def test_slices_draw_and_test_users(by_time):
    corpus, run, users = by_time
    rows = [("SASRec", "raw"), ("SASRec", "csft")]
    here = (slices.label_samples(corpus)["target"] == "seen before").to_numpy()
    table = slices.tabulate(run, "toy", corpus, rows, seeds=SEEDS).filter(label="seen before", embedding="csft")
    assert (table["low"][0], table["high"][0]) == drawn_by_user(mean_of(run, "csft", "ndcg@10")[here], users[here])
    row = slices.tabulate_gains(run, "toy", corpus, *rows, seeds=SEEDS).filter(label="seen before").row(0, named=True)
    difference = (mean_of(run, "csft", "ndcg@10") - mean_of(run, "raw", "ndcg@10"))[here]
    assert (row["low"], row["high"]) == drawn_by_user(difference, users[here])
    assert len(np.unique(users[here])) < here.sum()


def test_any_metric_can_be_had_from_the_ranks_that_were_kept(by_time):
    _, run, users = by_time
    row = (
        significance.tabulate(run, metric_names=["recall@3", "ndcg@10"], intervals=True)
        .filter(embedding="csft")
        .row(0, named=True)
    )
    assert row["recall@3 mean"] == pytest.approx(np.mean([(of(run, "SASRec", "csft", s) <= 3).mean() for s in SEEDS]))
    assert (row["recall@3 low"], row["recall@3 high"]) == drawn_by_user(mean_of(run, "csft", "recall@3"), users)
    assert "mrr mean" not in row


def test_evaluations_of_another_corpus_have_no_users_here(by_time):
    corpus, run, _ = by_time
    rows = [("SASRec", "raw"), ("SASRec", "csft")]
    other = make_corpus(users=60, items=9)
    run.make("corpus", lambda folder: other.save(folder), settings={"seed": 2}, quiet=True)
    with pytest.raises(ValueError, match=r"SASRec-raw-seed1 of .* made from another corpus.*04_downstream_eval"):
        significance.compare(run, "toy", [rows], seeds=SEEDS)
    run.make("corpus", lambda folder: corpus.save(folder), settings={}, quiet=True)
    assert len(significance.compare(run, "toy", [rows], seeds=SEEDS)) == 1


def test_as_many_samples_are_not_enough_to_be_of_the_same_corpus(tmp_path):
    run = of_corpus(tmp_path, make_corpus())
    name, ranks = "evaluation/toy/SASRec-raw-seed1", np.arange(1, 13)
    facts = {"domain": "toy", "recommender": "SASRec", "embedding": "raw", "seed": 1, "metrics": {"mrr": (1 / ranks).mean()}}
    run.make(name, lambda f: np.save(f / "SASRec-raw-seed1.npy", ranks) or facts, settings={}, inputs=["corpus"], quiet=True)
    assert significance.read_sample_values(run, "toy", ("SASRec", "raw"), "mrr", [1]) == pytest.approx(1 / ranks)
    run.make("corpus", lambda folder: make_corpus(seed=1).save(folder), settings={"seed": 1}, quiet=True)
    with pytest.raises(ValueError, match="made from another corpus"):
        significance.read_sample_values(run, "toy", ("SASRec", "raw"), "mrr", [1])


def test_items_before_a_target_are_counted_beyond_the_window():
    corpus = make_corpus(max_history=2)
    for split in ("valid", "test"):
        expected = [corpus.sequence[corpus.offsets[corpus.owners(np.array([t]))[0]] : t].size for t in corpus.samples(split)]
        assert slices.count_items_before(corpus, split).tolist() == expected
    assert slices.count_items_before(corpus).max() > corpus.max_history


def test_places_stand_in_the_table_and_are_read_from_there(run):
    table = significance.tabulate(run, intervals=True)
    placed = significance.add_places(run, table, seeds=SEEDS)
    places = {(r["recommender"], r["embedding"]): r["place"] for r in placed.iter_rows(named=True)}
    assert places == {
        ("SASRec", "raw"): "",
        ("SASRec", "csft"): "tied for best",
        ("SASRec", "mntp"): "tied for best",
        ("SASRec", "id"): "",
        ("GRU4Rec", "raw"): "best",  # there is no other
        ("popularity", "none"): "",  # trains nothing
    }
    shown = significance.make_readable(placed, "toy", ["ndcg@10"])
    assert {row[:2]: row[2] for row in shown.select("recommender", "embedding", "place").iter_rows()} == places


def test_pairs_of_stages_by_hand():
    asked = Evaluation(recommenders=["SASRec"], embeddings=["id", "csft", "raw", "contrastive"], baselines=["nearest"])
    named = [("raw", "csft"), ("csft", "contrastive"), ("raw", "contrastive"), ("id", "contrastive")]
    expected = [(("SASRec", a), ("SASRec", b)) for a, b in named]
    assert significance.pair_stages(asked) == [*expected, (("nearest", "contrastive"), ("SASRec", "contrastive"))]
    two = dataclasses.replace(asked, embeddings=["raw", "csft"], baselines=[])
    assert significance.pair_stages(two) == [(("SASRec", "raw"), ("SASRec", "csft"))]  # once, though it is asked for twice
    assert significance.pair_stages(dataclasses.replace(asked, embeddings=["id", "minilm"])) == []


def test_stages_are_paired_within_each_way_of_reading_them():
    read = [f"{stage}-last-causal" for stage in ("raw", "csft")]
    own, asked = (("SASRec", "raw"), ("SASRec", "csft")), Evaluation(recommenders=["SASRec"], baselines=[])
    last = (("SASRec", read[0]), ("SASRec", read[1]))
    pairs = significance.pair_stages
    other = (("SASRec", read[0]), ("SASRec", "csft"))  # the last stage against the backbone's other readings
    assert pairs(dataclasses.replace(asked, embeddings=["raw", read[0], "csft", read[1]])) == [own, other, last]
    assert pairs(dataclasses.replace(asked, embeddings=["raw", read[0]])) == []
    assert pairs(dataclasses.replace(asked, embeddings=read[::-1], baselines=["nearest"])) == [last]
    others = ["raw", read[0], "csft", "csft-mean-causal", "csft-last", f"{read[1]}_add_id"]  # none of these has a before
    assert pairs(dataclasses.replace(asked, embeddings=others)) == [own, other]
    chain = [f"{stage}-cls-as_trained" for stage in ("contrastive", "raw", "mntp")]
    steps = [("raw", "mntp"), ("mntp", "contrastive")]
    expected = [tuple(("SASRec", f"{stage}-cls-as_trained") for stage in pair) for pair in steps]
    assert pairs(dataclasses.replace(asked, embeddings=chain)) == expected


def test_text_and_ids_are_tested_against_ids_alone():
    asked = Evaluation(recommenders=["SASRec"], baselines=[], embeddings=["csft", "csft_add_id", "raw_concat_id", "id"])
    added, joined = ((("SASRec", "id"), ("SASRec", name)) for name in ("csft_add_id", "raw_concat_id"))
    assert significance.pair_stages(asked) == [(("SASRec", "id"), ("SASRec", "csft")), added, joined]
    assert significance.pair_stages(dataclasses.replace(asked, embeddings=["csft", "csft_add_id"])) == []


def test_tests_of_pairs_are_kept_with_what_was_evaluated(run):
    trained = [n for n in run.names("evaluation") if "popularity" not in n]
    asked = Evaluation(seeds=SEEDS, tested="mrr", device="cpu", workers=2)
    pairs = [(("SASRec", "raw"), ("SASRec", "csft")), (("popularity", "none"), ("SASRec", "csft"))]
    untrained = ["evaluation/toy/popularity-none-seed0"]
    found = evaluating.compare_pairs(run, ["toy"], pairs, asked, trained, untrained)
    assert found["toy"].equals(significance.compare(run, "toy", pairs, seeds=SEEDS, metric="mrr"))
    made = run.manifest("evaluation/toy/comparisons")
    assert made["settings"] == {"pairs": [[list(row) for row in pair] for pair in pairs], "tested": "mrr"}
    assert list(made["inputs"]) == [*trained, *untrained]
    assert significance.read_recorded(run, "evaluation/toy/comparisons") == found["toy"].to_dicts()
    noted = run.manifest(evaluations.SERIES)["settings"]
    assert noted["evaluations"] == [*trained, "evaluation/toy/comparisons"]
    assert noted["seeds"] == SEEDS
    assert evaluations.read_place(run) == {"device": "cpu", "workers": 2}
    assert evaluating.compare_pairs(run, ["toy"], [], asked, trained) == {}
    assert run.manifest(evaluations.SERIES)["settings"]["evaluations"] == trained


def test_slices_of_several_domains_stand_under_each_other(sliced):
    corpus, run, *_ = sliced
    parts = {"toy": (corpus, np.arange(corpus.n_items + 1))}
    rows = [("SASRec", "raw"), ("SASRec", "id")]
    asked = {"seeds": [1], "metric": "mrr"}
    assert slices.tabulate_domains(run, parts, rows, **asked).equals(slices.tabulate(run, "toy", corpus, rows, **asked))
    found = slices.compare_tables(run, parts, ["SASRec"], "raw", "id", **asked)
    assert list(found) == ["SASRec, toy"]
    assert found["SASRec, toy"].equals(slices.tabulate_gains(run, "toy", corpus, *rows, **asked))
