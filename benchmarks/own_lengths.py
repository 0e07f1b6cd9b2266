"""What of an embedding's length counts: recommenders along the length of what titles do not have in common.

    python benchmarks/own_lengths.py --run FOLDER --out own_lengths.json [--tables minilm raw] [--recommenders GRU4Rec SASRec]

A title's vector is the mean of all titles plus its own part, and a linear adapter can take the mean away: its bias. So each table is
taken as it is and centred (the mean off), in both cases at unit length and times each of --lengths. Printed beside Recall and NDCG is
the root mean square length of the own part. Settings are those of the run's notebook 04 (`evaluation`), with the paper's patience, 200 epochs at
most, and the official start unless --start says otherwise: those of notebook 06's "start and length". What is in the results' file already is not trained again. Tests are paired
across users, over the means of the seeds.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from starts import do_all, read_results, table, told

from llm2rec_kit import geometry, storage
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream import evaluation, item_table
from llm2rec_kit.results import metrics
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Evaluation

FORMS = ("as it is", "centred")
Job = tuple[str, str, str, float, int]  # recommender, table, form, length, seed


def take_form(vectors: np.ndarray, form: str) -> np.ndarray:
    """(N + 1, dim) with the mean of all items' unit vectors off where `form` is "centred"; row 0 stays zero."""
    if form == "centred":
        unit = item_table.prepare_embeddings(vectors, len(vectors) - 1, "unit", 1.0)
        vectors = np.concatenate([unit[:1], unit[1:] - unit[1:].mean(0)])
    return vectors


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
    """Print a table a recommender, each row beside the best length of its vectors and form."""
    head = [
        "vectors",
        "length",
        "own part",
        "Recall@10",
        "NDCG@10",
        "best epoch",
        "NDCG@10 above that of the best length",
        "p",
    ]
    for recommender in args.recommenders:
        rows = []
        for name in args.tables:
            for form in args.forms:
                of = {
                    length: [trained[k] for s in args.seeds if (k := key((recommender, name, form, length, s))) in trained]
                    for length in args.lengths
                }
                of = {length: found for length, found in of.items() if found}
                each = {n: np.mean([gain(np.array(f["ranks"])) for f in found], axis=0) for n, found in of.items()}
                best = max(each, key=lambda n: each[n].mean(), default=0.0)
                for length, found in of.items():
                    cells = [f"{name}, {form}", f"{length:g}", f"{found[0]['own length']:.2f}"]
                    cells += [told([f["metrics"][m] for f in found], ".4f") for m in ("recall@10", "ndcg@10")]
                    cells += [told([f["best_epoch"] for f in found], ".0f")]
                    (test,) = metrics.test_pairs(each[best][:, None], each[length][:, None], users, seed=0)
                    same = length == best
                    rows.append(
                        [*cells, "best" if same else f"{test['difference']:+.4f}", "" if same else f"{test['p']:.1g}"]
                    )
        print(f"\n{recommender}, {args.start} start, {len(users):,} test samples, seeds {args.seeds}\n")
        table(head, rows)


def gain(ranks: np.ndarray) -> np.ndarray:
    """NDCG@10 of each sample, one target each."""
    return np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)


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
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trainings at a time, a thread each")
    args = parser.parse_args()
    folder = Path(args.run).resolve()
    parameters = Run(folder.name, folder.parent).read_info()["asked"].get("parameters", {})
    plain = Evaluation()
    own = {k.removeprefix("evaluation_"): v for k, v in parameters.items() if k.startswith("evaluation_")}
    settings = Evaluation(
        **own
        | {
            "epochs": 200,
            "evaluate_every": plain.evaluate_every,
            "patience": plain.patience,
            "initialisation": args.start,
            "device": "cpu",
            "cold": 0.0,
        }
    )
    results = read_results(Path(args.out), {"run": folder.name, "settings": evaluation.list_settings(settings)})
    jobs = [
        (recommender, name, form, length, seed)
        for seed in args.seeds
        for recommender in args.recommenders
        for length in args.lengths
        for name in args.tables
        for form in args.forms
    ]
    asked = {key(job): job for job in jobs if key(job) not in results["trained"]}
    print(f"{len(asked)} trainings to do, {len(results['trained'])} done.", file=sys.stderr, flush=True)
    for name, found in do_all(train, asked, args.workers, begin, args.run, args.tables, settings) if asked else ():
        results["trained"][name] = found
        storage.write_json(Path(args.out), results)
        print(f"{name}: Recall@10 {found['metrics']['recall@10']:.4f}", file=sys.stderr, flush=True)
    corpus = Corpus.load(folder / "corpus")
    show(results["trained"], args, np.searchsorted(corpus.offsets, corpus.samples("test"), "right"))


if __name__ == "__main__":
    main()
