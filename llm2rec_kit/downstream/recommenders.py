"""SASRec and GRU4Rec with the official code's layers (paper sec. 4.1.3; facts of the code in the settings' help texts).

Their weights start as the code's do or scaled down (`settings.Evaluation.initialisation`): by that alone unit-length
embeddings gain or lose half their recall (docs/differences.md).

A recommender turns the item vectors of a history into a state; the score of an item is the state's dot product with the
item's row of the *same* table that the history was looked up in (`item_table`). Both models are causal and read right-padded
rows from position 0, so one row of a user's items gives the state after every prefix of it: evaluation and training read as
many samples off a row as it has.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from llm2rec_kit import settings as S
from llm2rec_kit.downstream import fast_ops
from llm2rec_kit.downstream.item_table import SCALED_STD, ItemTable, Linear
from llm2rec_kit.settings import own_parts


class Dropout(nn.Module):
    """nn.Dropout that draws 16 bits an element from numpy's SFC64 where `draw_from` gave it a source.

    torch draws a double an element on the CPU, which was a tenth of a training step. Kept with probability (1 - rate) to
    within 2**-16, and scaled by exactly what was kept.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.source: np.random.SFC64 | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop each element of x at random, and scale the others up, in training."""
        if not self.training or self.rate == 0:
            return x
        if self.source is None:
            return F.dropout(x, self.rate)
        dropped = round(self.rate * 2**16)
        bits = self.source.random_raw(-(-x.numel() // 4)).view(np.int16)[: x.numel()]
        kept = torch.from_numpy(bits >= dropped - 2**15).to(x.device, x.dtype).view(x.shape)
        return x * kept.mul_(2**16 / (2**16 - dropped))


def draw_from(model: nn.Module, source: np.random.SFC64 | None) -> None:
    """Let every Dropout of `model` draw from `source`; None for torch's own generator."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.source = source


