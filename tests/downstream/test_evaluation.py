"""Shared rows equal plain ones, planted rules are learned, runs repeat, faults are named."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest
import torch
from conftest import make_corpus
from safetensors.numpy import load_file

from llm2rec_kit import evaluating
from llm2rec_kit.corpus import TEST, TRAIN, VALID, Corpus
from llm2rec_kit.downstream import evaluation, fast_ops, ranking, samples
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Evaluation

SETTINGS = Evaluation(
    hidden=16, inner=32, epochs=3, evaluate_every=1, patience=2, batch_size=16, seeds=[1], cutoffs=[3, 10], device="cpu"
)


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
@pytest.mark.parametrize("padding_class", [False, True])
def test_shared_rows_give_the_plain_loss_and_gradient(name, padding_class):
    corpus = make_corpus(users=15, max_history=4, longest=9)
    settings = replace(SETTINGS, padding_class=padding_class)
    torch.manual_seed(0)
    both = evaluation.make_model_and_table(name, corpus.n_items, 4, None, settings).double().eval()
    found = []
    for shared in (True, False):
        rows = samples.make_rows(corpus, corpus.samples("train"), shared=shared)
        value = evaluation.compute_loss(both, rows.histories, rows.labels, settings)
        found.append((value, torch.autograd.grad(value, list(both.parameters())), len(rows)))
    torch.testing.assert_close(found[0][:2], found[1][:2], rtol=1e-9, atol=1e-12)
    assert found[0][2] < found[1][2]


def planted(lag=1, users=120, items=12):
    """Every item is followed by the one `lag` places on: 1 2 3 ... 12 1 2 ... for lag 1; interleaved walks for lag 2."""
    rng = np.random.default_rng(0)
    starts = rng.integers(items, size=(users, lag))
    sequence = ((starts[:, None, :] + np.arange(12 // lag)[:, None]) % items + 1).reshape(users, -1)
    length = sequence.shape[1]
    offsets = np.arange(users + 1) * length
    targets = np.setdiff1d(np.arange(users * length), offsets)
    place = targets % length
    targets, place = targets[place >= lag], place[place >= lag]
    splits = np.where(place == length - 1, TEST, np.where(place == length - 2, VALID, TRAIN)).astype(np.uint8)
    ids = np.arange(1, items + 1, dtype=np.int32)
    frame = pl.DataFrame({"item": ids, "source_id": ids.astype(str), "title": "t", "domain": "d"})
    who = np.arange(users, dtype=np.int32)
    people = pl.DataFrame({"user": who, "source_id": who.astype(str), "domain": "d"})
    return Corpus(frame, people, offsets, sequence.ravel().astype(np.int32), None, targets, splits, 6).check()


PLANTED = replace(
    SETTINGS,
    hidden=32,
    inner=64,
    epochs=30,
    patience=20,
    evaluate_every=10,
    batch_size=64,
    dropout=0.1,
    learning_rate=5e-3,
    learning_rate_gru=5e-3,
    metric="mrr",
)


@pytest.mark.parametrize(
    ("recommender", "lag", "change"),
    [
        ("SASRec", 1, {}),
        ("SASRec", 2, {"shared_prefix": False}),
        ("GRU4Rec", 2, {}),
        ("SASRec", 1, {"loss": "bce", "negatives": 5}),
        ("GRU4Rec", 1, {"loss": "gbce", "negatives": 5, "learning_rate_gru": 0.02}),
        ("SASRec", 1, {"loss": "sampled_softmax", "sampled_items": 6}),
    ],
)
def test_a_planted_rule_is_learned(recommender, lag, change):
    result = evaluation.train_and_rank(planted(lag), None, replace(PLANTED, **change), recommender=recommender, seed=0)
    assert (result.ranks == 1).mean() > 0.95


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("text", {}),
        ("text", {"adapter_widths": [48]}),
        ("concat", {}),
        ("add", {"normalise": "whitened"}),
        ("add", {"loss": "sampled_softmax", "sampled_items": 6}),
    ],
)
def test_a_planted_rule_is_learned_through_text(kind, change):
    corpus = planted()
    table = np.concatenate([np.zeros((1, 24)), np.random.default_rng(0).normal(size=(12, 24))]).astype(np.float32)
    result = evaluation.train_and_rank(corpus, table, replace(PLANTED, **change), recommender="SASRec", seed=0, kind=kind)
    assert (result.ranks == 1).mean() > 0.95


@pytest.mark.usefixtures("bfloat16_allowed")
@pytest.mark.parametrize("change", [{}, {"loss": "sampled_softmax", "sampled_items": 6}])
def test_a_planted_rule_is_learned_in_low_precision(change):
    corpus = planted()
    table = np.concatenate([np.zeros((1, 24)), 3 + np.random.default_rng(0).normal(size=(12, 24))]).astype(np.float32)
    settings = replace(PLANTED, precision="bfloat16", **change)
    result = evaluation.train_and_rank(corpus, table, settings, recommender="SASRec", seed=0)
    assert (result.ranks == 1).mean() > 0.95


def test_excluding_what_is_known_lifts_the_rest():
    corpus = make_corpus(users=40)
    settings = replace(SETTINGS, epochs=1)
    found = {
        what: evaluation.train_and_rank(
            corpus, None, replace(settings, exclude=what, metric="mrr"), recommender="SASRec", seed=0
        )
        for what in ("none", "last", "seen")
    }
    targets = corpus.samples("test")
    seen = ranking.find_excluded(corpus, targets, "seen")
    repeats = np.array(
        [corpus.sequence[t] in seen.items[a:b] for t, a, b in zip(targets, seen.offsets, seen.offsets[1:], strict=False)]
    )
    assert (found["seen"].ranks[repeats] == corpus.n_items).all()
    assert (found["seen"].ranks[~repeats] <= found["last"].ranks[~repeats]).all()
    assert (found["last"].ranks[~repeats] <= found["none"].ranks[~repeats]).all()
    assert (found["seen"].ranks < found["none"].ranks).any()


@pytest.mark.parametrize("change", [{}, {"loss": "sampled_softmax", "sampled_items": 5}])
def test_a_training_repeats_and_leaves_the_random_state_alone(corpus, change):
    before, settings = torch.random.get_rng_state(), replace(SETTINGS, **change)
    one, two = (evaluation.train_and_rank(corpus, None, settings, recommender="SASRec", seed=5) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert (one.ranks == two.ranks).all()
    assert one.curve == two.curve
    assert one.losses == two.losses
    assert one.best_epoch in dict(one.curve)
    other = evaluation.train_and_rank(corpus, None, settings, recommender="SASRec", seed=6)
    assert other.losses != one.losses


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "bce", "gbce"])
def test_the_best_epochs_weights_are_kept(corpus, loss):
    """Ranking again with them gives the ranks of the result."""
    settings = replace(SETTINGS, loss=loss, negatives=3, epochs=6, patience=20, learning_rate=0.05)
    result = evaluation.train_and_rank(corpus, None, settings, recommender="SASRec", seed=5)
    both = evaluation.make_model_and_table("SASRec", corpus.n_items, corpus.max_history, None, settings)
    both.load_state_dict({k: torch.from_numpy(v) for k, v in result.weights.items()})
    both.eval()
    rows = samples.make_rows(corpus, corpus.samples("test"), shared=False)
    again = ranking.rank_rows(both[0], both[1](), rows)
    assert again.ranks.tolist() == result.ranks.tolist()
    best = max(v for _, v in result.curve)
    assert result.best_epoch == min(e for e, v in result.curve if v == best)


def drifting(users=60, items=10):
    """Item 1 comes after every item, and after it the walk goes on: 2 1 3 1 4 1 5 1. Validation asks for 1 once more, which is
    right as long as 1 is only popular; the test target goes on with the walk, which is learned later."""
    walk = (np.random.default_rng(0).integers(items - 1, size=users)[:, None] + np.arange(5)) % (items - 1) + 2
    sequence = np.ones((users, 10), dtype=np.int32)
    sequence[:, [0, 2, 4, 6, 9]] = walk
    offsets = np.arange(users + 1) * 10
    targets = np.setdiff1d(np.arange(users * 10), offsets)
    splits = np.select([targets % 10 == 9, targets % 10 == 8], [TEST, VALID], TRAIN).astype(np.uint8)
    toy = make_corpus(users=users, items=items, max_history=6)
    return replace(toy, offsets=offsets, sequence=sequence.ravel(), targets=targets, splits=splits).check()


DRIFTING = replace(SETTINGS, epochs=8, patience=99, batch_size=64, learning_rate=0.02, learning_rate_gru=0.03, dropout=0.1)


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_validation_decides_the_epoch_where_the_test_targets_would_have_another(name):
    corpus, settings = drifting(), replace(DRIFTING, metric="recall@1")
    swapped = np.select([corpus.splits == VALID, corpus.splits == TEST], [TEST, VALID], TRAIN).astype(np.uint8)
    found = evaluation.train_and_rank(corpus, None, settings, recommender=name, seed=0)
    other = evaluation.train_and_rank(replace(corpus, splits=swapped), None, settings, recommender=name, seed=0)
    assert found.losses == other.losses  # the same training; what is watched differs
    assert found.curve[0] == (1, 1.0)
    assert found.curve[-1] == (8, 0.0)
    assert found.best_epoch == 1
    assert other.best_epoch > 1
    first = evaluation.train_and_rank(corpus, None, replace(settings, epochs=1), recommender=name, seed=0)
    last = evaluation.train_and_rank(corpus, None, replace(settings, evaluate_every=8), recommender=name, seed=0)
    assert found.ranks.tolist() == first.ranks.tolist() != last.ranks.tolist()
    assert (found.ranking.listed == first.ranking.listed).all()
    assert all((found.weights[k] == v).all() for k, v in first.weights.items())


@pytest.mark.parametrize(("patience", "ends"), [(1, 4), (5, 8), (6, 8), (7, 10), (99, 11)])
def test_patience_is_counted_in_epochs_since_the_best(patience, ends):
    settings = replace(DRIFTING, metric="recall@1", epochs=11, evaluate_every=2, patience=patience)
    found = evaluation.train_and_rank(drifting(), None, settings, recommender="SASRec", seed=0)
    assert found.best_epoch == 2
    assert len(found.losses) == ends
    assert [epoch for epoch, _ in found.curve] == sorted({*range(2, ends + 1, 2), ends})


def by_hand(corpus, result, split, settings):
    """Lowest and highest rank that rounding allows each target: one history at a time, in double precision."""
    both = evaluation.make_model_and_table("SASRec", corpus.n_items, corpus.max_history, None, settings)
    both.load_state_dict({k: torch.from_numpy(v) for k, v in result.weights.items()})
    both.double().eval()
    table = both[1]().detach()
    bounds = []
    for t in corpus.samples(split):
        user = int(np.searchsorted(corpus.offsets, t, side="right")) - 1
        had = corpus.sequence[corpus.offsets[user] : t]
        states = both[0](table[torch.from_numpy(had[-corpus.max_history :].astype(np.int64))][None], None)
        scores, truth = (table[1:] @ states[0, -1]).detach().numpy(), corpus.sequence[t]
        left = [i for i in range(1, corpus.n_items + 1) if settings.exclude == "none" or i not in had]
        above = [1 + sum(scores[i - 1] > scores[truth - 1] + d for i in left if i != truth) for d in (1e-5, -1e-5)]
        bounds.append(above if truth in left else [corpus.n_items] * 2)
    return np.array(bounds).T


@pytest.mark.parametrize("exclude", ["none", "seen"])
def test_curve_and_ranks_are_those_of_plain_scores(exclude):
    """Epoch by epoch: a training of k epochs that is looked at once has the weights of epoch k."""
    corpus = make_corpus(users=40, items=30, seed=2)
    settings = replace(SETTINGS, epochs=4, patience=99, exclude=exclude, metric="recall@7", learning_rate=0.02, dropout=0.1)
    found = evaluation.train_and_rank(corpus, None, settings, recommender="SASRec", seed=3)
    for epoch, value in found.curve:
        until = replace(settings, epochs=epoch, evaluate_every=epoch)
        then = evaluation.train_and_rank(corpus, None, until, recommender="SASRec", seed=3)
        low, high = by_hand(corpus, then, "valid", settings)
        assert (high <= 7).mean() <= value <= (low <= 7).mean()
        assert (high != low).mean() < 0.05
        if epoch == found.best_epoch:
            low, high = by_hand(corpus, then, "test", settings)
            assert (low <= found.ranks).all()
            assert (found.ranks <= high).all()
    assert len(found.curve) == 4


def test_who_is_not_drawn_is_not_learned_from_and_is_tested(corpus):
    """What the other users' training and validation samples ask for changes no bit; what the drawn ones' ask for does."""
    settings = replace(SETTINGS, user_share=0.4, metric="mrr")
    drawn = {*np.random.default_rng(5).permutation(corpus.n_users)[: round(0.4 * corpus.n_users)].tolist()}
    of = corpus.owners(corpus.targets)
    outside = ~np.isin(of, [*drawn])

    def train(change, split):
        """Train where a sample of this split of each user in `change` is gone."""
        first = np.unique(np.where(corpus.splits == split, of, -1), return_index=True)[1]
        gone = np.isin(np.arange(len(of)), first) & change & (corpus.splits == split)
        assert 0 < gone.sum() < (corpus.splits == split).sum()
        left = replace(corpus, targets=corpus.targets[~gone], splits=corpus.splits[~gone])
        return evaluation.train_and_rank(left, None, settings, recommender="SASRec", seed=5)

    whole = evaluation.train_and_rank(corpus, None, settings, recommender="SASRec", seed=5)
    assert len(whole.ranks) == len(corpus.samples("test"))
    for split in (TRAIN, VALID):
        found = train(outside, split)
        assert (found.losses, found.curve) == (whole.losses, whole.curve)
    assert train(~outside, TRAIN).losses != whole.losses
    all_of_them = replace(settings, user_share=1.0)
    found = evaluation.train_and_rank(corpus, None, all_of_them, recommender="SASRec", seed=5)
    assert found.curve != whole.curve


def test_held_out_targets_are_not_learned_from(corpus):
    """Other items as validation and test targets: the same losses and the same weights."""
    settings = replace(SETTINGS, evaluate_every=3)
    sequence = corpus.sequence.copy()
    held = np.concatenate([corpus.samples("valid"), corpus.samples("test")])
    sequence[held] = sequence[held] % corpus.n_items + 1
    one, two = (
        evaluation.train_and_rank(c, None, settings, recommender="SASRec", seed=5)
        for c in (corpus, replace(corpus, sequence=sequence))
    )
    assert one.losses == two.losses
    assert all((one.weights[k] == v).all() for k, v in two.weights.items())
    assert one.ranks.tolist() != two.ranks.tolist()


def test_many_trainings_equal_one_by_one(corpus, tmp_path):
    rng = np.random.default_rng(0)
    tables = {"raw": rng.normal(size=(corpus.n_items + 1, 6)).astype(np.float32)}
    parts = {"toy": corpus.select(["toy"])}
    names = ("raw", "id", "raw_concat_id", "id_detached")
    jobs = [evaluation.Job("toy", "SASRec", name, seed) for name in names for seed in (1, 2)]
    counts = np.ones(corpus.n_items)
    kinds = {"raw": "text", "id": "id", "raw_concat_id": "concat", "id_detached": "id_detached"}
    for job, result in evaluation.train_many(jobs, parts, tables, replace(SETTINGS, workers=2)):
        vectors = tables["raw"] if job.embedding.startswith("raw") else None
        alone = evaluation.train_and_rank(
            corpus, vectors, SETTINGS, recommender="SASRec", seed=job.seed, kind=kinds[job.embedding]
        )
        assert (alone.ranks == result.ranks).all()
        assert 0 < result.cost["cpu_seconds"] <= 2 * result.cost["seconds"] + 1  # of its own process, one thread
        assert (alone.ranking.listed == result.ranking.listed).all()
        record = evaluation.write(result, tmp_path, job.name.split("/")[-1], counts)
        assert record["metrics"]["recall@3"] == (alone.ranks <= 3).mean()
        assert set(record["lists"]) == {"coverage@3", "novelty@3", "coverage@10", "novelty@10"}
    kept = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    assert kept == sorted(f"SASRec-{name}-seed1.safetensors" for name in names)  # of the first seed alone
    assert set(load_file(tmp_path / kept[0])) == set(
        evaluation.make_model_and_table("SASRec", 16, 4, None, SETTINGS).state_dict()
    )


def test_one_worker_needs_no_process_and_gives_the_same(corpus, monkeypatch):
    jobs = [evaluation.Job("toy", "SASRec", "id", seed) for seed in (1, 2)]
    parts = {"toy": corpus.select(["toy"])}
    many = dict(evaluation.train_many(jobs, parts, {}, replace(SETTINGS, workers=2, device="cpu")))
    monkeypatch.setattr(evaluation, "open_workers", None)
    torch.set_num_threads(2)
    try:
        one = [
            result.ranks for _, result in evaluation.train_many(jobs, parts, {}, replace(SETTINGS, workers=1, device="cpu"))
        ]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert np.array_equal(one, [many[job].ranks for job in jobs])


def test_what_is_done_is_there_at_once_and_after_an_error_what_was_handed_out_too(capsys):
    jobs = [evaluation.Job("toy", "SASRec", "id", seed) for seed in range(6)]
    given = {}

    def submit(job):
        given[job] = Future()
        if job == jobs[1]:
            given[job].set_result("second")
        return given[job]

    trainings = evaluation._as_they_are_done(jobs, submit, 2)
    assert next(trainings) == (jobs[1], "second")  # behind the first, which is under way
    given[jobs[0]].set_exception(ValueError("diverged"))
    threading.Timer(0.3, lambda: given[jobs[2]].set_result("third")).start()
    threading.Timer(0.6, lambda: given[jobs[3]].set_result("fourth")).start()
    assert next(trainings) == (jobs[2], "third")
    assert next(trainings) == (jobs[3], "fourth")
    with pytest.raises(ValueError, match="diverged"):
        next(trainings)
    assert [*given] == jobs[:4]
    assert "toy/SASRec-id-seed0 failed; what is under way is finished and kept" in capsys.readouterr().out


def test_a_training_that_fails_loses_no_other_that_is_under_way(tmp_path, corpus):
    run, (bad, good) = Run("r", tmp_path), [evaluation.Job("toy", "SASRec", name, 1) for name in ("raw", "id")]
    run.make("corpus", corpus.save, settings={}, quiet=True)
    table = np.full((corpus.n_items + 1, 4), np.nan, dtype=np.float32)
    run.make("embeddings/raw", lambda f: np.save(f / "raw.npy", table), settings={}, quiet=True)
    with pytest.raises(ValueError, match="Embeddings hold NaN or infinity in 17 rows"):
        evaluating.evaluate(run, [bad, good], replace(SETTINGS, workers=2))
    assert [run.has(job.name) for job in (bad, good)] == [False, True]


WORKERS = """
import sys
sys.path.insert(0, {tests!r})
if __name__ == "__main__":
    from conftest import make_corpus
    from llm2rec_kit.downstream import evaluation
    from llm2rec_kit.runs import workers
    from llm2rec_kit.settings import Evaluation

    class Telling(workers.ProcessPoolExecutor):
        def submit(self, *words):
            future = super().submit(*words)
            print(*self._processes, flush=True)
            return future

    workers.ProcessPoolExecutor = Telling
    corpus = make_corpus(users=400, longest=30)
    settings = Evaluation(hidden=16, inner=32, epochs=10**6, patience=10**6, workers=2, cutoffs=[3], device="cpu")
    jobs = [evaluation.Job("toy", "SASRec", "id", seed) for seed in (1, 2)]
    list(evaluation.train_many(jobs, {{"toy": corpus.select(["toy"])}}, {{}}, settings))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_a_killed_or_interrupted_run_leaves_no_worker_behind(tmp_path, how):
    script = tmp_path / "work.py"
    script.write_text(WORKERS.format(tests=str(Path(__file__).parents[1])))
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        process.stdout.readline()
        workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        process.send_signal(how)
        process.wait(timeout=300)
        _, alive = psutil.wait_procs(workers, timeout=300)
        assert not alive
    finally:
        process.kill()


