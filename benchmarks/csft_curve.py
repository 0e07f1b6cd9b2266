"""Where does CSFT turn? Recall along one training of a pretrained model, by the number of samples that it has seen.

    python benchmarks/csft_curve.py --run FOLDER --keep 50 100 300       beside a training of FOLDER: keeps the weights of those steps
    python benchmarks/csft_curve.py --run FOLDER --out curve.json        evaluates what was kept, the model before and the model after

FOLDER is a run whose backbone is a pretrained model and whose checkpoints (`csft_save_every`) come at the steps to keep. They are
copied to FOLDER/csft-curve/<step>, whole or not at all; with `--keep` the script ends when all are there, or when CSFT is.
Titles of one domain are read by every model under the causal and under the lifted mask (mean over the tokens, and the last
token's state), and by halves: weights midway between the model before and after. SASRec is trained over each table as it comes and whitened, with the
recommender's settings of the profile `pretrained`. What stands in the results' file is not made again; a Markdown table is printed.

The points are those of one training with its schedule (linear decay to zero at the last step), so an earlier point has not been
trained to its own end; a short training of its own would end with a smaller rate.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from starts import do_all, keep_all, read_results, table

from llm2rec_kit import settings as S
from llm2rec_kit import storage
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream import evaluation
from llm2rec_kit.encoding import minilm
from llm2rec_kit.encoding.encoder import Encoder
from llm2rec_kit.fitting import checkpoints
from llm2rec_kit.models import backbone
from llm2rec_kit.models import checkpoint as checkpoint_files
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.results import metrics

MASKS = ("causal", "bidirectional")
POOLINGS = {"mean": "", "last": " last"}  # what stands behind the mask in a table's name
FORMS = ("none", "whitened")
HALF, ID = "half", "id"


def keep(run: Path, steps: list[int]) -> None:
    """Copy the weights of the checkpoints of `steps` as they appear, until all are there or CSFT is done."""
    source = run / ".csft.partial" / "checkpoints"
    while waiting := [step for step in steps if not (run / "csft-curve" / str(step)).exists()]:
        for step in waiting:
            checkpoint = checkpoints.locate(source, step)
            if not (checkpoint / checkpoints.COMPLETE).exists() or checkpoints.find_fault(checkpoint):
                continue
            target = run / "csft-curve" / str(step)
            new = target.with_name(f".{step}")
            shutil.rmtree(new, ignore_errors=True)
            # Tokenizer and configuration, without weights and the note of their hash.
            shutil.copytree(run / "backbone", new, ignore=shutil.ignore_patterns("model.safetensors", checkpoint_files.NOTE))
            shutil.copy(checkpoint / "model.safetensors", new / "model.safetensors")
            new.rename(target)
            print(f"step {step}: kept in {target}", flush=True)
        if (run / "csft").exists():
            return
        time.sleep(5)


def list_models(run: Path) -> dict[str, Path | None]:
    """{steps, as "0" and "887", or "half": folder of the model, None for the weights midway}."""
    kept = {path.name: path for path in (run / "csft-curve").glob("[0-9]*") if path.is_dir()}  # beside them are tables
    models = {"0": run / "backbone"} | dict(sorted(kept.items(), key=lambda pair: int(pair[0])))
    if not (run / "csft").exists():
        return models
    return models | {str(storage.read_json(run / "csft" / "manifest.json")["settings"]["steps"]): run / "csft", HALF: None}


def load(run: Path, folder: Path | None, mask: str, pooling: str) -> Encoder:
    """The encoder of a point under a mask: mean over the title's tokens, or the last one's state, as they come."""
    place, how = S.Backbone(device="cpu"), S.Encoding(attention=mask, pooling=pooling, normalise="none")
    model, tokenizer = backbone.load(folder or run / "backbone", place, head=False)
    if folder is None:
        after = backbone.load(run / "csft", place, head=False)[0].state_dict()
        model.load_state_dict({name: (value + after[name]) / 2 for name, value in model.state_dict().items()})
    return Encoder(model, tokenizer, how)


def encode(run: Path, domain: str, corpus: Corpus, names: list[str]) -> dict[str, Path]:
    """Encode the titles with every model under every mask; {"<steps> <mask>": file}, and "<steps> <mask> last" for the last
    token's states. What is there is not read again."""
    files = {}
    for (name, folder), mask, pooling in itertools.product(list_models(run).items(), MASKS, POOLINGS):
        key = f"{name} {mask}{POOLINGS[pooling]}"
        if names and key not in names:
            continue
        files[key] = file = run / "csft-curve" / f"{domain}-{key.replace(' ', '-')}.npy"
        if not file.exists():
            print(f"reading {corpus.n_items:,} titles: {key}", flush=True)
            load(run, folder, mask, pooling).table(corpus.titles, out=file)
    if not names or minilm.NAME in names:
        files[minilm.NAME] = file = run / "csft-curve" / f"{domain}-minilm.npy"
        if not file.exists():
            np.save(file, minilm.encode_titles(corpus.titles))
    return files


