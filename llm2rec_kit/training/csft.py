"""CSFT, collaborative supervised fine-tuning: from the titles of a history predict the next title (paper sec. 3.2, eq. 2).

Text of a sample: history titles joined by ", ", directly followed by the target, a newline and end-of-text; the loss is the
cross-entropy of the target's tokens under the causal mask (official code). Titles are tokenised once each, apart.

**Shared prefixes.** The samples of a user that begin at the same history item differ only in where the history stops. One
row holds that history once, and each target as a branch that sees exactly its own prefix (4-D mask) at the positions it
would have alone. Same loss and gradient as one row a sample, for a fraction of the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm2rec_kit import backbone
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.encoder import length_batches
from llm2rec_kit.training.trainer import fit

IGNORED = -1  # branch number of padding


@dataclass(frozen=True)
class Ragged:
    """Token ids of many pieces of text in one flat array: piece i is flat[offsets[i]:offsets[i + 1]]."""

    flat: np.ndarray
    offsets: np.ndarray

    def __getitem__(self, i: int) -> np.ndarray:
        return self.flat[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each piece (int64)."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Texts:
    """Every title as the three pieces a sample is made of; index 0 (padding) is empty.

    first   the title, where it opens a history.
    later   the joiner and the title, where it goes on.
    target  the title, the ending and end-of-text: what is predicted.
    """

    first: Ragged
    later: Ragged
    target: Ragged


@dataclass(frozen=True)
class Rows:
    """What the model reads: row r is the history sequence[starts[r] : targets[stops[r]-1]] and, as branches, the
    samples targets[begins[r]:stops[r]]. `tokens` is each row's length; `skip` how many of its oldest tokens are cut."""

    starts: np.ndarray
    begins: np.ndarray
    stops: np.ndarray
    targets: np.ndarray
    tokens: np.ndarray
    skip: np.ndarray

    @property
    def samples(self) -> np.ndarray:
        """Samples in each row."""
        return self.stops - self.begins


def tokenise(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, settings: S.CSFT) -> Texts:
    """The pieces of every title of the corpus, each distinct text tokenised once."""

    def pieces(texts: list[str], end: list[int]) -> Ragged:
        ids = [[], *(i + end for i in tokenizer(texts, add_special_tokens=False)["input_ids"])]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter((t for i in ids for t in i), np.int32, lengths.sum())
        return Ragged(flat, np.concatenate([[0], np.cumsum(lengths)]))

    titles = corpus.titles
    return Texts(
        first=pieces(titles, []),
        later=pieces([settings.joiner + t for t in titles], []),
        target=pieces([t + settings.ending for t in titles], [tokenizer.eos_token_id]),
    )


def rows(corpus: Corpus, texts: Texts, targets: np.ndarray, settings: S.CSFT) -> Rows:
    """Group samples (indices into `corpus.sequence`) into rows that share a prefix; alone where sharing is off.

    A sample longer than `max_tokens` stands alone and loses its oldest tokens, as in the official code; at least one
    token of history is kept.
    """
    targets = np.sort(targets)
    starts = corpus.starts(targets)
    seen = np.concatenate([[0], np.cumsum(texts.later.lengths[corpus.sequence])])
    opening = corpus.sequence[starts]
    prefix = seen[targets] - seen[starts] + texts.first.lengths[opening] - texts.later.lengths[opening]
    length = texts.target.lengths[corpus.sequence[targets]]
    skip = np.clip(prefix + length - settings.max_tokens, 0, prefix - 1)
    new_start = np.diff(starts, prepend=-1) != 0
    cut = (skip > 0) | np.concatenate([[False], skip[:-1] > 0])[: len(skip)]
    begins = np.flatnonzero(new_start | cut | (not settings.shared_prefix))
    stops = np.append(begins[1:], len(targets)).astype(np.int64)[: len(begins)]
    answers = np.concatenate([[0], np.cumsum(length)])
    tokens = prefix[stops - 1] - skip[begins] + answers[stops] - answers[begins]
    return Rows(starts[begins], begins, stops, targets, tokens, skip[begins])