def test_ranks_stand_in_the_order_of_the_corpus(corpus):
    """As the baselines' do, also where the corpus does not list its samples by position."""
    order = np.random.default_rng(1).permutation(len(corpus.targets))
    mixed = replace(corpus, targets=corpus.targets[order], splits=corpus.splits[order]).check()
    straight, found = (evaluation.train_and_rank(c, None, SETTINGS, recommender="SASRec", seed=5) for c in (corpus, mixed))
    by_target = dict(zip(corpus.samples("test").tolist(), straight.ranks.tolist(), strict=True))
    assert mixed.samples("test").tolist() != corpus.samples("test").tolist()
    assert found.ranks.tolist() == [by_target[t] for t in mixed.samples("test").tolist()]


def test_the_loss_of_an_epoch_is_the_mean_over_samples():
    """Weights stand still, so batches of any size must give the loss of all samples at once."""
    corpus = make_corpus(users=40)
    torch.manual_seed(0)
    settings = replace(SETTINGS, dropout=0.0, batch_size=7)
    both = evaluation.make_model_and_table("SASRec", corpus.n_items, 4, None, settings).double()
    rows = samples.make_rows(corpus, corpus.samples("train"), shared=True)
    still = torch.optim.SGD(both.parameters(), lr=0.0)
    found = evaluation.train_epoch(both, rows, still, settings, (0, 1))
    assert found == pytest.approx(evaluation.compute_loss(both, rows.histories, rows.labels, settings).item(), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "evaluation_epochs must be at least 1; found 0"),
        ({"evaluate_every": 0}, "evaluation_evaluate_every must be"),
        ({"batch_size": 0}, "evaluation_batch_size must be"),
        ({"dropout": 1.0}, "evaluation_dropout must be"),
        ({"adapter_widths": [8, 0]}, "at least 1; found 0"),
        ({"metric": "hit@3"}, "'hit@3' is none of"),
        ({"cutoffs": [10, 0]}, "evaluation_cutoffs must be at least 1; found 0"),
        ({"cutoffs": [10, 17]}, "catalogue's 16 items; found 17"),
        ({"hidden": 15, "heads": 1}, "must be even"),
    ],
)
def test_settings_that_cannot_work_are_named_before_training(corpus, change, words):
    table = np.ones((corpus.n_items + 1, 3), dtype=np.float32)
    with pytest.raises(ValueError, match=words):
        evaluation.train_and_rank(corpus, table, replace(SETTINGS, **change), recommender="SASRec", seed=0, kind="concat")


