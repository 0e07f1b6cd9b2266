"""Which part of a recommender's start does it: SASRec trained from starts mixed of the official code's and the scaled one.

    python benchmarks/starts.py --run FOLDER --out results.json                       every table below, MiniLM's vectors
    python benchmarks/starts.py --run FOLDER --out results.json --vectors raw         vectors of the run, made unit length as MiniLM's are
    python benchmarks/starts.py --run FOLDER --out results.json --groups parts GRU4Rec --workers 2
    python benchmarks/starts.py --run FOLDER --starts                                 what is measured before the first step, trains nothing

The two starts (`evaluation.initialisation`) differ in four parts: positions N(0, 1) or of std 0.02, linear weights uniform or of
std 0.02, biases uniform or zero, layers copies of the first or drawn on their own. A mixed start takes one part from the other
start, all else from its own; the draws of a seed are the same in all of them. Vectors are of unit length, and of length 100.

Every training is one of the official evaluation (padding class on, 1,000 epochs at most, patience 20, hidden 128), with the
kit's shared prefixes. Before it and with its best weights it is measured, without dropout on one batch of training samples: lengths, shares,
scores and gradients. What is in the results' file already is not trained again; tables are printed as Markdown at the end.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from llm2rec_kit import storage
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream import evaluation, item_table, recommenders, samples
from llm2rec_kit.encoding import minilm
from llm2rec_kit.results import metrics
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Evaluation

PARTS = ("positions", "weights", "biases", "layers")
OTHER = {"official": "scaled", "scaled": "official"}
SETTINGS = Evaluation(device="cpu", padding_class=True, epochs=1000, normalise="unit", cutoffs=[10, 20])
SEEDS = (2024, 2025, 2026)
make = recommenders.make  # as the kit has it: the name in `recommenders` is replaced while an arm trains


@dataclass(frozen=True)
class Arm:
    """One way to start and to train; `part` comes from the other start than `start`."""

    recommender: str = "SASRec"
    start: str = "official"
    part: str = ""
    length: float = 1.0  # of the item vectors
    positions: float = 1.0  # factor on the drawn positions
    inputs: float = 1.0  # factor on item vectors where they enter the model, not where they are classes
    scores: float = 1.0  # factor on the scores
    rate: float = 0.0  # learning rate; 0: the settings'
    patience: int = SETTINGS.patience
    decay: float = 0.0  # AdamW's weight decay of the positions, beside the settings'

    @property
    def name(self) -> str:
        """The fields that are not at their default."""
        start = f"{self.recommender} {self.start}" + (f" but {self.part}" if self.part else "")
        rest = [f for f in fields(self)[3:] if getattr(self, f.name) != f.default]
        return ", ".join([start] + [f"{f.name} {getattr(self, f.name):g}" for f in rest])

    @property
    def settings(self) -> Evaluation:
        """Settings of its training."""
        rate = {"learning_rate": self.rate, "learning_rate_gru": self.rate} if self.rate else {}
        return replace(SETTINGS, initialisation=self.start, scale=self.length, patience=self.patience, **rate)

    def make(self, name: str, settings: Evaluation, max_history: int) -> nn.Module:
        """Its recommender as it starts; takes the place of `recommenders.make`."""
        if self.recommender == "GRU4Rec":
            return make(name, settings, max_history)
        model = mixed(settings, max_history, {p: OTHER[self.start] if p == self.part else self.start for p in PARTS})
        with torch.no_grad():
            model.positions.weight.mul_(self.positions)
        rate = settings.learning_rate * self.decay

        def before(model: nn.Module, given: tuple) -> tuple:
            if model.training and rate:
                with torch.no_grad():
                    model.positions.weight.mul_(1 - rate)
            return (given[0] * self.inputs, *given[1:])

        model.register_forward_pre_hook(before)
        model.register_forward_hook(lambda model, given, states: states * self.scores)
        return model


def mixed(settings: Evaluation, max_history: int, sources: dict[str, str]) -> nn.Module:
    """SASRec with each of PARTS from the start that `sources` names; both starts are drawn from the present random state."""
    state = torch.get_rng_state()
    drawn = {}
    for start in ("scaled", "official"):
        torch.set_rng_state(state)
        drawn[start] = make("SASRec", replace(settings, initialisation=start), max_history)
    # Official layers after the first are copies of it: their own weights are first layers of further draws.
    others = [
        make("SASRec", replace(settings, initialisation="official"), max_history) for _ in drawn["official"].layers[1:]
    ]
    layers = {"scaled": drawn["scaled"].layers, "official": [m.layers[0] for m in (drawn["official"], *others)]}
    model = copy.deepcopy(drawn["official"])
    with torch.no_grad():
        model.positions.weight.copy_(drawn[sources["positions"]].positions.weight)
        for k, layer in enumerate(model.layers):
            at = 0 if sources["layers"] == "official" else k
            for name, value in layer.named_parameters():
                if "norm" not in name:  # ones and zeros in both starts
                    part = "weights" if name.endswith("weight") else "biases"
                    value.copy_(layers[sources[part]][at].get_parameter(name))
    return model


def groups() -> dict[str, tuple[list[Arm], int]]:
    """{name: (arms, seeds of each)}."""
    official, scaled = Arm(), Arm(start="scaled")
    parts = [replace(whole, part=part) for whole in (official, scaled) for part in ("", *PARTS)]
    return {
        "parts": (parts, 3),
        "inputs and scores": (
            [replace(official, **turned) for turned in ({"inputs": 16.0}, {"inputs": 100.0}, {"scores": 100.0})],
            2,
        ),
        "positions": (
            [replace(official, positions=std) for std in (0.3, 0.1, 0.0)] + [Arm(length=100.0, positions=100.0)],
            2,
        ),
        "rates": (
            [replace(official, rate=r) for r in (3e-4, 3e-3, 1e-2)] + [replace(scaled, rate=r) for r in (3e-4, 3e-3)],
            2,
        ),
        "patience": ([replace(official, patience=100, rate=r) for r in (0.0, 3e-3)], 2),
        "decay": ([replace(official, decay=d) for d in (1.0, 10.0)], 2),
        "GRU4Rec": ([Arm("GRU4Rec", s, length=n) for n in (1.0, 100.0) for s in OTHER], 3),
        "parts at length 100": ([replace(arm, length=100.0) for arm in parts], 3),
    }


class Work:
    """A corpus, its vectors and one batch of its training samples to measure on."""

    def __init__(self, run: str, vectors: str) -> None:
        folder = Path(run).resolve()
        self.corpus = Corpus.load(folder / "corpus")
        if vectors == minilm.NAME:
            self.vectors = minilm.encode_titles(self.corpus.titles)
        else:
            self.vectors = item_table.read_table(Run(folder.name, folder.parent), [vectors])[vectors]
        rows = samples.make_rows(self.corpus, self.corpus.samples("train"), shared=True)
        (first, *_) = samples.draw_batches(rows.samples, 1024, np.random.default_rng(0))
        self.batch = rows.take(first)

    def started(self, arm: Arm, seed: int) -> nn.ModuleList:
        """(model, item table) of an arm before its first step."""
        size = (self.corpus.n_items, self.corpus.max_history)
        with mock.patch.object(recommenders, "make", arm.make), torch.random.fork_rng():
            torch.manual_seed(seed)  # as train_and_rank has it, so this is what `train` starts from
            return evaluation.make_model_and_table(arm.recommender, *size, self.vectors, arm.settings)

    def measured(self, both: nn.ModuleList, arm: Arm) -> dict[str, float]:
        """What `measured` finds in an arm's (model, item table)."""
        return measured(both, *self.batch, arm.settings, arm.inputs)

    def train(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Train an arm: metrics, validation curve, and what is measured at the start and with the best weights."""
        both, settings = self.started(arm, seed), arm.settings
        start = self.measured(both, arm)
        with mock.patch.object(recommenders, "make", arm.make):
            result = evaluation.train_and_rank(self.corpus, self.vectors, settings, recommender=arm.recommender, seed=seed)
        both.load_state_dict({name: torch.from_numpy(value) for name, value in result.weights.items()})
        return {
            "metrics": metrics.summarise(result.ranks, settings.cutoffs),
            "curve": result.curve,
            "best_epoch": result.best_epoch,
            "epochs": len(result.losses),
            "loss": result.losses[result.best_epoch - 1],
            "start": start,
            "best": self.measured(both, arm),
        }


def measured(
    both: nn.ModuleList, histories: torch.Tensor, labels: torch.Tensor, settings: Evaluation, inputs: float = 1.0
) -> dict[str, float]:
    """Lengths, shares of variance, scores and gradient norms of (model, item table) on a batch (R, L), without dropout.

    `content`: share of the variance of what enters the model that item vectors make, the rest is the positions'. `told apart`: share of
    the states' variance that is within places, so between histories of one length. `score std`: of a state's scores over the items.
    Gradients of the adapter's weight `as history` are those that come by the histories alone.
    """
    both.eval()
    model, table = both
    found = {}
    with torch.no_grad():
        rows, asked = table(), labels > 0
        places = torch.arange(histories.shape[1]).expand_as(histories)
        found["row length"] = rows[1:].square().sum(1).mean().sqrt().item()
        found["row length, centred"] = spread(rows[1:]) ** 0.5
        if hasattr(model, "positions"):
            positions, there = model.positions.weight, histories > 0
            content = inputs**2 * spread(rows[histories[there].long()])
            found["position length"] = positions.square().sum(1).mean().sqrt().item()
            found["content"] = content / (content + spread(positions[places[there]]))
        states, at = model(rows[histories.long()], asked), places[asked]
        centred = torch.cat([some - some.mean(0) for some in (states[at == k] for k in at.unique())])
        found["told apart"] = centred.square().sum(1).mean().item() / spread(states)
        found["score std"] = (states @ rows[1:].T).std(1).mean().item()
    for name, value in gradients(both, histories, labels, settings).items():
        found[f"gradient, {name}"] = value
    with mock.patch.object(table, "classes", torch.Tensor.detach):
        found["gradient, adapter as history"] = gradients(both, histories, labels, settings)["adapter"]
    return found


def spread(rows: torch.Tensor) -> float:
    """Mean squared distance of rows (n, d) from their mean."""
    return (rows - rows.mean(0)).square().sum(1).mean().item()


def gradients(both: nn.ModuleList, histories: torch.Tensor, labels: torch.Tensor, settings: Evaluation) -> dict[str, float]:
    """Norm of the loss's gradient in each part of (model, item table)."""
    both.zero_grad()
    evaluation.compute_loss(both, histories, labels, settings).backward()
    squares: dict[str, float] = {}
    for name, value in both.named_parameters():
        if "norm" not in name and not name.endswith("bias"):
            words = name.split(".")
            part = f"layer {int(words[2]) + 1}" if words[1] == "layers" else words[1]
            squares[part] = squares.get(part, 0.0) + value.grad.square().sum().item()
    both.zero_grad()
    return {part: value**0.5 for part, value in squares.items()}


_WORK: list[Work] = []


def _begin(run: str, vectors: str) -> None:
    torch.set_num_threads(1)
    _WORK.append(Work(run, vectors))


def _do(arm: Arm, seed: int) -> dict[str, Any]:
    return _WORK[0].train(arm, seed)


def train_all(jobs: list[tuple[Arm, int]], args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """(arm's name and seed, what `Work.train` gives) of each job as it ends, one thread each."""
    work = {key(arm, seed): (arm, seed) for arm, seed in jobs}
    yield from do_all(_do, work, args.workers, _begin, args.run, args.vectors)


def do_all(
    do: Callable[..., Any], jobs: dict[str, tuple], workers: int, begin: Callable[..., None] | None = None, *given: Any
) -> Iterator[tuple[str, Any]]:
    """(key, what `do` gives) of each job as it ends, in processes that `begin` with `given`; after an error no other begins."""
    if not jobs:
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), begin, given) as pool:
        waiting = {pool.submit(do, *job): key for key, job in jobs.items()}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BaseException:  # else those that wait would all be done first
            pool.shutdown(cancel_futures=True)
            raise


