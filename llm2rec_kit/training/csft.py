"""CSFT, collaborative supervised fine-tuning: from the titles of a history predict the next title (paper sec. 3.2, eq. 2).

The loss is the cross-entropy of the target's tokens under the causal mask, a mean over the target tokens of a step
(official code); samples says what the text is.

**Shared prefixes.** The samples of a user that begin at the same history item differ only in where the history stops. One
row holds that history once, and each target as a branch that sees exactly its own prefix (4-D mask) at the positions it
would have alone. Same loss and gradient as one row a sample, for a fraction of the tokens.

Two things are computed only where they count, at the tokens that predict a label: the vocabulary's logits, and the last
layer's feed-forward block, whose output no other token passes on.
"""

from __future__ import annotations

import contextlib
import math
import reprlib
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.encoding.tokenisation import cut_by_length
from llm2rec_kit.fitting import cross_entropy, distributed
from llm2rec_kit.fitting.ragged import Ragged, compute_offsets, index_spans
from llm2rec_kit.fitting.trainer import fit
from llm2rec_kit.models import backbone
from llm2rec_kit.training import prefix_attention
from llm2rec_kit.training.prefix_attention import MicroBatch
from llm2rec_kit.training.samples import Samples, prepare

PADDING = -1  # branch number of padding


class Batches:
    """Item k is optimiser step k: micro-batches of rows that together hold `batch_size` samples on average.

    Each epoch is a new permutation by seed. Within a window of batches rows are sorted by length and cut where the samples
    are `batch_size` more, so a step's rows are of like length and pad little; the steps are then shuffled. Steps hold equal
    numbers of samples and not of tokens, because a step's loss is a mean: with equal tokens, a sample of a long row would
    count for more than one of a short row. The token budget `batch_tokens` cuts a step into micro-batches.
    """

    window = 64  # batches in a window: 2% padding on the games data, where 16 give 7%

    def __init__(self, samples: Samples, settings: S.CSFT, pad_id: int) -> None:
        """Raises ValueError where there is no sample to learn from."""
        if not len(samples):
            raise ValueError(
                "There is no training sample: every user is too short or no domain is in-domain. "
                "See the statistics in notebooks/01_data_prep.ipynb."
            )
        self.samples, self.settings, self.pad_id = samples, settings, pad_id
        self.steps_per_epoch = max(1, min(round(len(samples) / settings.batch_size), len(samples.counts)))
        self._epoch = -1
        self._plan: list[np.ndarray] = []

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, step: int) -> list[MicroBatch]:
        epoch, k = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, self.plan(epoch)
        return list(cut_micro_batches(self.samples, self._plan[k], self.settings, self.pad_id))

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Draw the rows of each step of an epoch."""
        counts, lengths, steps = self.samples.counts, self.samples.lengths, self.steps_per_epoch
        rng = np.random.default_rng([self.settings.seed, epoch])
        order = rng.permutation(len(counts))
        done = np.cumsum(counts[order])
        batch = np.minimum((done - 1) * steps // done[-1], steps - 1)
        order = order[np.lexsort((lengths[order], batch // self.window))]
        done = np.cumsum(counts[order])
        k = np.arange(1, steps)
        cuts = np.searchsorted(done, k * done[-1] / steps)
        # A row may hold more samples than a step asks for: every step gets one row at least, so none is empty.
        cuts = np.minimum(np.maximum.accumulate(np.maximum(cuts - k, 0)) + k, len(order) - steps + k)
        found = np.split(order, cuts)
        return [found[i] for i in rng.permutation(steps)]

    def facts(self) -> dict[str, float]:
        """Measure what the first epoch's steps (at most 2,000) hold: samples and tokens a step, share of padding."""
        plan, lengths = self.plan(0)[:2000], self.samples.lengths
        held = np.array([self.samples.counts[rows].sum() for rows in plan])
        parts = [lengths[rows[part]] for rows in plan for part in cut_by_length(lengths[rows], self.settings.batch_tokens)]
        padded = sum(int(part.max()) * len(part) for part in parts)
        real = sum(int(part.sum()) for part in parts)
        return {
            "samples_a_step": float(held.mean()),
            "samples_a_step_std": float(held.std()),
            "tokens_a_step": real / len(plan),
            "micro_batches_a_step": len(parts) / len(plan),
            "padding": 1 - real / padded,
        }


