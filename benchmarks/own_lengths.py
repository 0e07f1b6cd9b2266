"""What of an embedding's length counts: recommenders along the length of what titles do not have in common.

    python benchmarks/own_lengths.py --run FOLDER --out own_lengths.json [--tables minilm raw] [--recommenders GRU4Rec SASRec]

A title's vector is the mean of all titles plus its own part, and a linear adapter can take the mean away by its bias. So each table is
taken as it is, centred (the mean off) and rotated (the mean spread over all coordinates, which changes no product of two vectors), each
at unit length times each of --lengths. Printed beside Recall and NDCG is the root mean square length of the own part, and before it how
much of the mean lies in its three largest coordinates. Settings are those of the run's notebook 04 (`evaluation`), with the paper's
patience, 200 epochs at most, and the official start unless --start says otherwise: those of notebook 06's "start and length". What is in
the results' file already is not trained again. Tests are paired across users, over the means of the seeds, and take these trainings as
given.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from starts import do_all, keep_all, read_results, table, told

from llm2rec_kit import geometry
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream import evaluation, item_table
from llm2rec_kit.reproduction.studies.initialisations import make_budget
from llm2rec_kit.results import metrics
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Evaluation

FORMS = ("as it is", "centred", "rotated")
Job = tuple[str, str, str, float, int]  # recommender, table, form, length, seed


def take_form(vectors: np.ndarray, form: str) -> np.ndarray:
    """(N + 1, dim) with the mean of all items' unit vectors off where `form` is "centred"; turned by a drawn rotation where it is
    "rotated", so that no coordinate holds more of the mean than others; row 0 stays zero."""
    unit = item_table.prepare_embeddings(vectors, len(vectors) - 1, "unit", 1.0)
    if form == "centred":
        return np.concatenate([unit[:1], unit[1:] - unit[1:].mean(0)])
    if form == "rotated":
        drawn = np.random.default_rng(0).normal(size=(unit.shape[1], unit.shape[1]))
        return (unit @ np.linalg.qr(drawn)[0]).astype(np.float32)
    return unit


_GIVEN: list[tuple[Corpus, dict[str, np.ndarray], Evaluation]] = []


def begin(run: str, tables: list[str], settings: Evaluation) -> None:
    """Load what all trainings of a process share."""
    torch.set_num_threads(1)
    folder = Path(run).resolve()
    _GIVEN.append((Corpus.load(folder / "corpus"), item_table.read_table(Run(folder.name, folder.parent), tables), settings))


def train(recommender: str, name: str, form: str, length: float, seed: int) -> dict[str, Any]:
    """Train one recommender: metrics, epochs, and its ranks of the test targets."""
    corpus, tables, settings = _GIVEN[0]
    vectors = take_form(tables[name], form)
    settings = replace(settings, normalise="unit", scale=length)
    result = evaluation.train_and_rank(corpus, vectors, settings, recommender=recommender, seed=seed)
    found = metrics.summarise(result.ranks, settings.cutoffs)
    given = item_table.prepare_embeddings(vectors, corpus.n_items, "unit", length)
    about = {
        "own length": geometry.measure_lengths(given[1:])[1],
        "best_epoch": result.best_epoch,
        "epochs": len(result.losses),
    }
    return {"metrics": found, **about, "ranks": result.ranks.tolist()}


def key(job: Job) -> str:
    """Name of a training in the results' file."""
    recommender, name, form, length, seed = job
    return f"{recommender}, {name}, {form}, length {length:g}, seed {seed}"


def show(trained: dict[str, dict], args: argparse.Namespace, users: np.ndarray) -> None:
    """Print a table a recommender; each form is tested against the vectors as they are, at the same length."""
    head = [
        "vectors",
        "length",
        "own part",
        "seeds",
        "Recall@10",
        "NDCG@10",
        "best epoch",
        "NDCG@10 above as it is",
        "p (Holm)",
    ]
    for recommender in args.recommenders:
        rows, tests = [], {}
        for name, length, form in itertools.product(args.tables, args.lengths, FORMS):
            keys = [key((recommender, name, form, length, seed)) for seed in args.seeds]
            found = [trained[k] for k in keys if k in trained]
            if not found:
                continue
            gains = np.mean([metrics.compute_per_sample(np.array(f["ranks"]), "ndcg@10") for f in found], axis=0)
            if form == FORMS[0]:
                plain, seeds = gains, len(found)
            elif seeds == len(found):
                (tests[len(rows)],) = metrics.test_pairs(plain[:, None], gains[:, None], users, seed=0)
            cells = [f"{name}, {form}", f"{length:g}", f"{found[0]['own length']:.2f}", str(len(found))]
            cells += [told([f["metrics"][m] for f in found], ".4f") for m in ("recall@10", "ndcg@10")]
            rows.append([*cells, told([f["best_epoch"] for f in found], ".0f"), "", ""])
        corrected = metrics.correct_holm([test["p"] for test in tests.values()])
        for (at, test), p in zip(tests.items(), corrected, strict=True):
            rows[at][-2:] = [f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]", f"{p:.1g}"]
        print(f"\n{recommender}, {args.start} start, {len(users):,} test samples, {len(tests)} tests\n")
        table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="folder of a run that has a corpus and the tables")
    parser.add_argument("--out", default="own_lengths.json", help="results' file")
    parser.add_argument("--tables", nargs="+", default=["minilm", "raw"])
    parser.add_argument("--recommenders", nargs="+", default=["GRU4Rec"])
    parser.add_argument("--lengths", nargs="+", type=float, default=[1.0, 3.0, 10.0, 30.0, 100.0, 300.0])
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[2024, 2025])
    parser.add_argument("--start", default="official", choices=["official", "scaled"])
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="trainings at a time, a thread each; 0 prints what is done"
    )
    args = parser.parse_args()
    folder = Path(args.run).resolve()
    run = Run(folder.name, folder.parent)
    asked = Evaluation.from_parameters(run.read_info()["asked"]["parameters"])
    settings = replace(asked, **make_budget(200), initialisation=args.start, device="cpu", cold=0.0)
    of = {"corpus": run.digest("corpus")} | {name: run.digest(f"embeddings/{name}") for name in args.tables}
    results = read_results(Path(args.out), {"of": of, "settings": evaluation.list_settings(settings)})
    jobs = [
        (recommender, name, form, length, seed)
        for seed in args.seeds
        for recommender in args.recommenders
        for length in args.lengths
        for name in args.tables
        for form in args.forms
    ]
    missing = {key(job): job for job in jobs if key(job) not in results["trained"]}
    print(f"{len(missing)} trainings to do, {len(results['trained'])} done.", file=sys.stderr, flush=True)
    done = do_all(train, missing if args.workers else {}, args.workers, begin, args.run, args.tables, settings)
    keep_all(done, results, args.out)
    for name, vectors in item_table.read_table(run, args.tables).items():
        unit = take_form(vectors, "as it is")[1:]
        squares = np.sort(np.square(unit.mean(0)))[::-1]
        length, own = np.sqrt(squares.sum()), geometry.measure_lengths(unit)[1]
        print(
            f"{name}, unit: the mean is {length:.2f} long, {squares[:3].sum() / squares.sum():.0%} of its square in 3 coordinates; own part {own:.2f}"
        )
    corpus = Corpus.load(folder / "corpus")
    show(results["trained"], args, corpus.owners(corpus.samples("test")))


if __name__ == "__main__":
    main()
