"""The official evaluation code from outside: its processes, its weights under the kit's names, its losses as a fixture.

For `official_code.py`, which says how to get the official code, and for the tests that hold the kit to what was recorded.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import resource
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream import evaluation, ranking, samples
from llm2rec_kit.settings import Evaluation
from llm2rec_kit.storage import write_json

DATASET, FOLDER = "Arts_5core", "Arts_Crafts_and_Sewing/5-core"  # a name that its loader knows, and where it looks for it
RATES = {"SASRec": "1.0e-3", "GRU4Rec": "1.0e-4"}


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


def environment() -> dict[str, str]:
    """One thread, no tracker, no compiled files in the checkout, and none of the kit's modules."""
    own = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "WANDB_MODE": "disabled", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **own, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}


def official(given: argparse.Namespace, corpus: Corpus, recommender: str, length: str, seed: int) -> tuple[dict, np.ndarray]:
    """One training by the official code: metrics, epochs, processor seconds, and the test ranks by its best weights."""
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
        f"--epochs={given.epochs}",
    ]
    log = given.work / "official.log"
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("w") as file:
        done = subprocess.run(
            words, stdout=file, stderr=file, cwd=given.work, env={**environment(), "PYTHONUNBUFFERED": "1"}
        )
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    said = log.read_text().replace("\r", "\n")
    printed = re.findall(r"^OrderedDict.*$", said, re.M)
    best = re.search(r"^Best epoch: (\d+)", said, re.M)
    if done.returncode or len(printed) < 2 or not best:
        raise SystemExit(f"The official code did not run: {' '.join(words)}\n{said[-2000:]}")
    *curve, found = [{name: float(x) for name, x in re.findall(r"'(\w+@\d+)'\W+([\d.e-]+)", line)} for line in printed]
    weights = given.work / re.search(r"^Loaded best model checkpoint from (.*)$", said, re.M)[1]
    ranks = rank_by(
        corpus, torch.load(weights, map_location="cpu", weights_only=True), recommender, np.load(words[4].split("=")[1])
    )
    weights.unlink()
    every = settings_of().evaluate_every
    facts = {"best_epoch": int(best[1]), "epochs": every * len(curve), "seconds": seconds}
    return {
        "metrics": found,
        **facts,
        "curve": [[every * (k + 1), each["recall@20"]] for k, each in enumerate(curve)],
    }, ranks


def rank_by(corpus: Corpus, weights: dict[str, torch.Tensor], recommender: str, vectors: np.ndarray) -> np.ndarray:
    """Ranks of the test targets by the official code's weights in the kit."""
    both = evaluation.make_model_and_table(recommender, corpus.n_items, corpus.max_history, vectors, settings_of())
    both.load_state_dict(from_official(weights, recommender))
    rows = samples.make_rows(corpus, corpus.samples("test"), shared=False)
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


def started(given: argparse.Namespace, program: str, asked: dict, folder: Path) -> subprocess.Popen:
    """A program of ours over the official code's modules, in its environment and in `folder`; it finds `asked` in sys.argv[2]."""
    words = [given.python, "-c", program, str(given.checkout), json.dumps(asked)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=folder, env=environment()
    )


def to_official(both: torch.nn.ModuleList, recommender: str) -> dict[str, torch.Tensor]:
    """The kit's weights by the official code's names."""
    weights = {name: p.detach() for name, p in both.named_parameters()}
    return {
        name: part
        for ours, theirs in parts(recommender).items()
        for name, part in zip(theirs, weights[ours].chunk(len(theirs)), strict=True)
    }


# -- a recorded fixture -------------------------------------------------------------------------------------------------

RECORD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
from seqrec.utils import get_model
asked = json.loads(sys.argv[2])
held = dict(np.load("in.npz"))
model = get_model(asked["model"])(asked, torch.from_numpy(held.pop("embeddings"))).double()
named = {name: p for name, p in model.named_parameters() if p.requires_grad}
assert named.keys() == held.keys(), named.keys() ^ held.keys()
with torch.no_grad():
    for name, p in named.items():
        p.copy_(torch.from_numpy(held[name]))
