"""A plan as text: a row a stage, the notebooks 06 and 07 by section, the sums, what it needs, and what was assumed."""

from __future__ import annotations

import math
import os
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from llm2rec_kit import settings as S
from llm2rec_kit.models import packages
from llm2rec_kit.reproduction.plan import assets, cost
from llm2rec_kit.reproduction.plan.cost import Work
from llm2rec_kit.reproduction.plan.dry_study import Artefact
from llm2rec_kit.reproduction.plan.estimate import Plan, Row, choose_dtype
from llm2rec_kit.runs import find_outputs
from llm2rec_kit.storage import find_nearest_folder

WIDTH = 112  # columns at most
STUDIES = ("06", "07")  # notebooks that train models of their own
KEPT = {  # what stays on disk: of one, of several
    "corpus": ("corpus", "corpora"),
    "model": ("model", "models"),
    "table": ("table of embeddings", "tables of embeddings"),
    "ranking": ("ranking of the test samples", "rankings of the test samples"),
}


def render_plan(plan: Plan, missing: str = "") -> str:
    """Render the plan as lines of at most 112 columns; `missing` says what a run would not find now."""
    parts = [
        _head(plan),
        *([[f"A run would stop at its start: {missing}"]] if missing else []),
        _table(plan),
        _needs(plan),
        _assumptions(plan),
    ]
    return "\n\n".join("\n".join(_folded(line) for line in part) for part in parts)


def _head(plan: Plan) -> list[str]:
    shape, b, counted = plan.shape, plan.backbone, plan.sizes
    lines = [
        f"Plan of run {plan.values['run']!r}, notebook{'s' * (len(plan.numbers) > 1)} {', '.join(plan.numbers)}: nothing is run or written.",
        f"Backbone {b.name}: {shape.parameters / 1e6:,.1f} M parameters ({shape.body / 1e6:,.1f} M in {shape.layers} layers, "
        f"{shape.head / 1e6:,.1f} M in the head), {choose_dtype(b)}.",
    ]
    if weights := _weights(plan):
        lines.append(f"Weights: {'; '.join(weights)} ({assets.find_hub_cache()}).")
    if not counted.domains:
        later = "encoding and evaluation come in, and Table 5."
        return [*lines, f"Data: not counted yet. Run notebook 01 (`--only 01`), then ask again: {later}"]
    counts = ", ".join(f"{d.name} {d.items:,} / {d.train:,}" for d in counted.domains)
    data = f"Data, from {counted.source}, items / samples to train on: {counts}; {counted.items:,} items in all."
    return [*lines, data]


def _weights(plan: Plan) -> list[str]:
    """Where the weights of the run's backbone and those of Figure 4 are, of hub names of known size."""
    names = [plan.backbone.name, *(a.model.name for row in plan.rows for a in row.artefacts)]
    known, told = assets.read_assets()["backbones"], []
    for name in dict.fromkeys(names):
        if name in known and name not in packages.MODELS:
            there = "in the hub's cache already" if assets.is_cached(name) else f"to be downloaded, {known[name]['gb']:g} GB"
            told.append(f"{name} is {there}")
    return told


def _table(plan: Plan) -> list[str]:
    """Rows notebook by notebook; those of 06 and 07 have what they make told together, below them."""
    names = list(assets.read_assets()["accelerators"])
    lines = ["".join([f"{'stage':15}{'operations':>10}", *(f"{n:>16}" for n in names), f"{f'CPU, {_cores()} cores':>16}"])]
    for notebook, rows in ((n, list(part)) for n, part in groupby(plan.rows, key=lambda row: row.notebook)):
        studies = notebook in STUDIES
        for row in rows:
            lines.append(_line(f"{notebook} {row.label}" if studies else row.label, row.work))
            lines += [] if studies else [f"  {_what(row, plan)}"]
        if studies:
            lines.append(f"  {notebook} makes {_all_of(rows, plan)}")
    return [*lines, *_sums(plan), *_left_out(plan)]


