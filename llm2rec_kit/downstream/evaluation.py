"""Evaluation: train a recommender over an item table, rank every test target against the full catalogue, keep the ranks.

All samples live on the device as two tensors; a step makes one pass over the item table, an evaluation one for all its
samples. On a CPU a training computes on one thread and several run in processes of their own: small matrices keep one core
busy, not two, and so the number of workers changes no result.
"""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus, Parts
from llm2rec_kit.downstream import fast_ops, item_table, losses, optimizers, ranking, recommenders, samples
from llm2rec_kit.downstream.ranking import Ranking
from llm2rec_kit.downstream.recommenders import Both
from llm2rec_kit.downstream.samples import Rows
from llm2rec_kit.results import metrics
from llm2rec_kit.results.evaluations import make_name
from llm2rec_kit.runs import Run, meter
from llm2rec_kit.runs.workers import count_cores, open_workers
from llm2rec_kit.settings import own_parts
from llm2rec_kit.settings.evaluation import LATER


@dataclass(frozen=True)
class Job:
    """One training: which domain's data, which recommender over which table (see `item_table.parse_name`), which seed."""

    domain: str
    recommender: str
    embedding: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its artefact in a run."""
        return make_name(self.domain, self.recommender, self.embedding, self.seed)

    @property
    def table(self) -> str:
        """The embeddings under its item table, such as csft; empty where ids are all that is trained."""
        return item_table.parse_name(self.embedding)[0] or ""

    @property
    def inputs(self) -> list[str]:
        """Names of the artefacts that it is made from."""
        return ["corpus"] + ([f"embeddings/{self.table}"] if self.table else [])


@dataclass(frozen=True)
class Result:
    """One training: the test ranking, the validation curve [(epoch, metric)], losses an epoch, how it ended, its weights."""

    ranking: Ranking
    recommender: str
    seed: int
    curve: list[tuple[int, float]]
    losses: list[float]
    best_epoch: int
    seconds: float
    cutoffs: list[int] = field(default_factory=lambda: [10, 20])
    weights: dict[str, np.ndarray] | None = None
    cost: dict[str, Any] = field(default_factory=dict)  # of `train_many`: what it took, as `meter.measure` tells

    @property
    def ranks(self) -> np.ndarray:
        """Rank of each test target, as `Ranking` has it."""
        return self.ranking.ranks


SHORT = 50_000  # samples read in training, in a second or two on one core
OF_THE_SERIES = ("recommenders", "embeddings", "baselines", "seeds", "tested", "cold", "device", "workers")


def list_settings(settings: S.Evaluation, recommender: str = "") -> dict[str, Any]:
    """Collect the settings that one training depends on:
    all but which trainings there are, where they run, and what is tested after.

    Those of LATER stand in it where they have another value, so that earlier evaluations are reused.
    A `recommender` of one's own adds the hash of its source.
    """
    asked = {k: v for k, v in settings.as_dict().items() if k not in OF_THE_SERIES and not (k in LATER and v == LATER[k])}
    return asked | own_parts.hash_part("recommender", recommender)


def train_and_rank(
    corpus: Corpus,
    embeddings: np.ndarray | None,
    settings: S.Evaluation,
    *,
    recommender: str,
    seed: int,
    kind: str = "",
    device: str = "cpu",
) -> Result:
    """Train `recommender` over `embeddings` (N + 1, dim), or over trainable ids, and rank the test targets.

    `kind` is the item table's (default: text with embeddings, else id). Training and validation have the samples of
    `settings.user_share` of the users. AdamW, best weights by `settings.metric` on the validation split (paper sec. 4.1.3).
    The caller's random state is left as it was.
    Raises ValueError for settings that cannot work, an empty split, ids out of range or embeddings that do not fit.
    """
    corpus = corpus.draw_users(settings.user_share, seed)
    check(settings, corpus, device)
    targets = {split: corpus.samples(split) for split in ("train", "valid", "test")}
    rows = {
        split: samples.make_rows(corpus, some, shared=settings.shared_prefix and split == "train").to(device)
        for split, some in targets.items()
    }
    barred = {split: ranking.find_excluded(corpus, targets[split], settings.exclude) for split in ("valid", "test")}
    began = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        both = make_model_and_table(recommender, corpus.n_items, corpus.max_history, embeddings, settings, kind).to(device)
        curve, by_epoch, best = _fit(both, rows, barred["valid"], settings, recommender, seed)
        both.eval()
        with torch.no_grad():
            table = both[1]()
        found = ranking.rank_rows(
            both[0], table, rows["test"], exclude=barred["test"], cutoffs=settings.cutoffs, ties=settings.ties
        )
    weights = {name: value.cpu().numpy() for name, value in both.state_dict().items()}
    seconds = time.perf_counter() - began
    return Result(found, recommender, seed, curve, by_epoch, best, seconds, settings.cutoffs, weights)


def make_model_and_table(
    recommender: str, n_items: int, max_history: int, embeddings: np.ndarray | None, settings: S.Evaluation, kind: str = ""
) -> Both:
    """Build the recommender and its item table, freshly initialised: (model, item table)."""
    table = item_table.ItemTable(
        n_items,
        settings.hidden,
        embeddings,
        kind=kind,
        normalise=settings.normalise,
        scale=settings.scale,
        initialisation=settings.initialisation,
        widths=settings.adapter_widths,
        low_precision=settings.precision == "bfloat16",
    )
    return Both(recommenders.make(recommender, settings, max_history), table)


def check(settings: S.Evaluation, corpus: Corpus, device: str = "cpu") -> None:
    """Raise ValueError for data, or settings on this data, that would only fail, or mislead,
    once a training is under way."""
    ranking.check_cutoffs(settings.cutoffs, corpus.n_items)
    if settings.precision == "bfloat16" and device == "cpu" and not fast_ops.has_fast_bfloat16():
        raise ValueError("evaluation_precision bfloat16 needs a CPU with AVX512-BF16, or a GPU; take float32 here.")
    for split in ("train", "valid", "test"):
        if not len(corpus.samples(split)):
            raise ValueError(f"The {split} split has no sample; see the statistics in notebooks/01_data_prep.ipynb.")
    low, high = corpus.sequence.min(), corpus.sequence.max()
    if low < 1 or high > corpus.n_items:
        raise ValueError(f"Sequences must hold item ids 1..{corpus.n_items}; found {low} to {high}.")


def _fit(
    both: Both, rows: dict[str, Rows], barred: ranking.Excluded | None, settings: S.Evaluation, recommender: str, seed: int
) -> tuple[list[tuple[int, float]], list[float], int]:
    """Train (model, table) in place, leave the best weights in it; returns validation curve, losses and best epoch."""
    model, table = both
    optimizer = optimizers.make_optimizer(both, settings, recommender)
    curve, by_epoch, best, kept = [], [], (-1.0, 0), both.state_dict()
    for epoch in tqdm(range(1, settings.epochs + 1), desc=recommender, leave=False, disable=not sys.stderr.isatty()):
        by_epoch.append(train_epoch(both, rows["train"], optimizer, settings, (seed, epoch)))
        if epoch % settings.evaluate_every and epoch != settings.epochs:
            continue
        both.eval()
        with torch.no_grad():
            found = ranking.rank_rows(model, table(), rows["valid"], exclude=barred, ties=settings.ties)
        value = float(metrics.compute_per_sample(found.ranks, settings.metric).mean())
        curve.append((epoch, value))
        if value > best[0]:
            best, kept = (value, epoch), copy.deepcopy(both.state_dict())
        elif epoch - best[1] >= settings.patience:
            break
    both.load_state_dict(kept)
    return curve, by_epoch, best[1]


def train_epoch(
    both: Both, rows: Rows, optimizer: optimizers.Optimizer, settings: S.Evaluation, seed: tuple[int, int]
) -> float:
    """Train for one pass over the training rows in batches of `batch_size` samples; return the mean loss. `seed` (seed,
    epoch) decides the order, the dropout and the negatives."""
    model, item_vectors = both[0], both.table
    both.train()
    order, noise, others = np.random.SeedSequence(seed).spawn(3)
    on_cpu = rows.histories.device.type == "cpu"
    recommenders.draw_from(model, np.random.SFC64(noise) if on_cpu else None)
    drawn = torch.Generator().manual_seed(int(others.generate_state(1)[0]))
    sampler = losses.Sampler.of(rows.labels, item_vectors.n_items, settings)
    total, count = 0.0, 0
    for batch in samples.draw_batches(rows.samples, settings.batch_size, np.random.default_rng(order)):
        histories, labels = rows.take(batch)
        value = compute_loss(both, histories, labels, settings, drawn, sampler)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        size = int((labels > 0).sum())
        total, count = total + value.item() * size, count + size
    return total / count


def compute_loss(
    both: Both,
    histories: torch.Tensor,
    labels: torch.Tensor,
    settings: S.Evaluation,
    generator: torch.Generator | None = None,
    sampler: losses.Sampler | None = None,
) -> torch.Tensor:
    """Compute the mean loss over every sample in the rows (ids int (R, L)); places without a label cost no scores.

    A sampled softmax takes its items from `sampler`, drawn with `generator`, and makes no other rows of the table.
    """
    model, item_vectors = both[0], both.table
    if settings.loss == "sampled_softmax":
        if sampler is None:
            raise ValueError("A sampled softmax takes its items from a sampler; found none (losses.Sampler.of).")
        return _sampled_softmax(both, histories, labels, settings, *sampler.draw(generator))
    inputs, table = fast_ops.lookup(item_vectors(), histories)
    asked = labels > 0
    states = model(inputs, asked)
    how = {"low_precision": settings.precision == "bfloat16"}
    return losses.compute_loss(settings, states, item_vectors.classes(table), labels[asked].long(), generator, **how)


def _sampled_softmax(
    both: Both,
    histories: torch.Tensor,
    labels: torch.Tensor,
    settings: S.Evaluation,
    drawn: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """`compute_loss` with the items `drawn` int64 (M,) and the logarithms of their `weights` (M,) for the catalogue."""
    model, item_vectors = both[0], both.table
    here, where = torch.cat([histories.flatten(), labels.flatten()]).long().unique(return_inverse=True)
    here = F.pad(here, (0, -len(here) % 256))  # few shapes: oneDNN compiles a kernel for every one that it meets
    in_history, as_label = (where + len(drawn)).view(2, *histories.shape)
    inputs, table = fast_ops.lookup(item_vectors.at(torch.cat([drawn, here])), in_history)
    asked = labels > 0
    states, classes = model(inputs, asked), item_vectors.classes(table)
    own = F.embedding(as_label[asked], classes)
    hits = labels[asked].long()[:, None] == drawn
    low = settings.precision == "bfloat16"
    return losses.sampled_softmax(states, own, classes[: len(drawn)], weights, hits, low_precision=low)


def choose_device(settings: S.Evaluation) -> tuple[str, str]:
    """Choose where trainings run, and say why: `settings.device`, or for auto a GPU where there is one."""
    if settings.device != "auto":
        return settings.device, "asked for"
    if torch.cuda.is_available():
        return "cuda", "auto: a CUDA GPU is there"
    return "cpu", "auto: no CUDA GPU"


def train_many(
    jobs: list[Job], parts: Parts, tables: dict[str, np.ndarray], settings: S.Evaluation
) -> Iterator[tuple[Job, Result]]:
    """Train every job and yield each with its result, as it is done; on a CPU several at a time, in processes of their own.

    Where one fails, no other is handed out; those that were are waited for and yielded before its error is raised.
    `parts` is {domain: (corpus, ids)} as `Corpus.select` gives them, `tables` {stage: (items + 1, dim)}. Weights come with
    the results of the first of `settings.seeds` alone.
    """
    device, _ = choose_device(settings)
    work = (parts, tables, settings, device)
    if device != "cpu":
        yield from ((job, _train(job, *work)) for job in jobs)
        return
    workers = min(_workers_for(jobs, parts, settings), max(1, len(jobs)))
    if workers == 1:  # a process of its own would take seconds to start
        yield from _one_after_the_other(jobs, work)
        return
    with open_workers(workers, _start_worker, own_parts.list_origins(), *work) as pool:
        yield from _as_they_are_done(jobs, lambda job: pool.submit(_do, job), workers)


def _as_they_are_done(
    jobs: list[Job], submit: Callable[[Job], Future[Result]], workers: int
) -> Iterator[tuple[Job, Result]]:
    """Each job with its result: in their order, what is done would wait in memory behind a slow one, and be lost with it.

    One more than the workers is handed out, none cancelled: cancelled ones break a pool of Python 3.11 whose worker dies."""
    todo = iter(jobs)
    going: dict[Future[Result], Job] = {}
    failed: BaseException | None = None
    while True:
        while failed is None and len(going) <= workers and (job := next(todo, None)) is not None:
            going[submit(job)] = job
        if not going:
            break
        for training in wait(going, return_when=FIRST_COMPLETED).done:
            job = going.pop(training)
            if (error := training.exception()) is None:
                yield job, training.result()
            elif failed is None:
                failed = error
                print(f"  {job.name} failed; what is under way is finished and kept before the error is raised", flush=True)
    if failed is not None:
        raise failed


def _workers_for(jobs: list[Job], parts: Parts, settings: S.Evaluation) -> int:
    """As many as asked; else one a core;
    one alone where all there is to do is done before others had started, or where they could not have the code."""
    if not all(own_parts.can_travel("recommender", job.recommender) for job in jobs):
        return 1
    if settings.workers:
        return settings.workers
    samples_read = settings.epochs * settings.user_share * sum(len(parts[job.domain][0].samples("train")) for job in jobs)
    return 1 if samples_read <= SHORT else count_cores()


def _one_after_the_other(jobs: list[Job], work: tuple[Any, ...]) -> Iterator[tuple[Job, Result]]:
    """The trainings in this process, on one thread as a worker has it, so with a worker's results."""
    threads = torch.get_num_threads()
    for job in jobs:
        torch.set_num_threads(1)
        try:
            result = _train(job, *work)
        finally:
            torch.set_num_threads(threads)
        yield job, result