def train(corpus: Corpus, file: Path | None, form: str, seed: int, recommender: str) -> dict[str, float]:
    """Train one recommender over a table, or over trained ids: its metrics and epochs. One thread."""
    torch.set_num_threads(1)
    settings = dataclasses.replace(recommender_settings(), normalise=form if file else "none")
    vectors = np.load(file) if file else None
    result = evaluation.train_and_rank(corpus, vectors, settings, recommender=recommender, seed=seed)
    return metrics.summarise(result.ranks, settings.cutoffs) | {
        "best_epoch": result.best_epoch,
        "epochs": len(result.losses),
    }


def recommender_settings() -> S.Evaluation:
    """Those of the profile `pretrained`, on the CPU."""
    given = {k: v for k, v in notebooks.load_profile("pretrained").items() if k.startswith("evaluation_")}
    return S.Evaluation.from_parameters(given | {"evaluation_device": "cpu"})


def results_of(args: argparse.Namespace) -> dict[str, Any]:
    """The results' file as it is, or a new one."""
    settings = evaluation.list_settings(recommender_settings())
    return read_results(args.out, {"run": args.run.resolve().name, "domain": args.domain, "settings": settings})


def show(trained: dict[str, dict[str, float]], tables: list[str], recommender: str) -> None:
    """Print a Markdown table: a row a table of vectors, Recall@10 and NDCG@10 of each form, mean over its seeds."""
    head = [recommender, *(f"{form}: {m}" for form in FORMS for m in ("Recall@10", "NDCG@10", "seeds"))]
    rows = []
    for name in tables:
        cells = []
        for form in FORMS:
            found = [v for k, v in trained.items() if k.startswith(f"{recommender}, {name}, {form}, ")]
            cells += [f"{np.mean([f[m] for f in found]):.4f}" if found else "" for m in ("recall@10", "ndcg@10")]
            cells.append(str(len(found)))
        rows.append([name, *cells])
    table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of the run whose CSFT it is")
    parser.add_argument(
        "--keep", type=int, nargs="+", help="steps whose weights to keep while CSFT runs; nothing else is done"
    )
    parser.add_argument("--domain", default="games", help="domain whose titles are read and whose users are ranked")
    parser.add_argument("--out", type=Path, default=Path("curve.json"), help="results' file")
    parser.add_argument("--only", nargs="+", default=[], help="tables: '0 causal', '887 causal last', 'minilm', 'id'")
    parser.add_argument("--recommenders", nargs="+", default=["SASRec"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[2024])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trainings at a time, a thread each")
    args = parser.parse_args()
    if args.keep:
        keep(args.run, args.keep)
        return
    results = results_of(args)
    corpus, _ = Corpus.load(args.run / "corpus").select([args.domain])
    files: dict[str, Path | None] = {**encode(args.run, args.domain, corpus, args.only)}
    if not args.only or ID in args.only:
        files[ID] = None
    jobs = {}
    for seed, recommender, (name, file), form in itertools.product(args.seeds, args.recommenders, files.items(), FORMS):
        key = f"{recommender}, {name}, {form}, {seed}"
        if key not in results["trained"] and (file or form == FORMS[0]):
            jobs[key] = (corpus, file, form, seed, recommender)
    print(f"{len(jobs)} trainings to do.", file=sys.stderr, flush=True)
    keep_all(do_all(train, jobs, args.workers), results, args.out)
    for recommender in args.recommenders:
        show(results["trained"], list(files), recommender)


if __name__ == "__main__":
    main()