def test_low_precision_is_refused_where_it_would_be_emulated(corpus, monkeypatch):
    monkeypatch.setattr(fast_ops, "has_fast_bfloat16", lambda: False)
    with pytest.raises(ValueError, match="needs a CPU with AVX512-BF16"):
        evaluation.train_and_rank(corpus, None, replace(SETTINGS, precision="bfloat16"), recommender="SASRec", seed=0)


@pytest.mark.parametrize("split", [TRAIN, VALID, TEST])
def test_an_empty_split_is_named(corpus, split):
    other = VALID if split == TRAIN else TRAIN
    emptied = replace(corpus, splits=np.where(corpus.splits == split, other, corpus.splits).astype(np.uint8))
    name = {TRAIN: "train", VALID: "valid", TEST: "test"}[split]
    with pytest.raises(ValueError, match=f"{name} split has no sample"):
        evaluation.train_and_rank(emptied, None, SETTINGS, recommender="SASRec", seed=0)


@pytest.mark.parametrize("bad", [0, 17, -1])
def test_ids_out_of_range_are_named(corpus, bad):
    sequence = corpus.sequence.copy()
    sequence[3] = bad
    with pytest.raises(ValueError, match=r"item ids 1\.\.16; found"):
        evaluation.train_and_rank(replace(corpus, sequence=sequence), None, SETTINGS, recommender="SASRec", seed=0)