_WORK: tuple[Any, ...] = ()


def _start_worker(parts: list[str], *work: Any) -> None:
    global _WORK
    _WORK = work
    own_parts.load(parts)
    torch.set_num_threads(1)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Keep the memory that a training step frees for the next one, while this process lives;
    without glibc's malloc, do nothing.

    glibc hands large blocks back to the system, and each page that is fetched anew costs a fault: at 100,000 items they were
    a quarter of a step. For processes that train and end, no others: the memory stays theirs.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mmap_threshold, trim_threshold = -3, -1  # numbers of malloc.h
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def _do(job: Job) -> Result:
    return _train(job, *_WORK)


def _train(job: Job, parts: Parts, tables: dict[str, np.ndarray], settings: S.Evaluation, device: str) -> Result:
    part, ids = parts[job.domain]
    stage, kind = item_table.parse_name(job.embedding)
    vectors = tables[stage] if stage else None
    if vectors is not None and not np.array_equal(ids, np.arange(len(vectors))):  # whole, it need not be copied
        vectors = vectors[ids]
    with meter.measure() as cost:
        result = train_and_rank(
            part, vectors, settings, recommender=job.recommender, seed=job.seed, kind=kind, device=device
        )
    kept = result.weights if job.seed == settings.seeds[0] else None
    return dataclasses.replace(result, weights=kept, cost=cost)


