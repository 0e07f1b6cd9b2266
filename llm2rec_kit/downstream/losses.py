"""The losses: cross-entropy over the whole catalogue (the paper's), and two that sample negatives.

`bce` is SASRec's original: one positive against sampled negatives, each a coin of its own. It makes a model overconfident
the more the fewer negatives it sees; `gbce` (gSASRec, Petrov and Macdonald, RecSys 2023, arXiv 2308.07192) corrects for that
by raising the positive's probability to a power beta that the sampling rate and the calibration t decide.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from llm2rec_kit import settings as S
from llm2rec_kit.downstream import fast_ops


def compute_loss(
    settings: S.Evaluation,
    states: torch.Tensor,
    classes: torch.Tensor,
    labels: torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    low_precision: bool = False,
) -> torch.Tensor:
    """Compute the mean loss of states (S, d) with labels int64 (S,) among the rows of `classes` (N + 1, d)
    by `settings.loss`.

    Negatives are drawn with `generator`.
    """
    if settings.loss == "softmax":
        return fast_ops.softmax_loss(
            states, classes, labels, padding_class=settings.padding_class, low_precision=low_precision
        )
    n_items = len(classes) - 1
    others = draw_negatives(labels, n_items, settings.negatives, generator)
    power = compute_beta(settings.negatives, n_items, settings.calibration) if settings.loss == "gbce" else 1.0
    return compute_sampled_loss(states, classes, labels, others, power)


def compute_beta(negatives: int, n_items: int, calibration: float) -> float:
    """Compute gBCE's power:
    alpha (t (1 - 1/alpha) + 1/alpha), where alpha = negatives / (N - 1) is the share of sampled items.

    t = 0 is plain BCE, t = 1 gives probabilities that are fully calibrated (arXiv 2308.07192).

    >>> compute_beta(256, 1025, 0.0), compute_beta(256, 1025, 1.0)
    (1.0, 0.25)
    """
    alpha = negatives / max(1, n_items - 1)
    return alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)


def draw_negatives(labels: torch.Tensor, n_items: int, count: int, generator: torch.Generator | None) -> torch.Tensor:
    """Draw `count` items for each label, uniform over the items that are not it: int64 (S, count)."""
    drawn = torch.randint(1, max(2, n_items), (len(labels), count), generator=generator).to(labels.device)
    return drawn + (drawn >= labels[:, None])


def compute_sampled_loss(
    states: torch.Tensor, classes: torch.Tensor, labels: torch.Tensor, others: torch.Tensor, power: float
) -> torch.Tensor:
    """Compute the mean over samples of -(power log s(positive) + sum log(1 - s(negative))) / (negatives + 1),
    with s the logistic function."""
    items = torch.cat([labels[:, None], others], 1)
    scores = torch.bmm(F.embedding(items, classes), states[:, :, None])[:, :, 0]
    terms = torch.cat([power * F.logsigmoid(scores[:, :1]), F.logsigmoid(-scores[:, 1:])], 1)
    return -terms.mean()
