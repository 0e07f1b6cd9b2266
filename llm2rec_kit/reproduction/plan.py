"""What a run would take, by arithmetic alone: sizes, floating-point operations, hours, memory and disk of every stage.

Nothing is run or written. Every number is steps x tokens x parameters over an assumed speed, and the plan prints those
assumptions: it is good to a factor of two or three, which is enough to choose a machine.
"""

from __future__ import annotations

import math
import os
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2rec_kit import settings as S
from llm2rec_kit.reproduction import assets, paper
from llm2rec_kit.runs import ArtefactError, outputs_folder

TITLE_TOKENS = {"tiny": 9.0, "": 20.0}  # a title of 12 words through the backbone's tokenizer; tiny's is made for its titles
HISTORY = 4.2  # items of history a sample, the mean of the released data
SYNTHETIC_LENGTH = 7.4  # interactions a user of the synthetic store
UTILISATION = (0.10, 0.40)  # share of a GPU's peak that training of short texts reaches
LAYER_MS = 2.5  # least time a layer, forward and backward, however few the tokens
STEP_MS = 5.0  # least time of a recommender's training step on a GPU
CORE_GFLOPS = 40.0  # what a CPU core does in the language model's matrices, float32
THREAD_GFLOPS = 20.0  # what a thread does in a recommender's small matrices


@dataclass(frozen=True)
class Domain:
    """One catalogue: items, and samples in training, validation and test."""

    name: str
    items: int
    train: int
    valid: int
    test: int


@dataclass(frozen=True)
class Sizes:
    """The data that a plan counts with, and where the counts are from."""

    domains: list[Domain]
    source: str

    @property
    def items(self) -> int:
        """Items of all domains."""
        return sum(d.items for d in self.domains)


@dataclass(frozen=True)
class Work:
    """One row: a stage's size in words, its operations, and its least number of passes through the layers."""

    stage: str
    what: str
    flops: float
    passes: int = 0
    on_gpu: bool = True
    pass_ms: float = 0.0  # least time of a pass; 0: that of the backbone's layers


@dataclass(frozen=True)
class Plan:
    """A plan, ready to be printed."""

    values: dict[str, Any]
    backbone: S.Backbone
    shape: assets.Shape
    sizes: Sizes
    work: list[Work]
    disk: list[tuple[str, float]]  # (what, bytes) that stay
    passing: float  # bytes that checkpoints need for a while
    memory: float  # bytes of weights, gradients and optimiser


def make(values: dict[str, Any]) -> Plan:
    """The plan of a run with these (checked) parameters. ValueError where the backbone's shape is not known."""
    backbone = S.Backbone.from_parameters(values)
    shape = assets.shape(backbone)
    if shape is None:
        raise ValueError(
            f"The size of backbone {backbone.name!r} is not known here, so nothing can be planned. Download it and give its folder "
            f"as backbone.name, or take one of {', '.join(assets.known()['backbones'])}."
        )
    sizes = _sizes(values)
    tokens = TITLE_TOKENS.get(backbone.name, TITLE_TOKENS[""])
    work = [*_language_model(values, shape, sizes, tokens), *_recommenders(values, shape, sizes)]
    bytes_each = 2 if _dtype(backbone) == "bfloat16" else 4
    return Plan(
        values,
        backbone,
        shape,
        sizes,
        work,
        _disk(values, shape, sizes, bytes_each),
        2 * 3 * shape.parameters * bytes_each,
        4 * shape.parameters * bytes_each,
    )


def hours(work: Work, shape: assets.Shape, accelerator: str) -> tuple[float, float]:
    """Fewest and most hours on an accelerator of assets.yaml; the least time of a pass counts in both."""
    peak = assets.known()["accelerators"][accelerator]["tflops"] * 1e12
    launch = work.passes * (work.pass_ms or shape.layers * LAYER_MS) / 1e3
    low, high = (work.flops / (peak * share) for share in reversed(UTILISATION))
    return max(low, launch) / 3600, (high + launch) / 3600


def cpu_hours(work: Work, cores: int) -> float:
    """Hours on this many CPU cores."""
    return work.flops / ((THREAD_GFLOPS if work.stage == "evaluation" else CORE_GFLOPS) * 1e9 * cores) / 3600