def keep_result(run: Run, job: Job, result: Result, settings: S.Evaluation, counts: np.ndarray) -> None:
    """Make the artefact of a finished training in `run`; `counts` as `write` takes them."""

    def build(folder: Path) -> dict[str, Any]:
        record = write(result, folder, job.name.split("/")[-1], counts)
        return record | {"domain": job.domain, "embedding": job.embedding}

    key = list_settings(settings, job.recommender)
    run.make(job.name, build, settings=key, inputs=job.inputs, force=True, quiet=True, spent=result.cost)


def write(result: Result, folder: Path, name: str, counts: np.ndarray) -> dict[str, Any]:
    """Save ranks, lists and weights into `folder` under `name` and return the record, without seconds: they differ from run
    to run. `counts` (N,) is how often each item occurs in training, for novelty."""
    if result.weights is not None:
        from safetensors.numpy import save_file

        save_file(result.weights, folder / f"{name}.safetensors")
    facts: dict[str, Any] = {"recommender": result.recommender, "seed": result.seed, "curve": result.curve}
    facts |= {"losses": result.losses, "epochs": len(result.losses), "best_epoch": result.best_epoch}
    return write_ranking(result.ranking, folder, name, facts=facts, cutoffs=result.cutoffs, counts=counts)


def write_ranking(
    found: Ranking, folder: Path, name: str, *, facts: dict[str, Any], cutoffs: list[int], counts: np.ndarray
) -> dict[str, Any]:
    """Save ranks as `<name>.npy` and list counts as `<name>-listed.npy` in `folder`; return `facts` with their metrics."""
    np.save(folder / f"{name}.npy", found.ranks.astype(np.int32))
    np.save(folder / f"{name}-listed.npy", found.listed)
    lists = metrics.measure_lists(found.listed, cutoffs, counts)
    return {**facts, "samples": len(found.ranks), "metrics": metrics.summarise(found.ranks, cutoffs), "lists": lists}
