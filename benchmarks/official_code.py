"""The official evaluation code, unmodified, beside the kit: the same data, vectors, settings and seeds; metrics, epochs, times.

    git clone https://github.com/HappyPointer/LLM2Rec CHECKOUT && git -C CHECKOUT checkout 73b481f
    python -m venv OFFICIAL && OFFICIAL/bin/pip install torch transformers accelerate wandb pyyaml numpy tqdm

    python benchmarks/official_code.py --checkout CHECKOUT --python OFFICIAL/bin/python --run RUN --work FOLDER
                                                 trains every arm to patience on both sides, prints tables, writes FOLDER/results.json
    python benchmarks/official_code.py ... --times         seconds a step and a ranking at 9,517 items x 896, both sides in turn
    python benchmarks/official_code.py ... --record FILE   losses and gradients from weights given by a formula, for the tests

Nothing is fetched. RUN is a run's folder or a corpus folder of one domain; FOLDER keeps what was made, and what is in its
results.json is not run again. The official code writes nothing outside FOLDER, and to its tracker (wandb) nothing at all.
Both sides compute on one thread. Without `--vectors FILE.npy` (N + 1 rows, row 0 padding) the items' vectors are all-MiniLM's.

The official side is a process started as its README does, in a folder with the corpus in its loader's layout; its numbers are
read off what it prints. Its saved weights are then loaded into the kit, which ranks the test samples with them: that
checks both rankings, and gives each user's rank on the official side, which it does not keep.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.data.sources import llm2rec_files
from llm2rec_kit.downstream import evaluation, item_table, metrics, pretrained, ranking, samples
from llm2rec_kit.settings import Evaluation
from llm2rec_kit.storage import write_json

DATASET, FOLDER = "Arts_5core", "Arts_Crafts_and_Sewing/5-core"  # a name that its loader knows, and where it looks for it
RATES = {"SASRec": "1.0e-3", "GRU4Rec": "1.0e-4"}
LENGTHS = {"unit": 1.0, "x100": 100.0}
SEEDS = (2024, 2025, 2026)
NAMES = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (5, 10, 20)]
WAYS = {"kit": {}, "kit, a row a sample": {"shared_prefix": False}}


def settings_of(**change) -> Evaluation:
    """The official code's settings in the kit."""
    official = {
        "initialisation": "official",
        "padding_class": True,
        "epochs": 1000,
        "evaluate_every": 5,
        "patience": 20,
        "metric": "recall@20",
        "cutoffs": [5, 10, 20],
        "device": "cpu",
    }
    return Evaluation(**{**official, **change})


# -- the official side --------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """One thread, no tracker, no compiled files in the checkout, and none of the kit's modules."""
    own = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "WANDB_MODE": "disabled", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **own, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}


def official(given: argparse.Namespace, corpus: Corpus, recommender: str, length: str, seed: int) -> tuple[dict, np.ndarray]:
    """One training by the official code: what it printed and took, and the test ranks by its best weights."""
    words = [
        given.python,
        str(given.checkout / "evaluate_with_seqrec.py"),
        f"--model={recommender}",
        f"--dataset={DATASET}",
        f"--embedding={given.work / f'vectors-{length}.npy'}",
        f"--lr={RATES[recommender]}",
        "--weight_decay=1.0e-4",
        "--dropout=0.3",
        "--loss_type=ce",
        f"--rand_seed={seed}",
    ]
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, cwd=given.work, env=environment())
    seconds = time.perf_counter() - began
    printed = re.findall(r"^OrderedDict.*$", done.stdout, re.M)
    best = re.search(r"^Best epoch: (\d+)", done.stdout, re.M)
    if done.returncode or not printed or not best:
        raise SystemExit(f"The official code did not run: {' '.join(words)}\n{done.stderr[-2000:]}")
    found = {name: float(value) for name, value in re.findall(r"'(\w+@\d+)'\W+([\d.e-]+)", printed[-1])}
    weights = given.work / re.search(r"^Loaded best model checkpoint from (.*)$", done.stdout, re.M)[1]
    ranks = rank_by(corpus, torch.load(weights, map_location="cpu"), recommender, np.load(words[4].split("=")[1]))
    weights.unlink()
    epochs = 5 * (len(printed) - 1)
    return {"metrics": found, "best_epoch": int(best[1]), "epochs": epochs, "seconds": seconds}, ranks


def rank_by(corpus: Corpus, weights: dict[str, torch.Tensor], recommender: str, vectors: np.ndarray) -> np.ndarray:
    """Ranks of the test targets by the official code's weights in the kit."""
    both = evaluation.make_both(recommender, corpus.n_items, corpus.max_history, vectors, settings_of())
    both.load_state_dict(from_official(weights, recommender))
    rows = samples.rows_of(corpus, corpus.samples("test"), shared=False)
    with torch.no_grad():
        return ranking.rank_rows(both.eval()[0], both[1](), rows).ranks


