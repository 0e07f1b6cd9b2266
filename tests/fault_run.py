"""A small finished run, made by hand in a second with real content, and every way in which a file of it may be damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import make_corpus
from nbformat.v4 import new_code_cell, new_notebook, new_output
from safetensors.numpy import save_file

from llm2rec_kit import storage
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream import evaluation
from llm2rec_kit.downstream.ranking import Ranking
from llm2rec_kit.results import significance
from llm2rec_kit.runs import RECORD_MIME, Run

TRAINING = {"hidden": 8, "cutoffs": [10], "metric": "ndcg@10"}
SEEDS = [f"evaluation/toy/SASRec-{e}-seed{seed}" for e in ("raw", "csft") for seed in (1, 2)]


def made(run: Run, seed: int = 0) -> Run:
    """Make all artefacts in `run`, or those that are damaged; other content and records with another `seed`."""
    for name in NAMES:
        make(run, name, seed)
    return run


def make(run: Run, name: str, seed: int = 0, **more: Any) -> None:
    """Make one artefact of `run` as its notebook does."""
    build, settings, inputs = _how(run, name, seed)
    run.make(name, build, settings=settings, inputs=inputs, **more)


def _how(run: Run, name: str, seed: int) -> tuple[Callable[[Path], dict | None], dict[str, Any], list[str]]:
    stem = name.split("/")[-1]
    if name == "corpus":
        return _corpus(seed), {"source": "table", "seed": seed}, []
    if name in ("backbone", "csft", "mntp", "contrastive"):
        before = {"csft": "backbone", "mntp": "csft", "contrastive": "mntp"}
        return _model(name, seed), {"steps": 3, "seed": seed}, ["corpus", *([before[name]] if name in before else [])]
    if name.startswith("embeddings/"):
        return _table(stem, seed), {"encoder": stem, "seed": seed}, ["corpus", "csft" if stem == "csft" else "backbone"]
    if name == "evaluation/series":
        named = [*SEEDS, "evaluation/toy/comparisons"]
        return lambda folder: None, TRAINING | {"seeds": [1, 2], "evaluations": named}, named
    if stem == "comparisons":
        return _tests(run), {"pairs": [[["SASRec", "raw"], ["SASRec", "csft"]]], "tested": "ndcg@10"}, SEEDS
    if name.startswith("evaluation/"):
        return _ranks(run, stem, seed), TRAINING, ["corpus", f"embeddings/{stem.split('-')[1]}"]
    return _maps(seed), {"stages": ["raw", "csft"], "seed": seed}, ["corpus", "embeddings/raw", "embeddings/csft"]


NAMES = [
    *("corpus", "backbone", "csft", "mntp", "contrastive", "embeddings/raw", "embeddings/csft"),
    *(*SEEDS, "evaluation/toy/comparisons", "evaluation/series", "maps"),
]


def _corpus(seed: int) -> Callable[[Path], dict]:
    def build(folder: Path) -> dict[str, Any]:
        corpus = make_corpus(seed=seed)
        corpus.save(folder)
        statistics = corpus.statistics().to_dicts()
        return {
            "source": "table",
            "split": "leave_one_out",
            "train_domains": ["toy"],
            "statistics": statistics,
            "cleaning": [],
        }

    return build


def _model(name: str, seed: int) -> Callable[[Path], dict]:
    def build(folder: Path) -> dict[str, Any]:
        save_file({"weight": np.full(4, seed + len(name), np.float32)}, folder / "model.safetensors")
        history = [{"step": k, "loss": 3.5 - k + seed} for k in (1, 2, 3)]
        (folder / "history.json").write_text(json.dumps(history))
        return {"name": "tiny", "from_nothing": True, "parameters": 1000 + seed, "loss": 0.5 + seed, "steps": 3}

    return build


def _table(stem: str, seed: int) -> Callable[[Path], dict]:
    def build(folder: Path) -> dict[str, Any]:
        np.save(folder / f"{stem}.npy", np.full((17, 2), seed + len(stem), np.float32))
        return {"stage": stem, "encoder": stem, "dim": 2, "mean_norm": 1.25 + seed}

    return build


def _ranks(run: Run, stem: str, seed: int) -> Callable[[Path], dict]:
    def build(folder: Path) -> dict[str, Any]:
        part = Corpus.load(run.require("corpus"))
        _, embedding, number = stem.split("-")
        draw = np.random.default_rng([seed, len(embedding), int(number[-1])])
        ranks = draw.integers(1, part.n_items + 1, len(part.samples("test")))
        listed = draw.permuted(np.tile(np.arange(1, part.n_items + 1), (len(ranks), 1)), axis=1)[:, :10].astype(np.int32)
        listed = np.stack([np.bincount(listed[:, :10].ravel(), minlength=part.n_items + 1)[1:]])
        save_file({"weight": np.full(4, seed, np.float32)}, folder / f"{stem}.safetensors")
        facts = {"domain": "toy", "recommender": "SASRec", "embedding": embedding, "seed": int(number[-1])}
        facts |= {"curve": [[1, 0.1], [2, 0.2]], "losses": [2.0, 1.0], "epochs": 2, "best_epoch": 2}
        found, counts = Ranking(ranks, listed), np.ones(part.n_items)
        return evaluation.write_ranking(found, folder, stem, facts=facts, cutoffs=[10], counts=counts)

    return build


def _tests(run: Run) -> Callable[[Path], dict]:
    def build(folder: Path) -> dict[str, Any]:
        verdicts = significance.compare(run, "toy", [(("SASRec", "raw"), ("SASRec", "csft"))], seeds=[1, 2])
        verdicts.write_parquet(folder / "comparisons.parquet")
        return {"domain": "toy", "rows": verdicts.to_dicts()}

    return build


def _maps(seed: int) -> Callable[[Path], dict]:
    def build(folder: Path) -> dict[str, Any]:
        np.save(folder / "points.npy", np.full((17, 2), seed, np.float32))
        return {"quality": {"raw": 0.75 + seed}}

    return build


def notebook(run: Run) -> Path:
    """An executed notebook 06 of the run, with the record that it makes last."""
    record = storage.seal({"name": "directions", "values": {"towards": 3}})
    cell = new_code_cell("", outputs=[new_output("display_data", data={RECORD_MIME: record})])
    path = run.path / "notebooks" / "06_paper_tables.ipynb"
    storage.write_json(path, new_notebook(cells=[cell]))
    return path


# -- damage -----------------------------------------------------------------------------------------------------------


def flip(path: Path, other: Path) -> None:
    """One bit in the middle is another."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def digit(path: Path, other: Path) -> None:
    """A number is another: the last digit that follows on a colon, so that JSON stays JSON."""
    text = path.read_text()
    at = next(
        k for k in range(len(text) - 1, -1, -1) if text[k].isdigit() and text[:k].rstrip("0123456789.-").endswith(": ")
    )
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])


def folder(path: Path, other: Path) -> None:
    """A folder with something in it stands there."""
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("kept")


def loop(path: Path, other: Path) -> None:
    """A link to itself."""
    path.unlink()
    path.symlink_to(path.name)


def elsewhere(path: Path, other: Path) -> None:
    """A link to a file outside the run, which must not be written to."""
    path.unlink()
    path.symlink_to(other)


FAULTS: dict[str, Callable[[Path, Path], None]] = {
    "flipped": flip,
    "digit": digit,
    "truncated": lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path, other: path.write_bytes(b""),
    "null": lambda path, other: path.write_text("null"),
    "list": lambda path, other: path.write_text("[]"),
    "object": lambda path, other: path.write_text("{}"),
    "not UTF-8": lambda path, other: path.write_bytes(b'{"a": "\xff\xfe"}'),
    "removed": lambda path, other: path.unlink(),
    "other run": lambda path, other: shutil.copyfile(other, path) and None,
    "folder": folder,
    "loop": loop,
    "elsewhere": elsewhere,
}
