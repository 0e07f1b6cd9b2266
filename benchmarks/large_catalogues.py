"""Training over very many items: a sampled softmax against the full one, in time, in memory and in recall.

    python benchmarks/large_catalogues.py                                   100,000 and 1,000,000 items, 896 wide and trained ids
    python benchmarks/large_catalogues.py --items 1000000 --rank 8192       and 8,192 samples ranked among them: seconds, peak memory
    python benchmarks/large_catalogues.py --items --run RUN --seeds 3       Recall@10 of both on the corpus of a run

Both losses take steps of 256 samples in turn, on the same model, in one process on one thread; times are processor time, which
other programs disturb least. A table of a million items by 896 takes 3.6 GB, the full softmax's step as much again.
For the recall, items' vectors are hashed words of their titles; both losses train to patience from the same starts.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch
from downstream import DIM, SETTINGS, generated, hashed, timed
from scipy import stats

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream import evaluation, losses, optimizers, ranking, recommenders, samples
from llm2rec_kit.results import metrics
from llm2rec_kit.settings import Evaluation

FULL, SAMPLED = "softmax", "sampled_softmax"


class Steps:
    """One model and item table that take the training steps of either loss."""

    def __init__(self, corpus: Corpus, table: np.ndarray | None) -> None:
        evaluation.keep_freed_memory()  # as the processes that train do
        torch.manual_seed(0)
        self.both = evaluation.make_model_and_table("SASRec", corpus.n_items, corpus.max_history, table, SETTINGS)
        self.rows = samples.make_rows(corpus, corpus.samples("train"), shared=True)
        self.tests = samples.make_rows(corpus, corpus.samples("test"), shared=False)
        self.settings = {name: Evaluation(**{**SETTINGS.as_dict(), "loss": name}) for name in (FULL, SAMPLED)}
        self.samplers = {name: losses.Sampler.of(self.rows.labels, corpus.n_items, s) for name, s in self.settings.items()}
        self.optimizers: dict[str, torch.optim.Optimizer | optimizers.Together] = {}
        self.drawn = torch.Generator().manual_seed(0)
        self.order: list[samples.Batch] = []

    def take(self, name: str) -> None:
        """Take the next batch with the loss `name`, as `evaluation.train_epoch` does."""
        if not self.order:
            self.order = samples.draw_batches(self.rows.samples, SETTINGS.batch_size, np.random.default_rng(0))[::-1]
            recommenders.draw_from(self.both[0], np.random.SFC64(0))
        settings = self.settings[name]
        if name not in self.optimizers:
            self.optimizers[name] = optimizers.make_optimizer(self.both, settings, "SASRec")
        self.both.train()
        batch = self.rows.take(self.order.pop())
        value = evaluation.compute_loss(self.both, *batch, settings, self.drawn, self.samplers[name])
        self.optimizers[name].zero_grad()
        value.backward()
        self.optimizers[name].step()
        value.item()

    def factors(self, rounds: int) -> dict[str, np.ndarray]:
        """{loss: processor ms of a step (rounds,)}, both in turn; a round before them warms up. Of the sampled one, the mean of four."""
        found: dict[str, list[float]] = {FULL: [], SAMPLED: []}
        for _ in range(rounds + 1):
            found[FULL].append(timed(lambda: self.take(FULL))[1])
            for p in self.both.parameters():
                p.grad = None
            found[SAMPLED].append(timed(lambda: [self.take(SAMPLED) for _ in range(4)])[1] / 4)
        return {name: np.array(each[1:]) for name, each in found.items()}

    def rank(self, many: int) -> np.ndarray:
        """Rank `many` test samples: (wall, processor) ms."""
        with torch.no_grad():
            items = self.both.eval()[1]()
            some = samples.Rows(self.tests.histories[:many], self.tests.labels[:many])
            return timed(lambda: ranking.rank_rows(self.both[0], items, some))


def made(n_items: int, what: str, users: int = 2000) -> Steps:
    """Steps over `n_items` items with random vectors, or with ids alone where `what` is id."""
    table = None
    if what == "text":
        table = np.random.default_rng(0).standard_normal((n_items + 1, DIM), dtype=np.float32)
        table *= 0.1
    return Steps(generated(users, n_items), table)


def peak() -> float:
    """Most memory that this process has had, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def speed(sizes: list[int], tables: list[str], rounds: int) -> None:
    """Print milliseconds a step of either loss, and how many times the full one's the sampled one is."""
    rows = []
    for n_items in sizes:
        for what in tables:
            found = made(n_items, what).factors(rounds)
            ratio = found[FULL] / found[SAMPLED]
            rows.append(
                {"items": n_items, "table": what}
                | {f"{name}, ms": float(np.median(each)) for name, each in found.items()}
                | {"factor": f"{np.median(ratio):.0f}x ({ratio.min():.0f} to {ratio.max():.0f})"}
            )
    print(f"\na step of 256 samples, {SETTINGS.sampled_items:,} items drawn, {rounds} rounds in turn, one thread, processor time;"
          f" load {os.getloadavg()[0]:.1f}")  # fmt: skip
    print(pl.DataFrame(rows))