def keep_all(done: Iterator[tuple[str, dict[str, Any]]], results: dict[str, Any], out: str | Path) -> None:
    """Add each training to the results and their file as it ends, and tell it."""
    for name, found in done:
        results["trained"][name] = found
        storage.write_json(Path(out), results)
        recall = found.get("metrics", found)["recall@10"]
        print(f"{name}: Recall@10 {recall:.4f}, best epoch {found['best_epoch']}", file=sys.stderr, flush=True)


def key(arm: Arm, seed: int) -> str:
    """Name of a training in the results' file."""
    return f"{arm.name}, seed {seed}"


def told(values: list[float], form: str) -> str:
    """Mean and, of several, standard deviation."""
    mean = format(np.mean(values), form)
    return f"{mean} ± {format(np.std(values, ddof=1), form)}" if len(values) > 1 and form == ".4f" else mean


def table(head: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table, its first column text and the others numbers."""
    for row in (head, ["---"] + ["---:"] * (len(head) - 1), *rows):
        print("| " + " | ".join(row) + " |")


def results_table(arms: list[Arm], trained: dict[str, dict]) -> None:
    """Recall and NDCG, epochs, and what was measured at the start and with the best weights."""
    both = ("content", "told apart", "row length", "position length", "score std")
    head = ["start", "seeds", "Recall@10", "NDCG@10", "best epoch", "loss", *(f"{name}: start, best" for name in both)]
    rows = []
    for arm in arms:
        found = [trained[key(arm, s)] for s in SEEDS if key(arm, s) in trained]
        cells = [arm.name, str(len(found))]
        cells += [told([f["metrics"][m] for f in found], ".4f") for m in ("recall@10", "ndcg@10")]
        cells += [told([f["best_epoch"] for f in found], ".0f"), told([f["loss"] for f in found], ".2f")]
        for name in both:
            there = name in found[0]["start"]
            cells.append(", ".join(told([f[w][name] for f in found], ".3g") for w in ("start", "best")) if there else "")
        rows.append(cells)
    table(head, rows)


def starts_table(arms: list[Arm], work: Work) -> None:
    """What is measured before the first step, means over the seeds: nothing is trained."""
    names = ["row length", "position length", "content", "told apart", "score std"]
    parts = ["adapter", "adapter as history", "positions", "layer 1", "layer 2", "gru"]
    rows = []
    for arm in arms:
        found = [work.measured(work.started(arm, seed), arm) for seed in SEEDS]
        cells = [[f[name] for f in found if name in f] for name in (*names, *(f"gradient, {part}" for part in parts))]
        rows.append([arm.name, *(told(values, ".3g") if values else "" for values in cells)])
    table(["start", *names, *(f"gradient of {part}" for part in parts)], rows)


def curves_table(arms: list[Arm], trained: dict[str, dict]) -> None:
    """Validation Recall@20 by epochs, mean over the seeds that were still training then; in brackets where some had ended."""
    epochs = (5, 10, 20, 40, 60, 80, 100, 150, 200)
    rows = []
    for arm in arms:
        curves = [dict(map(tuple, trained[key(arm, s)]["curve"])) for s in SEEDS if key(arm, s) in trained]
        cells = []
        for epoch in epochs:
            values = [c[epoch] for c in curves if epoch in c]
            mean = f"{np.mean(values):.4f}" if values else ""
            cells.append(f"({mean})" if 0 < len(values) < len(curves) else mean)
        rows.append([arm.name, *cells])
    table(["validation Recall@20 after epochs", *map(str, epochs)], rows)


def show(trained: dict[str, dict], chosen: list[str]) -> None:
    """Print the tables of the trainings that are there."""
    for name in chosen:
        arms = [arm for arm in groups()[name][0] if any(key(arm, seed) in trained for seed in SEEDS)]
        if not arms:
            continue
        print(f"\n**{name}**\n")
        results_table(arms, trained)
        if name in ("parts", "GRU4Rec", "inputs and scores", "rates", "patience"):
            print()
            curves_table(arms, trained)


def results_of(args: argparse.Namespace) -> dict[str, Any]:
    """The results' file as it is, or a new one."""
    about = {"run": Path(args.run).resolve().name, "vectors": args.vectors, "settings": evaluation.list_settings(SETTINGS)}
    return read_results(Path(args.out), about)


def read_results(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """A file of results `about` this as it is, or a new one; ends the script where it is of other data or settings."""
    found = storage.read_json(path) if path.exists() else {**about, "trained": {}}
    other = [name for name, value in about.items() if found.get(name) != value]
    if other:
        sys.exit(f"{path} holds results of another {' and '.join(other)}: give another place for them, or delete it.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="folder of a run that has a corpus")
    parser.add_argument("--out", default="starts.json", help="results' file")
    parser.add_argument("--vectors", default=minilm.NAME, help="minilm, or a table of embeddings of the run")
    parser.add_argument("--groups", nargs="+", default=list(groups()), choices=list(groups()))
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="most seeds of an arm; some groups have fewer")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trainings at a time, a thread each")
    parser.add_argument("--starts", action="store_true", help="measure the starts alone, train nothing")
    args = parser.parse_args()
    if args.starts:
        arms = [
            replace(arm, rate=0.0, patience=Arm.patience, decay=0.0) for name in args.groups for arm in groups()[name][0]
        ]
        starts_table(list(dict.fromkeys(arms)), Work(args.run, args.vectors))
        return
    results = results_of(args)
    chosen = [groups()[name] for name in args.groups]
    asked = [(arm, s) for k, s in enumerate(SEEDS[: args.seeds]) for arms, seeds in chosen if k < seeds for arm in arms]
    jobs = [(arm, seed) for arm, seed in asked if key(arm, seed) not in results["trained"]]
    print(f"{len(jobs)} trainings to do, {len(results['trained'])} done.", file=sys.stderr, flush=True)
    keep_all(train_all(jobs, args), results, args.out)
    show(results["trained"], args.groups)


if __name__ == "__main__":
    main()
