"""Evaluation: train a recommender over an item table, rank every test target against the full catalogue, keep the ranks.

All samples live on the device as two tensors. Samples of a user that begin at the same history item are read off one row
(both recommenders are causal, so the state at a place does not know what follows): the same loss and gradient as one row
a sample, for a fraction of the work. `shared_prefix=False` is the plain path.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream import metrics, recommenders
from llm2rec_kit.runs import Run

ORDER = ("raw", "csft", "mntp", "contrastive", "id")  # of tables and figures
CHUNK = 2048  # samples whose scores over the catalogue are held at once


@dataclass(frozen=True)
class Rows:
    """Right-padded item rows and what to predict after each place: histories and labels int64 (R, L), 0 for none."""

    histories: torch.Tensor
    labels: torch.Tensor

    @property
    def samples(self) -> np.ndarray:
        """Samples in each row."""
        return (self.labels > 0).sum(1).cpu().numpy()


@dataclass(frozen=True)
class Result:
    """One training: test ranks, the validation curve [(epoch, metric)], losses an epoch, and how it ended."""

    ranks: np.ndarray
    recommender: str
    seed: int
    curve: list[tuple[int, float]]
    losses: list[float]
    best_epoch: int
    seconds: float
    cutoffs: list[int] = field(default_factory=lambda: [10, 20])


def rows_of(corpus: Corpus, targets: np.ndarray, *, shared: bool) -> Rows:
    """Samples as rows: those with one start in one row where `shared`, else one row each in the order of `targets`."""
    targets = np.sort(targets) if shared else targets
    starts = corpus.starts(targets)
    row = np.cumsum(np.diff(starts, prepend=-1) != 0) - 1 if shared else np.arange(len(targets))
    first = np.searchsorted(row, np.arange(row[-1] + 1 if len(row) else 0))
    last = np.append(first[1:], len(row)) - 1 if len(row) else first
    length = targets[last] - starts[last]
    place = np.arange(corpus.max_history)
    inside = place < length[:, None]
    where = np.where(inside, starts[first][:, None] + place, 0)
    histories = np.where(inside, corpus.sequence[where], 0).astype(np.int64)
    labels = np.zeros_like(histories)
    labels[row, targets - starts - 1] = corpus.sequence[targets]
    return Rows(torch.from_numpy(histories), torch.from_numpy(labels))


def loss(
    model: nn.Module, table: torch.Tensor, histories: torch.Tensor, labels: torch.Tensor, *, padding_class: bool = False
) -> torch.Tensor:
    """Mean cross-entropy over the full catalogue of every sample in the rows; states without a label cost no logits."""
    states = model(F.embedding(histories, table))
    asked = labels > 0
    if padding_class:
        return F.cross_entropy(states[asked] @ table.T, labels[asked])
    return F.cross_entropy(states[asked] @ table[1:].T, labels[asked] - 1)


@torch.no_grad()
def ranks(model: nn.Module, table: torch.Tensor, rows: Rows) -> np.ndarray:
    """Rank of each sample's target among items 1..N: int32, in the order of the rows (one sample each).

    Counted, never sorted: the items that score no lower than the target. Padding is excluded, history is not.
    """
    model.eval()
    out = []
    for at in range(0, len(rows.histories), CHUNK):
        histories, labels = rows.histories[at : at + CHUNK], rows.labels[at : at + CHUNK]
        states = model(F.embedding(histories, table))[labels > 0]
        scores = states @ table[1:].T
        own = scores.gather(1, labels[labels > 0][:, None] - 1)
        if not torch.isfinite(own).all():
            raise ValueError("The recommender scores NaN or infinity: training diverged. Lower the learning rate.")
        out.append((scores >= own).sum(1).to(torch.int32).cpu())
    return torch.cat(out).numpy()


def train_and_rank(
    corpus: Corpus,
    embeddings: np.ndarray | None,
    settings: S.Evaluation,
    *,
    recommender: str,
    seed: int,
    device: str = "cpu",
) -> Result:
    """Train `recommender` over `embeddings` (N + 1, dim), or over trainable ids, and rank the test targets.

    AdamW, cross-entropy over the catalogue, best weights by `settings.metric` on the validation split (paper sec. 4.1.3).
    Raises ValueError for an empty split or embeddings that do not fit. The caller's random state is left as it was.
    """
    _check(settings)
    rows = {}
    for split in ("train", "valid", "test"):
        if not len(targets := corpus.samples(split)):
            raise ValueError(f"The {split} split has no sample; see the statistics in notebooks/01_data_prep.ipynb.")
        built = rows_of(corpus, targets, shared=settings.shared_prefix and split == "train")
        rows[split] = Rows(built.histories.to(device), built.labels.to(device))
    began = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        table = recommenders.ItemTable(corpus.n_items, settings.hidden, embeddings, settings.normalise).to(device)
        model = recommenders.make(recommender, settings, corpus.max_history).to(device)
        curve, losses, best = _fit(nn.ModuleList([model, table]), rows, settings, recommender, seed)
        with torch.no_grad():
            found = ranks(model, table(), rows["test"])
    return Result(found, recommender, seed, curve, losses, best, time.perf_counter() - began, settings.cutoffs)


@dataclass(frozen=True)
class Job:
    """One training: which domain's data, which recommender over which table ("id" for trainable ids), which seed."""

    domain: str
    recommender: str
    embedding: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its artefact in a run."""
        return f"evaluation/{self.domain}/{self.recommender}-{self.embedding}-seed{self.seed}"


def train_many(
    jobs: list[Job], parts: dict[str, tuple[Corpus, np.ndarray]], tables: dict[str, np.ndarray], settings: S.Evaluation
) -> Iterator[tuple[Job, Result]]:
    """Train every job, several at a time in processes of their own, and yield each with its result, in order.

    `parts` is {domain: (corpus, ids)} as `Corpus.select` gives them, `tables` {stage: (items + 1, dim)}. Every training computes
    on one thread, so the number of workers changes nothing but the time: small matrices keep one core busy, not two.
    """
    workers = min(settings.workers or os.cpu_count() or 1, max(1, len(jobs)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(parts, tables, settings)
    ) as pool:
        try:
            yield from zip(jobs, pool.map(_do, jobs), strict=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_WORK: tuple = ()


def _start_worker(*work: Any) -> None:
    global _WORK
    _WORK = work
    torch.set_num_threads(1)


def _do(job: Job) -> Result:
    parts, tables, settings = _WORK
    part, ids = parts[job.domain]
    vectors = None if job.embedding == "id" else tables[job.embedding][ids]
    return train_and_rank(part, vectors, settings, recommender=job.recommender, seed=job.seed)


def _check(settings: S.Evaluation) -> None:
    """Raise ValueError for settings that would only fail, or mislead, once a training is under way."""
    for name in ("epochs", "evaluate_every", "batch_size"):
        if (value := getattr(settings, name)) < 1:
            raise ValueError(f"evaluation_{name} must be at least 1; found {value}.")
    for metric in (settings.metric, *(f"recall@{k}" for k in settings.cutoffs)):
        metrics.per_user(np.ones(1, dtype=np.int32), metric)


def _fit(
    both: nn.ModuleList, rows: dict[str, Rows], settings: S.Evaluation, recommender: str, seed: int
) -> tuple[list[tuple[int, float]], list[float], int]:
    """Train (model, table) in place, leave the best weights in it; returns validation curve, losses and best epoch."""
    model, table = both
    rate = settings.learning_rate if recommender == "SASRec" else settings.learning_rate_gru
    trained = [p for p in both.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=settings.weight_decay, fused=True)
    curve, losses, best, kept = [], [], (-1.0, 0), None
    for epoch in tqdm(range(1, settings.epochs + 1), desc=recommender, leave=False, disable=not sys.stderr.isatty()):
        losses.append(_epoch(model, table, rows["train"], optimizer, settings, np.random.default_rng([seed, epoch])))
        if epoch % settings.evaluate_every and epoch != settings.epochs:
            continue
        with torch.no_grad():
            value = float(metrics.per_user(ranks(model, table(), rows["valid"]), settings.metric).mean())
        curve.append((epoch, value))
        if value > best[0]:
            best, kept = (value, epoch), copy.deepcopy(both.state_dict())
        elif epoch - best[1] >= settings.patience:
            break
    both.load_state_dict(kept)
    return curve, losses, best[1]


def _epoch(
    model: nn.Module,
    table: nn.Module,
    rows: Rows,
    optimizer: torch.optim.Optimizer,
    settings: S.Evaluation,
    rng: np.random.Generator,
) -> float:
    """One pass over the training rows in batches of `batch_size` samples on average; returns the mean loss."""
    model.train()
    total, count = 0.0, 0
    samples = rows.samples
    for some in batches(samples, settings.batch_size, rng):
        histories, labels = rows.histories[some], rows.labels[some]
        longest = int((histories > 0).sum(1).max())
        value = loss(model, table(), histories[:, :longest], labels[:, :longest], padding_class=settings.padding_class)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        size = int(samples[some].sum())
        total, count = total + value.item() * size, count + size
    return total / count


def batches(samples: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[torch.Tensor]:
    """Rows in a random order, cut so that a batch holds `batch_size` samples on average."""
    order = rng.permutation(len(samples))
    done = np.cumsum(samples[order])
    steps = max(1, round(done[-1] / batch_size))
    cuts = np.searchsorted(done, np.arange(1, steps) * done[-1] / steps)
    return [torch.from_numpy(part) for part in np.split(order, cuts) if len(part)]


def write(result: Result, folder: Path, name: str) -> dict[str, Any]:
    """Save the ranks as `<name>.npy` in `folder` and return the record: metrics, curve, epochs. No seconds: they differ
    from run to run."""
    facts = {
        "recommender": result.recommender,
        "seed": result.seed,
        "curve": result.curve,
        "losses": result.losses,
        "epochs": len(result.losses),
        "best_epoch": result.best_epoch,
    }
    return write_ranks(result.ranks, folder, name, cutoffs=result.cutoffs, facts=facts)


def write_ranks(ranks: np.ndarray, folder: Path, name: str, *, cutoffs: list[int], facts: dict[str, Any]) -> dict[str, Any]:
    """Save ranks (int32, one a test sample) as `<name>.npy` in `folder`; returns `facts` with their metrics."""
    np.save(folder / f"{name}.npy", ranks.astype(np.int32))
    return {**facts, "samples": len(ranks), "metrics": metrics.summary(ranks, cutoffs)}


def table(run: Run, names: list[str] | None = None) -> pl.DataFrame:
    """domain, recommender, embedding, seeds, and mean and (population) std of each metric over seeds.

    `names` are the artefacts to read; without, all of the run, also those left from other settings.
    """
    found = [run.record(name) for name in names or run.names("evaluation")]
    rows = [
        {"domain": r["domain"], "recommender": r["recommender"], "embedding": r["embedding"], **r["metrics"]}
        for r in found
        if "metrics" in r
    ]
    if not rows:
        raise ValueError(f"{run} has no evaluation yet. Run notebooks/04_downstream_eval.ipynb.")
    rows.sort(key=lambda r: ORDER.index(r["embedding"]) if r["embedding"] in ORDER else len(ORDER))
    metric_names = list(rows[0])[3:]
    return (
        pl.DataFrame(rows)
        .group_by("domain", "recommender", "embedding", maintain_order=True)
        .agg(
            pl.len().alias("seeds"),
            *(pl.col(n).mean().alias(f"{n} mean") for n in metric_names),
            *(pl.col(n).std(ddof=0).fill_null(0).alias(f"{n} std") for n in metric_names),
        )
    )


def compare(
    run: Run,
    domain: str,
    pairs: list[tuple[str, str]],
    *,
    recommender_names: list[str],
    seeds: list[int],
    metric: str = "ndcg@10",
    level: float = 0.05,
    seed: int = 0,
) -> pl.DataFrame:
    """Paired tests across users between embeddings (before, after), each user's metric averaged over seeds.

    The p values are corrected together (Holm); `verdict` is "better", "worse" or "no detectable difference".
    """
    rows = []
    for recommender in recommender_names:
        values = {e: _user_means(run, domain, recommender, e, metric, seeds) for e in {x for pair in pairs for x in pair}}
        rows += [
            {
                "recommender": recommender,
                "before": a,
                "after": b,
                "metric": metric,
                "before mean": values[a].mean(),
                "after mean": values[b].mean(),
                **metrics.paired_test(values[a], values[b], seed=seed),
            }
            for a, b in pairs
        ]
    for row, p in zip(rows, metrics.holm([row["p"] for row in rows]), strict=True):
        sure = "better" if row["difference"] > 0 else "worse"
        row |= {"p_holm": p, "verdict": sure if p < level else "no detectable difference"}
    return pl.DataFrame(rows)


def _user_means(run: Run, domain: str, recommender: str, embedding: str, metric: str, seeds: list[int]) -> np.ndarray:
    """Each user's metric, averaged over seeds: float64 (n_test,)."""
    names = [Job(domain, recommender, embedding, seed).name for seed in seeds]
    if missing := [name for name in names if not run.has(name)]:
        raise ValueError(
            f"{run} has no {missing[0]}. Run notebooks/04_downstream_eval.ipynb with {embedding!r} among "
            "`evaluation_embeddings`."
        )
    return np.mean([metrics.per_user(np.load(run.require(n).with_suffix(".npy")), metric) for n in names], axis=0)