def ranked(n_items: int, many: int) -> None:
    """Print what ranking `many` samples among `n_items` takes, with the sampled softmax's training before it."""
    steps = made(n_items, "text", max(2000, many))
    for _ in range(4):
        steps.take(SAMPLED)
    trained = peak()
    wall, own = steps.rank(many)
    print(
        f"\n{many:,} samples ranked among {n_items:,} items x {DIM}: {own / 1e3:.1f} s of processor time, {wall / 1e3:.1f} s; "
        f"most memory {peak():.2f} GiB ({trained:.2f} before ranking); load {os.getloadavg()[0]:.1f}"
    )


def quality(folder: Path, seeds: list[int], counts: list[int], what: str, recommender: str, epochs: int, wide: int) -> None:
    """Print test metrics of either loss, mean and deviation over seeds, and Welch's p against the full one."""
    corpus = Corpus.load(folder / "corpus" if (folder / "corpus").is_dir() else folder)
    table = None if what == "id" else hashed(corpus.titles, wide)
    ways = {"full": {}} | {f"{n:,} items drawn": {"loss": SAMPLED, "sampled_items": n} for n in counts}
    found: dict[str, list[float]] = {}
    print(
        f"\n{corpus.n_items:,} items, {len(corpus.samples('train')):,} training samples, {recommender} over {what}, seeds {seeds}"
    )
    for seed in seeds:
        for way, change in ways.items():
            settings = Evaluation(**{**SETTINGS.as_dict(), "epochs": epochs, **change})
            began = time.process_time()
            result = evaluation.train_and_rank(corpus, table, settings, recommender=recommender, seed=seed)
            took = (time.process_time() - began) / len(result.losses)
            got = metrics.summarise(result.ranks, settings.cutoffs)
            found.setdefault(way, []).append(got["recall@10"])
            print(f"  {way}, {seed}: recall@10 {got['recall@10']:.4f}, ndcg@10 {got['ndcg@10']:.4f}, best of {len(result.losses)} "
                  f"epochs {result.best_epoch}, {took:.1f} processor s an epoch", flush=True)  # fmt: skip
    for way, each in found.items():
        told = f"{way}: recall@10 {np.mean(each):.4f} ± {np.std(each, ddof=min(1, len(each) - 1)):.4f}"
        if way != "full" and len(seeds) > 1:
            told += f", p {stats.ttest_ind(each, found['full'], equal_var=False).pvalue:.2f}"
        print(told)


def short() -> dict[str, float]:
    """Ratios of the short form: full over sampled softmax at 100,000 items, text and ids."""
    torch.set_num_threads(1)
    return {
        f"a step at 100,000 items, {what}, full over sampled softmax": float(np.median(f[FULL] / f[SAMPLED]))
        for what in ("text", "id")
        for f in [made(100_000, what).factors(3)]
    }


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--tables", nargs="+", choices=("text", "id"), default=["text", "id"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank", type=int, default=0, metavar="SAMPLES", help="rank so many instead, with text alone")
    parser.add_argument("--run", type=Path, help="folder of a run, or of a corpus")
    parser.add_argument("--seeds", type=int, default=3, help="so many, from 1 on")
    parser.add_argument("--drawn", type=int, nargs="+", default=[SETTINGS.sampled_items])
    parser.add_argument("--recommender", choices=("SASRec", "GRU4Rec"), default="SASRec")
    parser.add_argument("--epochs", type=int, default=SETTINGS.epochs)
    parser.add_argument("--wide", type=int, default=DIM, help="of the vectors of the recall (default: %(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, float_precision=1, tbl_width_chars=160)
    if given.rank:
        for n_items in given.items:
            ranked(n_items, given.rank)
    elif given.items:
        speed(given.items, given.tables, given.rounds)
    if given.run:
        for what in given.tables:
            quality(
                given.run, list(range(1, given.seeds + 1)), given.drawn, what, given.recommender, given.epochs, given.wide
            )


if __name__ == "__main__":
    main()