class SASRec(nn.Module):
    """Self-attention over positions: learned positions, post-norm layers, GELU, no norm on input or output [C]."""

    def __init__(self, settings: S.Evaluation, max_history: int) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_history, settings.hidden)
        self.dropout = Dropout(settings.dropout)
        self.layers = nn.ModuleList(_Layer(settings) for _ in range(settings.layers))
        if settings.initialisation == "official":
            _start_alike(self.layers)
        else:
            self.apply(_scale_down)

    def forward(self, items: torch.Tensor, asked: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the state after each item (B, L, d) from item vectors (B, L, d), right-padded.

        With `asked` bool (B, L): only the states there, (asked.sum(), d) in row order; the last layer computes no other.
        """
        states: torch.Tensor = self.dropout(items + self.positions.weight[: items.shape[1]])
        for layer in self.layers[:-1]:
            states = layer(states)
        states = self.layers[-1](states, asked)
        return states


class _Layer(nn.Module):
    def __init__(self, settings: S.Evaluation) -> None:
        super().__init__()
        self.heads = settings.heads
        self.qkv = Linear(settings.hidden, 3 * settings.hidden)
        self.out = Linear(settings.hidden, settings.hidden)
        self.inner, self.outer = Linear(settings.hidden, settings.inner), Linear(settings.inner, settings.hidden)
        self.norm1, self.norm2 = (nn.LayerNorm(settings.hidden, eps=1e-12) for _ in range(2))
        self.dropout = Dropout(settings.dropout)

    def forward(self, states: torch.Tensor, asked: torch.Tensor | None = None) -> torch.Tensor:
        if asked is None:
            mixed = self._attend(*fast_ops.linear(states, self.qkv.weight, self.qkv.bias).chunk(3, -1))
            return self._rest(states, mixed)
        b, length, d = states.shape
        where = asked.flatten().nonzero()[:, 0]
        here = states.reshape(-1, d).index_select(0, where)
        weight, bias = self.qkv.weight, self.qkv.bias
        q = states.new_zeros(b * length, d).index_copy(0, where, fast_ops.linear(here, weight[:d], bias[:d]))
        k, v = fast_ops.linear(states, weight[d:], bias[d:]).chunk(2, -1)
        return self._rest(here, self._attend(q.view(b, length, d), k, v).reshape(-1, d).index_select(0, where))

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        b, length, d = q.shape
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        # Padding is on the right, so the causal mask alone keeps it out of every state that is ever read.
        if not self.training:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, length, d)
        later = torch.full((length, length), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
        weights = torch.softmax(q @ k.mT / math.sqrt(d // self.heads) + later, -1)
        mixed: torch.Tensor = self.dropout(weights) @ v
        return mixed.transpose(1, 2).reshape(b, length, d)

    def _rest(self, states: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        states = self.norm1(states + self.dropout(self.out(mixed)))
        states = self.norm2(states + self.dropout(self.outer(F.gelu(self.inner(states)))))
        return states


class GRU4Rec(nn.Module):
    """A GRU over positions, dropout on its input, no bias, no dense layer on its output [C]."""

    def __init__(self, settings: S.Evaluation, max_history: int) -> None:
        super().__init__()
        self.dropout = Dropout(settings.dropout)
        self.gru = nn.GRU(settings.hidden, settings.hidden, settings.layers, bias=False, batch_first=True)
        if settings.initialisation == "scaled":
            _start_orthogonal(self.gru)

    def forward(self, items: torch.Tensor, asked: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the state after each item (B, L, d) from item vectors (B, L, d), right-padded;
        or the states `asked` for, as in SASRec."""
        states: torch.Tensor = self.dropout(items)
        if states.device.type == "cpu":
            for k in range(self.gru.num_layers):
                states = fast_ops.gru(states, *(getattr(self.gru, f"weight_{side}_l{k}") for side in ("ih", "hh")))
        else:
            states = self.gru(states)[0]
        return states if asked is None else states[asked]


CLOSE = 1e-4  # of states, between two ways to the same history: float32 in another order of sums


class Own(nn.Module):
    """A recommender of one's own (`own_parts.recommender`), called as the kit's are.

    It sees what a sample may know and nothing else: vectors of the history, zeros behind it, and no row without a sample. A
    model that gives one state a history is asked for each sample by itself; one that gives a state after each item must be
    causal, as the kit's are.
    """

    def __init__(self, name: str, settings: S.Evaluation, max_history: int) -> None:
        """Raises SettingsError where the part fails, or gives no states of a usable shape (`_probe`)."""
        super().__init__()
        own = own_parts.find("recommender", name)
        self.model = own_parts.call(own, own.make, settings, max_history)
        if not isinstance(self.model, nn.Module):
            raise S.SettingsError(f"The {own} must be a torch.nn.Module; found {type(self.model).__name__}.")
        if not own_parts.accepts(self.model.forward, "", ""):
            raise S.SettingsError(
                f"The {own} must have forward(self, vectors, mask): item vectors (B, L, {settings.hidden}) and bool (B, L)."
            )
        self.a_history = _probe(own, self.model, settings.hidden, max_history)

    def forward(self, items: torch.Tensor, asked: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the state after each item (B, L, d) from item vectors (B, L, d), right-padded;
        or the states `asked` for, as in SASRec."""
        if asked is None:
            every = torch.ones(items.shape[:2], dtype=torch.bool, device=items.device)
            return self.forward(items, every).view(items.shape)
        rows, last = asked.nonzero(as_tuple=True)
        if not self.a_history:
            rows = asked.any(1).nonzero()[:, 0]  # a row of padding alone would be one softmax over nothing, and NaN
            last = (asked.shape[1] - 1 - asked.flip(1).int().argmax(1))[rows]
        mask = torch.arange(items.shape[1], device=items.device) <= last[:, None]
        states: torch.Tensor = self.model(items[rows] * mask[..., None], mask)
        return states if self.a_history else states[asked[rows]]


@torch.no_grad()
def _probe(own: own_parts.Part, model: nn.Module, d: int, max_history: int) -> bool:
    """Whether `model` gives one state a history (B, d), rather than one after each item (B, L, d). SettingsError where it
    fails or gives anything else, where a state knows of later items, or changes with the padding."""
    drawn, training = torch.Generator().manual_seed(0), model.training
    longest, short = max(2, max_history), max(1, max_history // 2)
    vectors = torch.randn(2, longest, d, generator=drawn)[:, :max_history]
    length = vectors.shape[1]
    mask = torch.arange(length) < torch.tensor([[length], [short]])
    model.eval()
    with torch.random.fork_rng():
        padded = _states(own, model, vectors * mask[..., None], mask)
        alone = _states(own, model, vectors[1:, :short], mask[1:, :short])
        whole = _states(own, model, vectors[1:], torch.ones_like(mask[1:]))
    model.train(training)
    a_history = padded.ndim == 2
    if not a_history and not torch.allclose(whole[0, :short], alone[0], atol=CLOSE):
        raise S.SettingsError(
            f"The {own} gives a state after each item, and the first {short} change with the items that follow: it would see "
            f"what it is to predict. Make it causal, or give one state a history, (B, {d})."
        )
    if not torch.allclose(padded[1] if a_history else padded[1, :short], alone[0], atol=CLOSE):
        raise S.SettingsError(
            f"The {own} gives a history another state where more padding stands behind it: let it heed `mask`, and take the last "
            "item's place from it."
        )
    return a_history


def _states(own: own_parts.Part, model: nn.Module, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What `model` gives; SettingsError where that is no float32 of one of the two shapes."""
    b, places, d = vectors.shape
    found = own_parts.call(own, model, vectors, mask)
    it = type(found).__name__
    if isinstance(found, torch.Tensor):
        if tuple(found.shape) in ((b, d), (b, places, d)) and found.dtype == torch.float32:
            return found
        it = f"{found.dtype} {tuple(found.shape)}"
    raise S.SettingsError(
        f"The {own} must give states, float32 (B, {d}), one a history, or (B, L, {d}), one after each item, d being "
        f"evaluation_hidden; of {b} histories of {places} places it gave {it}."
    )


MODELS = {"SASRec": SASRec, "GRU4Rec": GRU4Rec}


class Both(nn.ModuleList):
    """A recommender and the item table that it reads, in this order."""

    def __init__(self, model: nn.Module, table: ItemTable) -> None:
        super().__init__([model, table])

    @property
    def table(self) -> ItemTable:
        """The item table."""
        _, table = self
        assert isinstance(table, ItemTable)  # a ModuleList does not tell of what kind its modules are
        return table


def make(name: str, settings: S.Evaluation, max_history: int) -> nn.Module:
    """Build the recommender `name`, freshly initialised; raises ValueError for another name or heads that do not divide."""
    if name not in MODELS:
        return Own(name, settings, max_history)
    if name == "SASRec" and settings.hidden % settings.heads:
        raise ValueError(f"evaluation_hidden {settings.hidden} is not a multiple of evaluation_heads {settings.heads}.")
    return MODELS[name](settings, max_history)


def _start_alike(layers: nn.ModuleList) -> None:
    """Give every layer the weights of the first, as the official code's copies have them;
    the rest is torch's default there."""
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())


def _scale_down(module: nn.Module) -> None:
    """Weights of std 0.02 and zero biases. Torch's N(0, 1) for positions would drown item vectors of length one."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=SCALED_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def _start_orthogonal(gru: nn.GRU) -> None:
    """Xavier uniform on the input's side, orthogonal on the state's."""
    for name, weight in gru.named_parameters():
        if "weight_ih" in name:
            nn.init.xavier_uniform_(weight)
        else:
            nn.init.orthogonal_(weight)