class Batches:
    """Item k is optimiser step k: micro-batches of rows that together hold `batch_size` samples on average.

    Each epoch is a new permutation by seed; within a window of batches rows are sorted by length, so that a batch holds
    rows of like length and pads little.
    """

    window = 16  # batches in a window: enough for little padding, few enough that an epoch stays well mixed

    def __init__(self, corpus: Corpus, texts: Texts, rows: Rows, settings: S.CSFT, pad_id: int) -> None:
        """Raises ValueError where there is no sample to learn from."""
        if not len(rows.targets):
            raise ValueError(
                "There is no training sample: every user is too short or no domain is in-domain. "
                "See the statistics in notebooks/01_data_prep.ipynb."
            )
        self.corpus, self.texts, self.rows, self.settings, self.pad_id = corpus, texts, rows, settings, pad_id
        self.steps_per_epoch = max(1, round(len(rows.targets) / settings.batch_size))
        self._epoch, self._plan = -1, []

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, step: int) -> list[dict[str, torch.Tensor]]:
        epoch, k = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, self.plan(epoch)
        return micro_batches(self.corpus, self.texts, self.rows, self._plan[k], self.settings, self.pad_id)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The rows of each step of an epoch."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        order = rng.permutation(len(self.rows.starts))
        done = np.cumsum(self.rows.samples[order])
        batch = np.minimum((done - 1) * self.steps_per_epoch // done[-1], self.steps_per_epoch - 1)
        order = order[np.lexsort((self.rows.tokens[order], batch // self.window))]
        done = np.cumsum(self.rows.samples[order])
        cuts = np.searchsorted(done, np.arange(1, self.steps_per_epoch) * done[-1] / self.steps_per_epoch)
        steps = np.split(order, cuts)
        return [steps[i] for i in rng.permutation(len(steps))]


def micro_batches(
    corpus: Corpus, texts: Texts, rows: Rows, chosen: np.ndarray, settings: S.CSFT, pad_id: int
) -> list[dict[str, torch.Tensor]]:
    """The chosen rows as model inputs, cut so that none has more than `batch_tokens` padded tokens."""
    return [
        collate([row_tokens(corpus, texts, rows, r) for r in chosen[part]], pad_id)
        for part in length_batches(rows.tokens[chosen], settings.batch_tokens)
    ]


def row_tokens(corpus: Corpus, texts: Texts, rows: Rows, r: int) -> dict[str, np.ndarray]:
    """One row, flat: ids, position ids, `visible` (prefix tokens a token sees), `branch` (0 prefix, 1.. targets), and for
    each target token its label and `source`, the place in the row that predicts it."""
    start, samples, skip = rows.starts[r], rows.targets[rows.begins[r] : rows.stops[r]], rows.skip[r]
    history = corpus.sequence[start : samples[-1]]
    pieces = [texts.first[history[0]], *(texts.later[i] for i in history[1:])]
    ends = np.cumsum([len(p) for p in pieces]) - skip  # prefix tokens up to and with each history item
    prefix = np.concatenate(pieces)[skip:]
    branches = [texts.target[i] for i in corpus.sequence[samples]]
    lengths = np.array([len(b) for b in branches])
    own_prefix = ends[samples - start - 1]
    first = len(prefix) + np.cumsum(lengths) - lengths  # where each branch begins in the row
    within = np.arange(lengths.sum()) - np.repeat(first - len(prefix), lengths)
    seen = np.repeat(own_prefix, lengths)
    place = len(prefix) + np.arange(lengths.sum())
    return {
        "ids": np.concatenate([prefix, *branches]),
        "positions": np.concatenate([np.arange(len(prefix)), seen + within]),
        "visible": np.concatenate([np.arange(len(prefix)) + 1, seen]),
        "branch": np.concatenate([np.zeros(len(prefix), int), np.repeat(np.arange(len(branches)) + 1, lengths)]),
        "labels": np.concatenate(branches),
        "sources": np.where(within == 0, seen - 1, place - 1),
    }


def collate(rows: list[dict[str, np.ndarray]], pad_id: int) -> dict[str, torch.Tensor]:
    """Rows as tensors: input_ids, position_ids, visible, branch (B, L) and flat sources, labels (targets' tokens,)."""
    longest = max(len(row["ids"]) for row in rows)

    def stacked(name: str, fill: int) -> torch.Tensor:
        out = np.full((len(rows), longest), fill, dtype=np.int64)
        for line, row in zip(out, rows, strict=True):
            line[: len(row[name])] = row[name]
        return torch.from_numpy(out)

    sources = np.concatenate([row["sources"] + k * longest for k, row in enumerate(rows)])
    labels = np.concatenate([row["labels"] for row in rows]).astype(np.int64)
    return {
        "input_ids": stacked("ids", pad_id),
        "position_ids": stacked("positions", 0),
        "visible": stacked("visible", 0),
        "branch": stacked("branch", IGNORED),
        "sources": torch.from_numpy(sources),
        "labels": torch.from_numpy(labels),
        "count": torch.tensor(len(labels)),
    }


def attention_mask(visible: torch.Tensor, branch: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask (B, 1, L, L): a prefix token sees the prefix up to itself, a target token sees its own prefix and its
    own branch up to itself. Padding sees itself only, so that no row of the softmax is empty."""
    place = torch.arange(visible.shape[1], device=visible.device)
    in_prefix = (branch == 0)[:, None, :] & (place < visible[:, :, None])
    in_branch = (branch[:, :, None] == branch[:, None, :]) & (branch > 0)[:, :, None] & (place <= place[:, None])
    allowed = in_prefix | in_branch | (place == place[:, None])
    mask = torch.full(allowed.shape, torch.finfo(dtype).min, dtype=dtype, device=visible.device)
    return mask.masked_fill_(allowed, 0)[:, None]


def loss(model: PreTrainedModel, micro: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """(summed cross-entropy of the target tokens, their number); vocabulary logits only where there is a label."""
    states = backbone.body(model)(
        input_ids=micro["input_ids"],
        position_ids=micro["position_ids"],
        use_cache=False,
        attention_mask=backbone.layer_masks(
            model, attention_mask(micro["visible"], micro["branch"], model.dtype), micro["position_ids"]
        ),
    ).last_hidden_state
    logits = backbone.logits(model, states.flatten(0, 1)[micro["sources"]])
    return F.cross_entropy(
        logits.float() if logits.dtype != torch.float64 else logits, micro["labels"], reduction="sum"
    ), len(micro["labels"])


@torch.no_grad()
def validation(
    model: PreTrainedModel, corpus: Corpus, texts: Texts, rows: Rows, settings: S.CSFT, pad_id: int
) -> dict[str, float]:
    """Mean loss per target token over all `rows`, with dropout off."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for micro in micro_batches(corpus, texts, rows, np.arange(len(rows.starts)), settings, pad_id):
        value, n = loss(model, {k: v.to(model.device) for k, v in micro.items()})
        total, count = total + value.item(), count + n
    model.train(was_training)
    return {"loss": total / max(1, count)}


def savings(corpus: Corpus, texts: Texts, settings: S.CSFT) -> dict[str, float]:
    """Tokens that the training samples cost one row each, with shared prefixes, and the ratio."""
    targets = corpus.samples("train")
    plain = rows(corpus, texts, targets, replace(settings, shared_prefix=False)).tokens.sum()
    shared = rows(corpus, texts, targets, replace(settings, shared_prefix=True)).tokens.sum()
    return {"plain_tokens": int(plain), "shared_tokens": int(shared), "ratio": float(plain / shared)}


def train(
    corpus: Corpus, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: S.CSFT, folder: Path
) -> list[dict[str, float]]:
    """Fine-tune `model` in place on the training samples of the corpus's training domains; returns the history.

    Validation is on `evaluate_samples` validation samples of the same domains. Checkpoints go to `folder` (see `fit`).
    """
    part, _ = corpus.select(corpus.train_domains)
    texts = tokenise(part, tokenizer, settings)
    learned = rows(part, texts, part.samples("train"), settings)
    valid = part.samples("valid")
    held = np.random.default_rng(settings.seed).permutation(valid)[: settings.evaluate_samples]
    checked = rows(part, texts, held, settings)
    pad_id = tokenizer.pad_token_id
    batches = Batches(part, texts, learned, settings, pad_id)
    print(
        f"  csft: {len(learned.targets)} samples in {len(learned.starts)} rows, {batches.steps_per_epoch} steps an epoch, "
        f"{settings.steps / batches.steps_per_epoch:.2f} epochs",
        flush=True,
    )
    return fit(
        "csft",
        backbone.causal(model),
        batches,
        loss,
        settings,
        folder,
        validate=lambda m: validation(m, part, texts, checked, settings, pad_id) if len(held) else {},
        evaluate_every=settings.evaluate_every,
    )