def _line(label: str, works: Sequence[Work]) -> str:
    """One line of the table: operations, hours on each accelerator of what computes there, hours on this CPU of all."""
    names = list(assets.read_assets()["accelerators"])
    there = [w for w in works if w.on_gpu]
    cells = f"{'on the CPU':>16}" + " " * 16 * (len(names) - 1)
    if there:
        spans = [map(sum, zip(*(cost.estimate_hours(w, name) for w in there), strict=True)) for name in names]
        cells = "".join(f"{_span(*span):>16}" for span in spans)
    on_cpu = _time(sum(cost.estimate_cpu_hours(w, _cores()) for w in works))
    return f"{label:15}{sum(w.flops for w in works):>10.1e}{cells}{on_cpu:>16}"


def _sums(plan: Plan) -> list[str]:
    """A sum of the notebooks to 05, of 06 and of 07, and of all, where there is more than one."""
    first = [n for n in plan.numbers if n not in STUDIES]
    parts = {" to ".join(dict.fromkeys([*first[:1], *first[-1:]])): [r for r in plan.rows if r.notebook in first]}
    parts |= {number: [r for r in plan.rows if r.notebook == number] for number in STUDIES}
    works = {name: [w for r in part for w in r.work] for name, part in parts.items() if part}
    lines = [_line(f"sum of {name}", some) for name, some in works.items()]
    every = [w for some in works.values() for w in some]
    if len(works) > 1:
        lines.append(_line("sum", every))
    if any(w.on_gpu for w in every) and not all(w.on_gpu for w in every):
        lines.append("  (What evaluation_device keeps on the CPU is in no sum of a GPU.)")
    return lines or ["  none of these notebooks trains or encodes anything that could be counted"]


def _what(row: Row, plan: Plan) -> str:
    """The size of a stage of the notebooks 02 to 04, in words."""
    one, n = row.artefacts[-1], len(row.artefacts)
    s, title = one.settings, cost.count_tokens(one, plan.sizes)
    match s:
        case S.CSFT():
            sample = (cost.HISTORY + 1) * title
            read = cost.count_validated(s, plan.sizes)
            return f"{s.steps:,} steps x {s.batch_size} samples x {sample:.0f} tokens; {read:,} validation samples"
        case S.MNTP():
            read = cost.count_validated(s, plan.sizes)
            each = f"{title:.0f} tokens, {s.rate:.0%} of them predicted"
            return f"{s.steps:,} steps x {s.batch_size} titles x {each}; {read:,} titles read to validate"
        case S.Contrastive():
            return f"{s.steps:,} steps x {s.batch_size} titles x 2 views x {title:.0f} tokens"
        case S.Encoding():
            return f"{n} tables x {plan.sizes.items:,} titles x {title:.0f} tokens"
    assert isinstance(s, S.Evaluation)  # no other takes work in these notebooks
    n, domains = sum(isinstance(a.settings, S.Evaluation) for a in row.artefacts), len(plan.sizes.domains)
    return f"{n} trainings ({domains} catalogue{'s' * (domains > 1)} x {n // domains}), at most {s.epochs:,} epochs each"


def _all_of(rows: list[Row], plan: Plan) -> str:
    """What a notebook of studies makes, in words: its trainings by name, and how many tables and recommenders."""
    made = [a for row in rows for a in row.artefacts]
    named = Counter(_training(a, a.settings.steps, plan.backbone) for a in made if isinstance(a.settings, S.Training))
    trainings = [f"{n} x {name}" if n > 1 else name for name, n in named.items()]
    counts = [_count(made, S.Encoding, "encoding of the items"), _count(made, S.Evaluation, "recommender")]
    return "; ".join([*trainings, *(counts if plan.sizes.domains else [])])


def _training(a: Artefact, steps: int, own: S.Backbone) -> str:
    """A training as its name and steps, with the model's name where that is not the run's."""
    model = f"tiny-{a.model.hidden}" if a.model.name == "tiny" else a.model.name
    return f"{a.name}{'' if a.model == own else f' of {model}'} ({steps:,} steps)"


def _left_out(plan: Plan) -> list[str]:
    """What is in no row, by model."""
    lines = []
    for name in dict.fromkeys(a.model.name for a in plan.unknown):
        out = [a for a in plan.unknown if a.model.name == name]
        where = ", ".join(dict.fromkeys(" ".join(a.section) for a in out))
        counts = [_count(out, S.Training, "training"), _count(out, S.Encoding, "encoding of the items")]
        counts.append(_count(out, S.Evaluation, "recommender"))
        lines.append(f"Left out of every sum, as its size is not known here: {name} ({where}: {', '.join(counts)}).")
    return lines