def parts(recommender: str, layers: int = 2) -> dict[str, list[str]]:
    """{name in the kit's (model, table): names in the official code, stacked}: its query, key and value are one matrix here."""
    found = {f"1.adapter.{kind}": [f"item_embeddings_adapter.linear_0.{kind}"] for kind in ("weight", "bias")}
    if recommender == "GRU4Rec":
        of_gru = [f"weight_{side}_l{k}" for k in range(layers) for side in ("ih", "hh")]
        return found | {f"0.gru.{name}": [f"gru_layers.{name}"] for name in of_gru}
    found["0.positions.weight"] = ["positional_embeddings.weight"]
    inside = {
        "qkv": [f"multi_head_attention.{name}" for name in ("query", "key", "value")],
        "out": ["multi_head_attention.dense"],
        "norm1": ["multi_head_attention.LayerNorm"],
        "inner": ["feed_forward.dense_1"],
        "outer": ["feed_forward.dense_2"],
        "norm2": ["feed_forward.LayerNorm"],
    }
    for k, (ours, theirs), kind in itertools.product(range(layers), inside.items(), ("weight", "bias")):
        found[f"0.layers.{k}.{ours}.{kind}"] = [f"transformer_encoder.layer.{k}.{name}.{kind}" for name in theirs]
    return found


def from_official(values: dict[str, torch.Tensor], recommender: str) -> dict[str, torch.Tensor]:
    """Weights, or their gradients, by the kit's names."""
    return {ours: torch.cat([values[name] for name in theirs]) for ours, theirs in parts(recommender).items()}


# -- metrics ------------------------------------------------------------------------------------------------------------


def kit(corpus: Corpus, vectors: np.ndarray, recommender: str, length: str, seed: int, **change) -> tuple[dict, np.ndarray]:
    """One training by the kit: metrics, epochs, seconds, and the test ranks."""
    settings = settings_of(normalise="unit", scale=LENGTHS[length], **change)
    result = evaluation.train_and_rank(corpus, vectors, settings, recommender=recommender, seed=seed)
    found = {name: metrics.summary(result.ranks, settings.cutoffs)[name] for name in NAMES}
    facts = {"best_epoch": result.best_epoch, "epochs": len(result.losses), "seconds": result.seconds}
    return {"metrics": found, **facts}, result.ranks


def train_all(given: argparse.Namespace, corpus: Corpus, vectors: np.ndarray) -> dict[str, dict]:
    """Every arm on every side, one after the other; what results.json has is left as it is."""
    file = given.work / "results.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    for seed, length, recommender in itertools.product(given.seeds, LENGTHS, RATES):
        for way in ("official", *WAYS):
            name = f"{way}/{recommender}/{length}/{seed}"
            if name in found:
                continue
            if way == "official":
                result, ranks = official(given, corpus, recommender, length, seed)
            else:
                result, ranks = kit(corpus, vectors, recommender, length, seed, **WAYS[way])
            np.save(given.work / "ranks" / f"{name.replace('/', '-')}.npy", ranks)
            found[name] = {**result, "load": os.getloadavg()[0]}
            write_json(file, found)
            shown = " ".join(f"{k} {v:.4f}" for k, v in result["metrics"].items())
            print(f"{name}: {shown}, best of {result['epochs']} epochs {result['best_epoch']}, {result['seconds']:.0f} s", flush=True)
    return found


# -- all ----------------------------------------------------------------------------------------------------------------


def prepare(given: argparse.Namespace) -> tuple[Corpus, np.ndarray]:
    """The corpus and its items' unit-length vectors, both written into the working folder as the official code reads them."""
    if not (given.checkout / "seqrec" / "recdata.py").is_file():
        raise SystemExit(f"--checkout expects a clone of the official repository; {given.checkout} has no seqrec/recdata.py.")
    folder = given.run / "corpus" if (given.run / "corpus").is_dir() else given.run
    corpus = Corpus.load(folder)
    if corpus.max_history != 10:
        raise SystemExit(f"The official code reads histories of 10 items; {folder} has {corpus.max_history}.")
    given.work.mkdir(parents=True, exist_ok=True)
    (given.work / "ranks").mkdir(exist_ok=True)
    llm2rec_files.write(corpus, given.work / "data" / FOLDER, name="corpus")
    file = given.work / "vectors-unit.npy"
    if not file.is_file():
        rows = np.load(given.vectors) if given.vectors else pretrained.table(corpus.titles)
        np.save(file, item_table.checked_embeddings(rows, corpus.n_items, "unit"))
    vectors = np.load(file)
    for length, scale in LENGTHS.items():
        if length != "unit":
            np.save(given.work / f"vectors-{length}.npy", item_table.checked_embeddings(vectors, corpus.n_items, "unit", scale))
    return corpus, vectors


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=lambda p: Path(p).resolve(), required=True)
    parser.add_argument("--python", required=True, help="of an environment for the official code")
    parser.add_argument("--run", type=Path, help="folder of a run, or of a corpus")
    parser.add_argument("--work", type=lambda p: Path(p).resolve(), help="folder for what is made")
    parser.add_argument("--vectors", type=Path, help="items' vectors, .npy")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    corpus, vectors = prepare(given)
    train_all(given, corpus, vectors)


if __name__ == "__main__":
    main()
