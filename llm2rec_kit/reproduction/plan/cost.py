"""Work: the floating-point operations of one artefact, and the time they take on an assumed machine.

Every number is steps x tokens x parameters over an assumed speed. `plan` prints the assumptions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm2rec_kit import settings as S
from llm2rec_kit.reproduction.plan import assets
from llm2rec_kit.reproduction.plan.dry_study import Artefact
from llm2rec_kit.reproduction.plan.sizes import Domain, Sizes

TITLE_TOKENS = {"tiny": 9.0, "": 20.0}  # a title of 12 words through the backbone's tokenizer; tiny's is made for its titles
TITLE_WORDS = 12
RICH_WORDS = 40  # of a text of several fields without a limit of its own
HISTORY = 4.2  # items of history a sample, the mean of the released data
UTILISATION = (0.10, 0.40)  # share of a GPU's peak that training of short texts reaches
LAYER_MS = 2.5  # least time a layer, forward and backward, however few the tokens
STEP_MS = 5.0  # least time of a recommender's training step on a GPU
CORE_GFLOPS = 40.0  # what a CPU core does in the language model's matrices, float32
THREAD_GFLOPS = 35.0  # what a thread does in a recommender's small matrices; 27 to 40 with the sizes of `games`


@dataclass(frozen=True)
class Work:
    """What an artefact takes: operations, passes through the model, the least time of one (ms), and where it computes."""

    flops: float = 0.0
    passes: int = 0
    pass_ms: float = 0.0
    gflops: float = CORE_GFLOPS  # of a CPU core
    on_gpu: bool = True


def estimate_work(artefact: Artefact, sizes: Sizes) -> Work | None:
    """Estimate the work of one artefact; None where the shape of its model is not known."""
    shape = assets.find_shape(artefact.model)
    if shape is None:
        return None
    match artefact.settings:
        case S.CSFT() | S.MNTP() | S.Contrastive():
            return _training(artefact.settings, shape, count_tokens(artefact, sizes), sizes)
        case S.Encoding():
            read = sizes.items * count_tokens(artefact, sizes)
            return Work(read * 2 * shape.body, _parts(read, artefact.settings.batch_tokens), shape.layers * LAYER_MS)
        case S.Evaluation():
            (name,) = artefact.domains
            domain = next(d for d in sizes.domains if d.name == name)
            return _recommender(artefact.settings, domain, shape.hidden if len(artefact.inputs) > 1 else 0)
    return Work()  # the corpus and the backbone as it comes


def count_tokens(artefact: Artefact, sizes: Sizes) -> float:
    """Count the tokens of an item's text, as the artefact's model reads it."""
    title = TITLE_TOKENS.get(artefact.model.name, TITLE_TOKENS[""])
    words: tuple[float, float] = TITLE_WORDS, TITLE_WORDS
    if artefact.text != "title":
        words = (TITLE_WORDS, RICH_WORDS)
    elif artefact.data.text != S.Data().text:
        limit = artefact.data.text_words
        words = sizes.words(artefact.data.text, limit) or (TITLE_WORDS, limit or RICH_WORDS)
    return title * words[1] / words[0]


def count_validated(settings: S.CSFT | S.MNTP, sizes: Sizes) -> int:
    """Count what the validations of a training read in all: CSFT's samples, MNTP's titles held out of those it trains on."""
    every = settings.evaluate_every or max(1, settings.steps // 10)
    if isinstance(settings, S.CSFT):
        return settings.steps // every * settings.evaluate_samples
    titles = sum(d.items for d in sizes.domains if d.name in sizes.train_domains)
    return settings.steps // every * round(settings.held_out * titles)


def estimate_hours(work: Work, accelerator: str) -> tuple[float, float]:
    """Estimate the fewest and the most hours on an accelerator of assets.yaml; the least time of a pass counts in both."""
    peak = assets.read_assets()["accelerators"][accelerator]["tflops"] * 1e12
    launch = work.passes * work.pass_ms / 1e3
    low, high = (work.flops / (peak * share) for share in reversed(UTILISATION))
    return max(low, launch) / 3600, (high + launch) / 3600


def estimate_cpu_hours(work: Work, cores: int) -> float:
    """Estimate the hours on this many CPU cores."""
    return work.flops / (work.gflops * 1e9 * cores) / 3600


def _training(settings: S.CSFT | S.MNTP | S.Contrastive, shape: assets.Shape, title: float, sizes: Sizes) -> Work:
    """6 operations a parameter and token in training, 2 in reading; of the head, at the tokens that are predicted."""
    match settings:
        case S.CSFT():
            sample = (HISTORY + 1) * title
            each, read = sample * shape.body + title * shape.head, sample
        case S.MNTP():
            each, read = title * (shape.body + settings.rate * shape.head), title
        case _:
            each, read = 2 * title * shape.body, 2 * title
    more = 0.0 if isinstance(settings, S.Contrastive) else count_validated(settings, sizes) * 2 * each
    passes = settings.steps * _parts(settings.batch_size * read, settings.batch_tokens)
    return Work(settings.steps * settings.batch_size * 6 * each + more, passes, shape.layers * LAYER_MS)


def _recommender(e: S.Evaluation, d: Domain, dim: int) -> Work:
    """One training to its last epoch (early stopping only makes it shorter) over embeddings of width `dim`; 0: ids alone."""
    layer = e.layers * (4 * e.hidden**2 + 2 * e.hidden * e.inner)
    train, valid = (count * e.user_share for count in (d.train, d.valid))
    steps = math.ceil(train / e.batch_size)
    scored, rows = _count_classes(e, d)
    epoch = 6 * train * (e.hidden * scored + layer) + 6 * steps * rows * dim * e.hidden
    validation = 2 * valid * (e.hidden * d.items + HISTORY * layer) + 2 * d.items * dim * e.hidden
    flops = e.epochs * (epoch + validation / e.evaluate_every)
    return Work(flops, e.epochs * steps, STEP_MS, THREAD_GFLOPS, on_gpu=e.device != "cpu")


def _count_classes(e: S.Evaluation, d: Domain) -> tuple[int, int]:
    """Count the items that a sample is scored against in training, and the rows of the table that a step makes."""
    match e.loss:
        case "sampled_softmax":
            return e.sampled_items + 1, e.sampled_items + min(d.items, round(e.batch_size * (HISTORY + 1)))
        case "bce" | "gbce":
            return e.negatives + 1, d.items
    return d.items, d.items


def _parts(count: float, batch_tokens: int) -> int:
    """Passes that so many tokens need; 0 as a limit means that the machine decides."""
    return math.ceil(count / (batch_tokens or 8192))