def _count(artefacts: list[Artefact], kind: type[S.Stage], noun: str) -> str:
    """How many there are of a kind: "1 encoding of the items", "2 encodings of the items"."""
    n = sum(isinstance(a.settings, kind) for a in artefacts)
    one, _, rest = noun.partition(" ")
    return f"{n:,} {one}{'' if n == 1 else 's'}{f' {rest}' if rest else ''}"


def _cores() -> int:
    return os.cpu_count() or 1


def _needs(plan: Plan) -> list[str]:
    kept = ", ".join(f"{n:,} {KEPT[kind][n > 1]} {_size(size)}" for kind, (n, size) in plan.disk.items())
    at = find_nearest_folder(find_outputs(plan.values.get("outputs", "")))
    biggest = assets.known_shape(plan.largest).parameters / 1e6
    which = "" if plan.largest == plan.backbone else f" (of the largest model, {biggest:,.0f} M parameters)"
    told = (
        "Models count as bfloat16; where `auto` is float32, on a CPU and on a GPU without bfloat16 of its own, they take twice that "
        f"on disk{'' if plan.mixed else ', and a training twice the memory'}."
    )
    low = plan.largest.dtype == "auto" and choose_dtype(plan.largest) == "bfloat16"
    passing, count = plan.passing
    return [
        f"Memory of a training{which}: {_size(plan.memory)} for weights, gradients and AdamW's two moments; activations come on "
        "top (the *_batch_tokens settings bound them).",
        f"Disk: {_size(sum(size for _, size in plan.disk.values()))} stay ({kept or 'nothing'}), and {_size(passing)} for a "
        f"while ({count} checkpoints with optimiser). Free at {at}: {_size(shutil.disk_usage(at).free)}.",
        *([told] if low else []),
    ]


def _assumptions(plan: Plan) -> list[str]:
    title = cost.TITLE_TOKENS.get(plan.backbone.name, cost.TITLE_TOKENS[""])
    low, high = cost.UTILISATION
    peaks = ", ".join(f"{n} {a['tflops']}" for n, a in assets.read_assets()["accelerators"].items())
    return [
        "How the times come about (estimates, good to a factor of two or three; no stage has been timed on these GPUs):",
        "- operations = 6 x parameters x tokens in training, 2 x in reading. Attention's own products are left out.",
        f"- A title is taken as {title:.0f} tokens, a sample as its target and {cost.HISTORY} titles before it, one row a sample "
        "(csft_shared_prefix needs fewer tokens).",
        f"- GPU time = operations / (peak x {high:.0%} to {low:.0%}), and no pass under {cost.LAYER_MS} ms a layer (a recommender's step {cost.STEP_MS:.0f} ms). Peaks, TFLOPS: {peaks}.",
        f"- CPU time = operations / ({cost.CORE_GFLOPS:.0f} GFLOPS a core, as measured with `tiny`; recommenders {cost.THREAD_GFLOPS:.0f} a thread, "
        "one thread a training).",
        "- Evaluation is an upper bound: early stopping usually ends a training well before its last epoch.",
        *(_of_studies(plan) if {*STUDIES} & {*plan.numbers} else []),
        "- UMAP, the paired tests and the notebooks' own start are not counted.",
    ]


def _of_studies(plan: Plan) -> list[str]:
    """What is assumed of 06 and 07 alone."""
    lines = [
        "- 06 and 07 take what the run and each other have made, so that is counted once; what was made before the plan is not "
        f"looked for. Attributes are taken as {cost.RICH_WORDS} words where a title has {cost.TITLE_WORDS}; longer "
        "histories as no longer, as few users have them.",
    ]
    if plan.sizes.corpus is None:
        lines.append(
            "- As long as there is no corpus, the data is taken to have times, and text besides titles that fills "
            "questions_text_words."
        )
    return lines


def _folded(line: str) -> str:
    return line if len(line) <= WIDTH else textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False)


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