def cut_micro_batches(samples: Samples, rows: np.ndarray, settings: S.CSFT, pad_id: int) -> Iterator[MicroBatch]:
    """Cut the rows into micro-batches, as model inputs, none of more than `batch_tokens` padded tokens."""
    parts = cut_by_length(samples.lengths[rows], settings.batch_tokens)
    return (collate(samples, rows[part], pad_id) for part in parts)


def collate(samples: Samples, rows: np.ndarray, pad_id: int) -> MicroBatch:
    """Build the tensors of `rows`, all int64.

    input_ids, position_ids, visible, branch  (B, L); see prefix_attention for the last two.
    labels   flat: the tokens of the answers.
    sources  flat, as many: row x L + place of the token that predicts each label.
    count    their number.
    """
    size, history = len(rows), samples.history.take(rows)
    counts = samples.counts[rows]
    chosen = index_spans(samples.first[rows], counts)
    of = np.repeat(np.arange(size), counts)  # the row of each sample
    seen, tails = samples.seen[chosen].astype(np.int64), samples.tails.take(chosen)
    answers = samples.answers.take(samples.item[chosen])
    branches = tails.lengths + answers.lengths
    before, ends = compute_offsets(branches), compute_offsets(counts)
    start = history.lengths[of] + before[:-1] - before[ends[:-1]][of]  # where in its row a branch begins
    length = int((history.lengths + before[ends[1:]] - before[ends[:-1]]).max())
    at_history = index_spans(np.arange(size) * length, history.lengths)
    at_branch = index_spans(of * length + start, branches)
    at_answer = index_spans(of * length + start + tails.lengths, answers.lengths)

    def table(fill: int, *parts: tuple[np.ndarray, np.ndarray]) -> torch.Tensor:
        out = np.full(size * length, fill, dtype=np.int64)
        for at, values in parts:
            out[at] = values
        return torch.from_numpy(out.reshape(size, length))

    place = index_spans(np.zeros_like(rows), history.lengths)
    number = np.arange(len(chosen)) - ends[:-1][of] + 1
    sources = at_answer - 1
    straight = tails.lengths == 0  # the first token of such an answer is predicted from the history that it follows
    sources[answers.offsets[:-1][straight]] = (of * length + seen - 1)[straight]
    at_tail = index_spans(of * length + start, tails.lengths)
    return {
        "input_ids": table(pad_id, (at_history, history.flat), (at_tail, tails.flat), (at_answer, answers.flat)),
        "position_ids": table(0, (at_history, place), (at_branch, index_spans(seen, branches))),
        "visible": table(0, (at_history, place + 1), (at_branch, np.repeat(seen, branches))),
        "branch": table(PADDING, (at_history, np.zeros_like(place)), (at_branch, np.repeat(number, branches))),
        "sources": torch.from_numpy(sources),
        "labels": torch.from_numpy(answers.flat.astype(np.int64)),
        "count": torch.tensor(len(answers.flat)),
    }


