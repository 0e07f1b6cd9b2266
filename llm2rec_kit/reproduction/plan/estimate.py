"""What a run would take, by arithmetic alone: sizes, floating-point operations, hours, memory and disk of every stage.

Nothing is run or written. `inventory` lists what the notebooks make, `cost` says what each thing takes, and the plan puts it
together: it is good to a factor of two or three, which is enough to choose a machine. `plan_text` prints it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from llm2rec_kit import settings as S
from llm2rec_kit.reproduction.plan import assets, cost, inventory, sizes
from llm2rec_kit.reproduction.plan.cost import Work
from llm2rec_kit.reproduction.plan.dry_study import Artefact
from llm2rec_kit.reproduction.plan.sizes import Sizes


@dataclass(frozen=True)
class Row:
    """What one section of a notebook makes: its label, its artefacts, and the work of each."""

    notebook: str  # its number
    label: str
    artefacts: list[Artefact]
    work: list[Work]


@dataclass(frozen=True)
class Plan:
    """A plan, ready to be printed."""

    values: dict[str, Any]
    numbers: list[str]  # of the notebooks that are to run
    backbone: S.Backbone
    shape: assets.Shape
    sizes: Sizes
    rows: list[Row]
    unknown: list[Artefact]  # left out: the shape of their model is not known
    disk: dict[str, tuple[int, float]]  # what stays: how many, bytes

    @property
    def largest(self) -> S.Backbone:
        """The largest model that is trained."""
        trained = [a.model for row in self.rows for a in row.artefacts if isinstance(a.settings, S.Training)]
        return max([self.backbone, *trained], key=lambda model: assets.known_shape(model).parameters)

    @property
    def mixed(self) -> bool:
        """Whether a training of it keeps float32 weights, whatever the model's type is."""
        return any(training.precision == "mixed" for training in self._trainings)

    @property
    def memory(self) -> float:
        """Bytes of weights, gradients and AdamW's two moments in its training."""
        return max((_resident(t, self.largest) for t in self._trainings), default=4 * _bytes(self.largest))

    @property
    def passing(self) -> tuple[float, int]:
        """Bytes on disk that checkpoints of it (weights and AdamW's two moments) need for a while, and how many are there at
        once; with LoRA they hold the adapters alone."""
        each = (
            (3 * _weight(t, self.largest) * _count_trained(t, self.largest), count_checkpoints(t)) for t in self._trainings
        )
        return max(((size * n, n) for size, n in each), default=(9 * _bytes(self.largest), 3))

    @property
    def _trainings(self) -> list[S.Training]:
        """Those of the largest model."""
        found = (a for row in self.rows for a in row.artefacts if a.model == self.largest)
        return [a.settings for a in found if isinstance(a.settings, S.Training)]


def count_checkpoints(training: S.Training) -> int:
    """Count the checkpoints on disk while one is written, at most: the last two beside it, and the best where it is kept."""
    return 4 if training.keep == "best" else 3


def make_plan(values: dict[str, Any], numbers: Collection[str]) -> Plan:
    """Make the plan of a run of the notebooks with these numbers and these (checked) parameters. Raises ValueError where the
    backbone's shape is not known; what needs another such model is left out and named."""
    backbone = S.Backbone.from_parameters(values)
    shape = assets.known_shape(backbone)
    counted = sizes.find_sizes(values)
    asked = [a for a in inventory.list_artefacts(values, counted, numbers).artefacts if a.section[0] in numbers]
    each = [(a, cost.estimate_work(a, counted)) for a in asked]
    known = [(a, w) for a, w in each if w is not None]
    unknown, disk = [a for a, w in each if w is None], _disk([a for a, _ in known], counted)
    return Plan(values, sorted(numbers), backbone, shape, counted, _rows(known), unknown, disk)


def _rows(known: list[tuple[Artefact, Work]]) -> list[Row]:
    """A row a section, in the order of the notebooks; none for what takes no operations worth counting."""
    rows = []
    for (notebook, label), part in groupby(known, key=lambda pair: pair[0].section):
        artefacts, works = map(list, zip(*part, strict=True))
        if sum(w.flops for w in works):
            rows.append(Row(notebook, label, artefacts, works))
    return rows


def _disk(artefacts: list[Artefact], counted: Sizes) -> dict[str, tuple[int, float]]:
    """How many of each kind stay, and their bytes."""
    found: dict[str, tuple[int, float]] = {}
    for a in artefacts:
        for kind, size in _kept(a, counted) if a.kept else ():
            n, before = found.get(kind, (0, 0.0))
            found[kind] = (n + 1, before + size)
    return found


def _kept(a: Artefact, counted: Sizes) -> list[tuple[str, float]]:
    """What an artefact leaves on disk: (kind, bytes)."""
    match a.settings:
        case S.Data():
            samples = sum(d.train + d.valid + d.test for d in counted.domains)
            return [("corpus", samples * 16.0 + counted.items * 150.0)] if counted.domains else []
        case S.Encoding():
            return [("table", 4.0 * (counted.items + 1) * assets.known_shape(a.model).hidden)] if counted.domains else []
        case S.Evaluation():
            return [("ranking", 4.0 * next(d.test for d in counted.domains if d.name in a.domains))]
    model = ("model", _bytes(a.model))
    return [model, model] if a.section == ("03", "contrastive") else [model]  # again as encoder/


def _bytes(model: S.Backbone) -> float:
    """Bytes of a model's weights."""
    return assets.known_shape(model).parameters * _width(model)


def _width(model: S.Backbone) -> float:
    return 2.0 if choose_dtype(model) == "bfloat16" else 4.0


def _weight(training: S.Training, model: S.Backbone) -> float:
    """Bytes of one weight while it is trained."""
    return 4.0 if training.precision == "mixed" else _width(model)


def _count_trained(training: S.Training, model: S.Backbone) -> int:
    """Count the weights that have gradients and moments: LoRA's adapters, or all."""
    shape = assets.known_shape(model)
    return shape.count_adapters(training.lora_r) if training.tuning == "lora" else shape.parameters


def _resident(training: S.Training, model: S.Backbone) -> float:
    """Bytes of weights, gradients and moments."""
    held = assets.known_shape(model).parameters + 3 * _count_trained(training, model)
    return _weight(training, model) * held


def choose_dtype(backbone: S.Backbone) -> str:
    """Choose the weights' type; `auto` counts as what it is on a GPU, unless the backbone is tiny."""
    if backbone.dtype != "auto":
        return backbone.dtype
    return "float32" if backbone.name == "tiny" else "bfloat16"