@pytest.mark.parametrize(
    ("table", "words"), [(np.ones((16, 3)), r"\(17, dim\)"), (np.full((17, 3), np.nan), "NaN or infinity in 17")]
)
def test_tables_that_do_not_fit_are_named(corpus, table, words):
    with pytest.raises(ValueError, match=words):
        evaluation.train_and_rank(corpus, table, SETTINGS, recommender="SASRec", seed=0)


def test_a_training_that_diverges_is_named(corpus):
    settings = replace(SETTINGS, learning_rate=1e30)
    with pytest.raises(ValueError, match="NaN or infinite"):
        evaluation.train_and_rank(corpus, None, settings, recommender="SASRec", seed=0)


def test_where_trainings_run(monkeypatch):
    assert evaluation.choose_device(replace(SETTINGS, device="cpu")) == ("cpu", "asked for")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert evaluation.choose_device(replace(SETTINGS, device="auto"))[0] == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert evaluation.choose_device(replace(SETTINGS, device="auto"))[0] == "cuda"


def test_baselines_learn_from_the_users_that_the_first_seeds_recommenders_have(corpus, tmp_path):
    settings = replace(
        SETTINGS, user_share=0.3, seeds=[7, 8], baselines=["popularity", "bm25"], recommenders=[], embeddings=[]
    )
    found, titles = [], []
    for name, asked in (("few", settings), ("all", replace(settings, user_share=1.0))):
        run = Run(name, tmp_path)
        run.make("corpus", lambda folder: corpus.save(folder), settings={}, quiet=True)
        made, by_title = evaluating.rank_baselines(run, {"toy": (corpus, np.arange(corpus.n_items + 1))}, {}, asked)
        titles.append(run.manifest(by_title)["settings"])
        found.append((np.load(run.file(made, f"{made.split('/')[-1]}.npy")), run.manifest(made)["settings"]))
    few = np.random.default_rng(7).permutation(corpus.n_users)[: round(0.3 * corpus.n_users)]
    counts = np.zeros(corpus.n_items + 1)
    for user in few:  # a training interaction is one before the user's last training target, or that target
        theirs = [t for t in corpus.samples("train") if corpus.owners(np.array([t]))[0] == user]
        for target in theirs[-1:]:
            np.add.at(counts, corpus.sequence[corpus.offsets[user] : target + 1], 1)
    wanted = [(counts[1:] >= counts[target]).sum() for target in corpus.sequence[corpus.samples("test")]]
    assert found[0][0].tolist() == wanted
    assert found[1][0].tolist() != wanted
    assert titles[0] == titles[1]  # it learns from nobody
    assert found[0][1] == found[1][1] | {"user_share": 0.3, "drawn_by": 7}