# -- sizes ------------------------------------------------------------------------------------------------------------


def _sizes(values: dict[str, Any]) -> Sizes:
    """What is known best: the run's own corpus, the paper's tables, or the settings of the synthetic store."""
    run = outputs_folder(values.get("outputs", "")) / values["run"]
    if (found := _of_run(run)) is not None:
        return found
    data = S.Data.from_parameters(values)
    if data.source == "synthetic":
        samples = round(data.synthetic_users * (SYNTHETIC_LENGTH - 1))
        held = data.synthetic_users if data.split == "leave_one_out" else samples // 10
        one = Domain("synthetic store", data.synthetic_items, samples - 2 * held, held, held)
        return Sizes([one], f"the synthetic store's settings, {SYNTHETIC_LENGTH} interactions a user assumed")
    printed = paper.datasets()
    if data.train_domains and set(data.train_domains) <= set(printed["dataset"]):
        return Sizes(
            [_printed(row) for row in printed.iter_rows(named=True)],
            "the paper's Tables 1 and 2 (80/10/10 where not printed)",
        )
    return Sizes([], "")


def _of_run(run: Path) -> Sizes | None:
    """Counts of the corpus that the run has already, with what shared prefixes save there; None without one."""
    from llm2rec_kit.runs import Run

    if not (run / "corpus" / "manifest.json").is_file():
        return None
    try:
        rows = Run(run.name, run.parent).record("corpus")["statistics"]
    except (ArtefactError, KeyError):
        return None
    rows = [r for r in rows if r["domain"] != "total"]
    domains = [Domain(r["domain"], r["items"], r["train"], r["valid"], r["test"]) for r in rows]
    return Sizes(domains, f"the corpus in {run}")


def _printed(row: dict[str, Any]) -> Domain:
    held = row["valid_and_test_each"] or row["interactions"] // 10
    return Domain(row["dataset"], row["items"], row["train"] or row["interactions"] - 2 * held, held, held)


# -- operations -------------------------------------------------------------------------------------------------------


