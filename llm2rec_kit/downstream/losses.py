"""The losses: cross-entropy over the whole catalogue (the paper's), its estimate from a sample, and two that sample negatives.

The sampled softmax puts a sum over M drawn items in the place of that over the catalogue, each divided by how often it was to be
drawn (Bengio and Senecal 2003 and 2008; "logQ correction" in recommendation: Yi and others, RecSys 2019). What divides is known
exactly here: half of the items are labels of training samples drawn alike, so by popularity, half are items drawn alike (a
mixture as in Yang and others, WWW 2020). The sample's own item is always there with weight one and not among the others, as Khrylchenko
and others derive (RecSys 2025, arXiv 2507.09331), so the sum is without bias; its logarithm has one of order 1 / M.

`bce` is SASRec's original: one positive against sampled negatives, each a coin of its own. It makes a model overconfident
the more the fewer negatives it sees; `gbce` (gSASRec, Petrov and Macdonald, RecSys 2023, arXiv 2308.07192) corrects for that
by raising the positive's probability to a power beta that the sampling rate and the calibration t decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from llm2rec_kit import settings as S
from llm2rec_kit.downstream import fast_ops


@dataclass(frozen=True)
class Sampler:
    """Draws items for a sampled softmax: `labels` int (T,) of all training samples, how often each item is to be drawn, float (N + 1,)."""

    labels: torch.Tensor
    expected: torch.Tensor
    count: int

    @classmethod
    def of(cls, labels: torch.Tensor, n_items: int, settings: S.Evaluation) -> Sampler | None:
        """Make the sampler of training samples with `labels` int (R, L), 0 for none, and `settings.sampled_items`; None for other losses."""
        if settings.loss != "sampled_softmax":
            return None
        given, count = labels[labels > 0], settings.sampled_items
        share = torch.bincount(given, minlength=n_items + 1).float() / len(given)
        return cls(given, count // 2 * share + (count - count // 2) / n_items, count)

    def draw(self, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw `count` items int64 (M,), some more than once, and minus the logarithm of how often each was to be drawn, float (M,)."""
        popular = torch.randint(len(self.labels), (self.count // 2,), generator=generator)
        alike = torch.randint(1, len(self.expected), (self.count - self.count // 2,), generator=generator)
        device = self.labels.device
        drawn = torch.cat([self.labels[popular.to(device)].long(), alike.to(device)])
        return drawn, -self.expected[drawn].log()


def compute_loss(
    settings: S.Evaluation,
    states: torch.Tensor,
    classes: torch.Tensor,
    labels: torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    low_precision: bool = False,
) -> torch.Tensor:
    """Compute the mean loss of states (S, d) with labels int64 (S,) among the rows of `classes` (N + 1, d) by
    `settings.loss`, negatives drawn with `generator`."""
    if settings.loss == "softmax":
        return fast_ops.softmax_loss(
            states, classes, labels, padding_class=settings.padding_class, low_precision=low_precision
        )
    n_items = len(classes) - 1
    others = draw_negatives(labels, n_items, settings.negatives, generator)
    power = compute_beta(settings.negatives, n_items, settings.calibration) if settings.loss == "gbce" else 1.0
    return compute_sampled_loss(states, classes, labels, others, power)


def sampled_softmax(
    states: torch.Tensor,
    own: torch.Tensor,
    classes: torch.Tensor,
    weights: torch.Tensor,
    hits: torch.Tensor,
    *,
    low_precision: bool = False,
) -> torch.Tensor:
    """Compute the mean cross-entropy of states (S, d) with the rows `own` (S, d) of their labels, against drawn rows `classes` (M, d).

    `weights` (M,) are the logarithms of what each drawn row stands for; one that is the label itself, `hits` bool (S, M), does not count.
    """
    if low_precision:
        scores = fast_ops.linear(states.bfloat16(), classes.bfloat16()).float() + weights
    else:
        scores = fast_ops.linear(states, classes, weights.to(states.dtype))
    with torch.no_grad():  # a share that is zero has no gradient anyway: two passes over the scores saved
        scores.masked_fill_(hits, torch.finfo(scores.dtype).min)
    of_label = (states * own).sum(1)
    return (torch.logaddexp(of_label, scores.logsumexp(1)) - of_label).mean()


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