def make_row_mask(samples: Samples, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Tell which token of a row sees which: (bool (L, L), the branch of each token (L,):
    0 in the history, then 1, 2, ...)."""
    micro = collate(samples, np.array([row]), pad_id=0)  # one row alone has no padding
    return prefix_attention.make_allowed(micro["visible"], micro["branch"])[0].numpy(), micro["branch"][0].numpy()


def compare_work(model: PreTrainedModel, samples: Samples) -> pl.DataFrame:
    """Compare what an epoch over `samples` costs in three ways to write them down, the last the one that is taken here.

    way, tokens read, logits for (tokens whose logits are computed), tokens a sample, work: multiply-adds with the weights,
    relative to the last way's. A token that is read passes the body, one with logits the head; attention is not counted.
    """
    ends = (model.get_output_embeddings(), model.get_input_embeddings())
    head, words = (cast(torch.Tensor, layer.weight).numel() for layer in ends)
    body = backbone.count_parameters(backbone.find_body(model)) - words
    plain, shared, labels = (samples.facts[f"{name}_tokens"] for name in ("plain", "shared", "label"))
    ways = {
        "one row a sample, logits everywhere": (plain, plain),
        "one row a sample": (plain, labels),
        "shared prefixes": (shared, labels),
    }
    work = {way: read * body + scored * head for way, (read, scored) in ways.items()}
    return pl.DataFrame(
        {"way": way, "tokens read": read, "logits for": scored, "tokens a sample": read / len(samples)}
        | {"work": work[way] / work["shared prefixes"]}
        for way, (read, scored) in ways.items()
    )


def compute_loss(model: PreTrainedModel, micro: MicroBatch) -> tuple[torch.Tensor, int]:
    """Compute the summed cross-entropy of the target tokens, and their number."""
    with _last_feed_forward_at(model, micro["sources"]):
        states = prefix_attention.compute_states(model, micro)
    states = states.flatten(0, 1)[micro["sources"]]
    return cross_entropy.sum_cross_entropy(model, states, micro["labels"]), len(micro["labels"])


@contextlib.contextmanager
def _last_feed_forward_at(model: PreTrainedModel, places: torch.Tensor) -> Iterator[None]:
    """Compute the last layer's feed-forward block at `places` (flat, each once) alone; zero elsewhere, where nobody looks.

    Only where that block is the usual gated one; not under gradient checkpointing, which calls it again after we left.
    """
    layers = getattr(backbone.find_body(model), "layers", [None])
    block: Any = getattr(layers[-1], "mlp", None)
    again = getattr(layers[-1], "gradient_checkpointing", False) and model.training
    if again or not isinstance(getattr(block, "down_proj", None), nn.Module):
        yield
        return
    shapes = []

    def pick(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        shapes.append(inputs[0].shape)
        return (inputs[0].flatten(0, 1)[places],)

    def put_back(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        shape = shapes.pop()
        return output.new_zeros(shape[0] * shape[1], shape[2]).index_copy(0, places, output).view(shape)

    hooks = [block.register_forward_pre_hook(pick), block.register_forward_hook(put_back)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def validate(model: PreTrainedModel, samples: Samples, settings: S.CSFT, pad_id: int) -> dict[str, float]:
    """Compute the mean loss per target token over all samples, with dropout off."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for micro in cut_micro_batches(samples, np.arange(len(samples.counts)), settings, pad_id):
        value, n = compute_loss(model, {k: v.to(model.device) for k, v in micro.items()})
        total, count = total + value.item(), count + n
    model.train(was_training)
    return {"loss": total / max(1, count)}


def check_model(model: PreTrainedModel) -> None:
    """Raise BackboneError where this model could not take the series: causal in CSFT and bidirectional later, a head whose
    logits are known, and samples that share a row, whose loss has to be that of each read alone by the model's own forward.
    It is causal afterwards, and else as before."""
    backbone.check_masks(model)
    backbone.check_head(model)
    cannot = f"The family {model.config.model_type} cannot be trained by CSFT, whose samples share a row under a mask of their own: "
    other = "Take another family; docs/backbones.md lists those that can."
    try:
        shared, alone = _compare_losses(model)
    except (backbone.BackboneError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what a family does over a mask that it does not expect is its own
        said = (str(error).strip().splitlines() or ["no more is said"])[0]
        raise backbone.BackboneError(
            f"{cannot}under that mask it fails ({type(error).__name__}: {said}). {other}"
        ) from error
    if not math.isclose(shared, alone, rel_tol=1e-3 if model.dtype in (torch.float32, torch.float64) else 2e-2):
        raise backbone.BackboneError(
            f"{cannot}their loss is {shared:.4g} under that mask, and {alone:.4g} where each is read by itself. {other}"
        )


def check_longest(model: PreTrainedModel, corpus: Corpus, samples: Samples, settings: S.CSFT) -> None:
    """Check the longest sample, which passes csft_max_tokens where a title to predict does by itself: raise BackboneError
    where the model has no positions for it, else say that there is one."""
    if not len(samples):
        return
    history, answer = samples.alone(samples.longest)
    tokens, (most, table) = len(history) + len(answer), backbone.count_positions(model)
    if tokens <= settings.max_tokens:
        return
    title = reprlib.repr(corpus.titles[samples.item[samples.longest] - 1])
    told = f"The title {title} has {len(answer)} tokens, and csft_max_tokens is {settings.max_tokens}: it cuts histories, no titles"
    if table and tokens > most:
        raise backbone.BackboneError(
            f"{told}, and this model ({model.config.model_type}) has embeddings for {most} positions only. Make item texts "
            "shorter (data_text), or take another backbone."
        )
    print(f"  csft: {told}; the longest sample has {tokens}.", flush=True)


@torch.no_grad()
def _compare_losses(model: PreTrainedModel) -> tuple[float, float]:
    """The summed loss of a few made-up samples: (in rows that they share, read one by one)."""
    made, was_training = _make_up_samples(backbone.token_rows(model)), model.training
    micro = {k: v.to(model.device) for k, v in collate(made, np.arange(len(made.counts)), pad_id=0).items()}
    model.eval()
    try:
        alone = sum(_compute_loss_alone(model, *made.alone(sample)) for sample in range(len(made)))
        with prefix_attention.use_kernel(model, "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"):
            return compute_loss(model, micro)[0].item(), alone
    finally:
        model.train(was_training)


def _make_up_samples(tokens: int) -> Samples:
    """Three samples in two rows of unlike length, the first two with one history, of which the first sees a part."""
    rng = np.random.default_rng(0)

    def draw(*lengths: int) -> Ragged:
        return Ragged.of([rng.integers(min(3, tokens - 1), tokens, n) for n in lengths])

    history, tails, answers = draw(9, 4), draw(1, 0, 0), draw(0, 3, 2, 2)
    seen, item = np.array([6, 9, 4], dtype=np.int32), np.array([1, 2, 3], dtype=np.int32)
    return Samples(history, np.array([0, 2, 3]), seen, tails, item, answers, np.arange(3), {})


def _compute_loss_alone(model: PreTrainedModel, history: np.ndarray, answer: np.ndarray) -> float:
    """The summed cross-entropy of one sample's answer, by the model's own forward over that sample alone."""
    ids = torch.from_numpy(np.concatenate([history, answer])).long().to(model.device)
    logits = model(input_ids=ids[None], use_cache=False).logits[0, len(history) - 1 : -1]
    return nn.functional.cross_entropy(logits.float(), ids[len(history) :], reduction="sum").item()


def train(
    corpus: Corpus,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: S.CSFT,
    folder: Path,
    *,
    prepared: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[dict[str, float]]:
    """Fine-tune `model` in place on the training samples of the corpus's training domains; return the history.

    Validation is on `evaluate_samples` validation samples of the same domains. Checkpoints go to `folder` (see `fit`),
    prepared samples to `prepared`, to be used again, or into `folder` until the end. The history begins with a row of
    step 0 that says what the steps hold (`Batches.facts`).
    """
    backbone.restore_causal_mask(model)
    backbone.check_length(model, settings.max_tokens, "csft_max_tokens")
    part, _ = corpus.select(corpus.train_domains)
    place = prepared or folder / "samples"
    learned = prepare(part, part.samples("train"), tokenizer, settings, place / "train")
    valid = part.samples("valid")
    held = np.random.default_rng(settings.seed).permutation(valid)[: settings.evaluate_samples]
    checked = prepare(part, held, tokenizer, settings, place / "valid")
    check = partial(validate, samples=checked, settings=settings, pad_id=tokenizer.pad_token_id) if len(held) else None
    for samples in (learned, checked):
        check_longest(model, part, samples, settings)
    batches = Batches(learned, settings, tokenizer.pad_token_id)
    facts = batches.facts()
    name, why = prefix_attention.choose_kernel(model, {k: v.to(model.device) for k, v in batches[0][0].items()})
    _tell(learned, batches, facts, f"attention {name}: {why}")
    with prefix_attention.use_kernel(model, name):
        history = fit("csft", model, batches, compute_loss, settings, folder, validate=check, callbacks=callbacks)
    if prepared is None and distributed.rank() == 0:
        shutil.rmtree(place, ignore_errors=True)
    return [{"step": 0, **facts}, *history]


def _tell(samples: Samples, batches: Batches, facts: dict[str, float], attention: str) -> None:
    epochs = batches.settings.steps / batches.steps_per_epoch
    print(
        f"  csft: {len(samples):,} samples in {len(samples.counts):,} rows, {batches.steps_per_epoch:,} steps an epoch, "
        f"{epochs:.2f} epochs\n  csft: a step holds {facts['samples_a_step']:.1f} samples "
        f"(std {facts['samples_a_step_std']:.1f}), {facts['tokens_a_step']:,.0f} tokens, {facts['padding']:.1%} padding; "
        f"{attention}",
        flush=True,
    )
    if "whole_prefix" in samples.facts:
        n, otherwise = len(samples), samples.facts["tokenised_otherwise"]
        print(
            f"  csft: {otherwise:,} of {n:,} histories are tokenised otherwise than title by title; "
            f"{samples.facts['whole_prefix']:,} samples share all of their history's tokens, the others all but its end",
            flush=True,
        )