def _language_model(values: dict[str, Any], shape: assets.Shape, sizes: Sizes, title: float) -> list[Work]:
    """CSFT, MNTP, contrast and encoding: 6 operations a parameter and token in training, 2 in reading."""
    csft, mntp = S.CSFT.from_parameters(values), S.MNTP.from_parameters(values)
    contrast, encoding = S.Contrastive.from_parameters(values), S.Encoding.from_parameters(values)
    sample = (HISTORY + 1) * title
    every = csft.evaluate_every or max(1, csft.steps // 10)
    read = csft.steps // every * csft.evaluate_samples
    rows = [
        Work(
            "csft",
            f"{csft.steps:,} steps x {csft.batch_size} samples x {sample:.0f} tokens; {read:,} validation samples",
            csft.steps * csft.batch_size * 6 * (sample * shape.body + title * shape.head)
            + read * 2 * (sample * shape.body + title * shape.head),
            csft.steps * _parts(csft.batch_size * sample, csft.batch_tokens),
        ),
        Work(
            "mntp",
            f"{mntp.steps:,} steps x {mntp.batch_size} titles x {title:.0f} tokens, {mntp.rate:.0%} of them predicted",
            mntp.steps * mntp.batch_size * title * 6 * (shape.body + mntp.rate * shape.head),
            mntp.steps * _parts(mntp.batch_size * title, mntp.batch_tokens),
        ),
        Work(
            "contrastive",
            f"{contrast.steps:,} steps x {contrast.batch_size} titles x 2 views x {title:.0f} tokens",
            contrast.steps * contrast.batch_size * 2 * title * 6 * shape.body,
            contrast.steps * _parts(contrast.batch_size * 2 * title, contrast.batch_tokens),
        ),
    ]
    if sizes.items:
        passes = 4 * _parts(sizes.items * title, encoding.batch_tokens)
        rows.append(
            Work(
                "encoding",
                f"4 stages x {sizes.items:,} titles x {title:.0f} tokens",
                4 * sizes.items * title * 2 * shape.body,
                passes,
            )
        )
    return rows


def _recommenders(values: dict[str, Any], shape: assets.Shape, sizes: Sizes) -> list[Work]:
    """All trainings of notebook 04 to their last epoch: early stopping only makes them shorter."""
    e = S.Evaluation.from_parameters(values)
    if not sizes.domains:
        return []
    trainings = len(e.recommenders) * len(e.embeddings) * len(e.seeds)
    layer = e.layers * (4 * e.hidden**2 + 2 * e.hidden * e.inner)
    flops, passes = 0.0, 0
    for d in sizes.domains:
        steps = math.ceil(d.train / e.batch_size)
        passes += trainings * e.epochs * steps
        epoch = 6 * d.train * (e.hidden * d.items + layer) + 6 * steps * d.items * shape.hidden * e.hidden
        validation = 2 * d.valid * (e.hidden * d.items + HISTORY * layer)
        flops += trainings * e.epochs * (epoch + validation / e.evaluate_every)
    what = f"{trainings * len(sizes.domains)} trainings ({len(sizes.domains)} catalogues x {trainings}), at most {e.epochs:,} epochs each"
    on_gpu = getattr(e, "device", "cpu") != "cpu"
    return [Work("evaluation", what, flops, passes, on_gpu=on_gpu, pass_ms=STEP_MS)]


def _parts(tokens: float, batch_tokens: int) -> int:
    """Passes that so many tokens need; 0 as a limit means that the machine decides."""
    return math.ceil(tokens / (batch_tokens or 8192))


def _disk(values: dict[str, Any], shape: assets.Shape, sizes: Sizes, bytes_each: int) -> list[tuple[str, float]]:
    e = S.Evaluation.from_parameters(values)
    model = shape.parameters * bytes_each
    rows = [("backbone, csft, mntp, contrastive, encoder: 5 models", 5.0 * model)]
    if sizes.domains:
        samples = sum(d.train + d.valid + d.test for d in sizes.domains)
        ranks = sum(d.test for d in sizes.domains) * len(e.recommenders) * len(e.embeddings) * len(e.seeds)
        rows += [
            ("corpus", samples * 16.0 + sizes.items * 150.0),
            ("embeddings: 4 tables, float32", 4.0 * (sizes.items + 1) * shape.hidden * 4),
            ("evaluation: ranks of every test sample", ranks * 4.0),
        ]
    return rows


def _dtype(backbone: S.Backbone) -> str:
    """The weights' type; auto is taken for what it is on a GPU where the backbone is not tiny."""
    if backbone.dtype != "auto":
        return backbone.dtype
    return "float32" if backbone.name == "tiny" else "bfloat16"


# -- text -------------------------------------------------------------------------------------------------------------


def text(plan: Plan, missing: str = "") -> str:
    """The plan as lines of at most 112 columns; `missing` says what a run would not find now."""
    parts = [
        _head(plan),
        *([[f"Not here yet: {missing}"]] if missing else []),
        _table(plan),
        _needs(plan),
        _assumptions(plan),
    ]
    return "\n\n".join("\n".join(_folded(line) for line in part) for part in parts)


def _head(plan: Plan) -> list[str]:
    shape, b, sizes = plan.shape, plan.backbone, plan.sizes
    lines = [
        f"Plan of run {plan.values['run']!r}: nothing is run or written.",
        f"Backbone {b.name}: {shape.parameters / 1e6:,.1f} M parameters ({shape.body / 1e6:,.1f} M in {shape.layers} layers, "
        f"{shape.head / 1e6:,.1f} M in the head), {_dtype(b)}.",
    ]
    if b.name in assets.known()["backbones"]:
        here = "is in the hub's cache already" if assets.cached(b.name) else f"{shape.gb:g} GB are to be downloaded"
        lines.append(f"Its weights: {here} ({assets.hub_cache()}).")
    if not sizes.domains:
        return [
            *lines,
            "Data: not counted yet. Run notebook 01 (`--only 01`), then ask again: encoding and evaluation come in.",
        ]
    counts = ", ".join(f"{d.name} {d.items:,} / {d.train:,}" for d in sizes.domains)
    return [*lines, f"Data, from {sizes.source}, items / samples to train on: {counts}; {sizes.items:,} items in all."]


def _table(plan: Plan) -> list[str]:
    cores, names = os.cpu_count() or 1, list(assets.known()["accelerators"])
    lines = [f"{'stage':14}{'operations':>10}" + "".join(f"{n:>16}" for n in names) + f"{f'CPU, {cores} cores':>16}"]
    totals = [(0.0, 0.0)] * len(names)
    for w in plan.work:
        found = [hours(w, plan.shape, n) for n in names] if w.on_gpu else []
        totals = [(a + c, b + d) for (a, b), (c, d) in zip(totals, found, strict=True)] if found else totals
        cells = "".join(f"{_span(*h):>16}" for h in found) if found else f"{'on the CPU':>16}" + " " * 16 * (len(names) - 1)
        lines += [f"{w.stage:14}{w.flops:>10.1e}{cells}{_time(cpu_hours(w, cores)):>16}", f"  {w.what}"]
    on_gpu = "".join(f"{_span(*h):>16}" for h in totals)
    return [*lines, f"{'sum on a GPU':14}{sum(w.flops for w in plan.work if w.on_gpu):>10.1e}{on_gpu}"]


def _needs(plan: Plan) -> list[str]:
    kept = sum(size for _, size in plan.disk)
    folder = outputs_folder(plan.values.get("outputs", "")).absolute()
    at = next(p for p in (folder, *folder.parents) if p.exists())
    return [
        f"Memory of a training: {_size(plan.memory)} for weights, gradients and AdamW's two moments; activations come on top "
        "(the *_batch_tokens settings bound them).",
        f"Disk: {_size(kept)} stay ({'; '.join(f'{what}, {_size(size)}' for what, size in plan.disk)}), and {_size(plan.passing)} "
        f"for a while (two checkpoints with optimiser). Free at {at}: {_size(shutil.disk_usage(at).free)}.",
    ]


def _assumptions(plan: Plan) -> list[str]:
    title = TITLE_TOKENS.get(plan.backbone.name, TITLE_TOKENS[""])
    low, high = UTILISATION
    peaks = ", ".join(f"{n} {a['tflops']}" for n, a in assets.known()["accelerators"].items())
    return [
        "How the times come about (estimates, good to a factor of two or three; no stage has been timed on these GPUs):",
        "- operations = 6 x parameters x tokens in training, 2 x in reading. Attention's own products are left out.",
        f"- A title is taken as {title:.0f} tokens, a sample as its target and {HISTORY} titles before it, one row a sample "
        "(csft_shared_prefix needs fewer tokens).",
        f"- GPU time = operations / (peak x {high:.0%} to {low:.0%}), and no pass under {LAYER_MS} ms a layer (a recommender's step {STEP_MS:.0f} ms). Peaks, TFLOPS: {peaks}.",
        f"- CPU time = operations / ({CORE_GFLOPS:.0f} GFLOPS a core, as measured with `tiny`; recommenders {THREAD_GFLOPS:.0f} a thread, "
        "one thread a training).",
        "- Evaluation is an upper bound: early stopping usually ends a training well before its last epoch.",
        "- UMAP and the notebooks' own start are not counted.",
    ]


def _folded(line: str, width: int = 112) -> str:
    return line if len(line) <= width else textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False)


def _span(low: float, high: float) -> str:
    """Two times in hours, in one unit where they share it."""
    first, second = _time(low), _time(high)
    if first == second:
        return first
    (a, unit), (_, other) = first.split(), second.split()
    return f"{a}-{second}" if unit == other else f"{first} - {second}"


def _time(hours_: float) -> str:
    """A time in hours as text, in the unit that needs no more than three digits."""
    seconds = hours_ * 3600
    for unit, size, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 72), ("d", 86400, math.inf)):
        if seconds < most * size:
            count = seconds / size
            return f"{count:,.1f} {unit}" if count < 10 and unit != "s" else f"{max(1, round(count)):,} {unit}"
    raise AssertionError


def _size(count: float) -> str:
    """Bytes as MB or GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