rows, width = asked["histories"], asked["max_seq_length"]
batch = {"item_seqs": torch.tensor([row + [0] * (width - len(row)) for row in rows]),
         "seq_lengths": torch.tensor([len(row) for row in rows]), "labels": torch.tensor(asked["labels"])}
with torch.no_grad():
    order = model.eval().predict(batch, n_return_sequences=asked["item_num"])
ranks = (order == batch["labels"][:, None]).int().argmax(1) + 1
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=asked["lr"], weight_decay=asked["weight_decay"])
losses, first = [], {}
for _ in range(asked["steps"]):
    optimizer.zero_grad()
    loss = model(batch)["loss"]
    loss.backward()
    first = first or {"of " + name: p.grad.clone().numpy() for name, p in named.items()}
    optimizer.step()
    losses.append(loss.item())
np.savez("out.npz", losses=losses, ranks=ranks, **first)
"""
RECORDED = {
    "item_num": 12,
    "max_seq_length": 4,
    "hidden_size": 8,
    "layer_num": 2,
    "num_heads": 2,
    "dropout": 0.0,
    "loss_type": "ce",
    "adapter_dims": [-1],
    "select_pool": [1, 13],
    "lr": 0.01,
    "weight_decay": 0.1,
    "steps": 8,
    "histories": [[3], [3, 7], [3, 7, 1], [3, 7, 1, 12], [5, 5], [9, 2, 11, 4], [12, 8, 6], [10]],
    "labels": [7, 1, 12, 2, 9, 6, 10, 12],
}
WIDE_RECORDED = 6  # of the recorded item vectors


def formula(place: int, *shape: int) -> np.ndarray:
    """Numbers that stand in for weights, or for vectors: a chirp, float64 of `shape`, another for every `place`."""
    numbers = 0.3 * np.sin(place + np.arange(1, math.prod(shape) + 1) ** 2 / 7)
    return numbers.reshape(shape)


def recorded_both(recommender: str) -> torch.nn.ModuleList:
    """The kit's (model, table) in float64, of the recorded sizes, over vectors and from weights by the formula; no dropout."""
    asked = RECORDED
    vectors = formula(-1, asked["item_num"] + 1, WIDE_RECORDED)
    vectors[0] = 0
    settings = settings_of(hidden=asked["hidden_size"], heads=asked["num_heads"], layers=asked["layer_num"], dropout=0.0)
    both = evaluation.make_model_and_table(
        recommender, asked["item_num"], asked["max_seq_length"], vectors, settings
    ).double()
    with torch.no_grad():
        for place, (_, p) in enumerate(sorted(both.named_parameters())):
            p.copy_(torch.from_numpy(formula(place, *p.shape)))
    return both


def summed(values: np.ndarray) -> list[float]:
    """Sum, norm, and the sum weighted by the formula, which tells an entry's place."""
    return [float(values.sum()), float(np.linalg.norm(values)), float((values * formula(0, *values.shape)).sum())]


def record(given: argparse.Namespace) -> None:
    """Write what the official code makes of the recorded samples: losses of AdamW's steps, the first gradients, ranks."""
    found = {"asked": RECORDED}
    for recommender in RATES:
        both = recorded_both(recommender)
        apart = {name: part.numpy() for name, part in to_official(both, recommender).items()}
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder) / "in.npz", embeddings=both[1].embeddings.numpy(), **apart)
            process = started(given, RECORD, {**RECORDED, "model": recommender}, Path(folder))
            process.communicate()
            if process.returncode:
                raise SystemExit(
                    "The official code's modules did not run: are torch, transformers, accelerate, wandb there?"
                )
            out = dict(np.load(Path(folder) / "out.npz"))
        first = {name: torch.from_numpy(out[f"of {name}"]) for name in apart}
        gradients = {name: summed(value.numpy()) for name, value in from_official(first, recommender).items()}
        found[recommender] = {"losses": out["losses"].tolist(), "ranks": out["ranks"].tolist(), "gradients": gradients}
    write_json(given.record, found)