def test_settings_that_came_later_leave_earlier_evaluations_as_they_are():
    """Whoever evaluated before there were a start and a scale had today's defaults, and is not made to train again."""
    earlier = evaluation.list_settings(SETTINGS)
    assert not {"initialisation", "scale", "ties", "sampled_items"} & earlier.keys()
    assert evaluation.list_settings(replace(SETTINGS, initialisation="official")) == earlier | {"initialisation": "official"}
    assert evaluation.list_settings(replace(SETTINGS, scale=100.0)) == earlier | {"scale": 100.0}
    assert evaluation.list_settings(replace(SETTINGS, ties="mean")) == earlier | {"ties": "mean"}


def test_items_of_one_vector_rank_as_ties_are_asked_for(corpus, tmp_path):
    """Weights are alike after one epoch, whatever validation made of it; only the target's place among its twins is not."""
    table = np.random.default_rng(0).standard_normal((corpus.n_items + 1, 4), dtype=np.float32)
    table[2::2] = table[1:-1:2]  # pairs of twins
    found = {}
    for ties in ("worst", "mean", "best"):
        settings = replace(SETTINGS, epochs=1, ties=ties)
        found[ties] = evaluation.train_and_rank(corpus, table, settings, recommender="SASRec", seed=0)
    places = found["mean"].ranks
    assert places[:, 1].tolist() == found["worst"].ranks.tolist() == (places[:, 0] + 1).tolist()
    assert places[:, 0].tolist() == found["best"].ranks.tolist()
    low, mean, high = (
        evaluation.write(found[ties], tmp_path, ties, np.ones(corpus.n_items))["metrics"]["ndcg@3"] for ties in found
    )
    assert low < mean < high
    assert np.load(tmp_path / "mean.npy").tolist() == places.tolist()


def test_what_takes_seconds_is_trained_without_processes_unless_asked(corpus, monkeypatch):
    """Two processes take longer to start than a small store takes to train."""

    def refuse(*args, **kwargs):
        raise ChildProcessError

    monkeypatch.setattr(evaluation, "open_workers", refuse)
    monkeypatch.setattr(evaluation, "count_cores", lambda: 2)
    jobs = [evaluation.Job("toy", "SASRec", "id", seed) for seed in (1, 2)]
    parts = {"toy": corpus.select(["toy"])}
    short = replace(SETTINGS, device="cpu", epochs=2)
    assert len(list(evaluation.train_many(jobs, parts, {}, short))) == 2
    for longer in (replace(short, epochs=10**6), replace(short, workers=2)):
        with pytest.raises(ChildProcessError):
            list(evaluation.train_many(jobs, parts, {}, longer))
