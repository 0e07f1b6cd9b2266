"""Which row of a step has the loss, or gradient, that is not finite; for an error message."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from llm2rec_kit.fitting import distributed
from llm2rec_kit.fitting.distributed import MicroBatch
from llm2rec_kit.models import backbone

Loss = Callable[[PreTrainedModel, MicroBatch], tuple[torch.Tensor, int]]


def find_first_row(
    what: str,
    micro_batches: Sequence[MicroBatch],
    model: PreTrainedModel,
    sum_loss: Loss,
    prepare: Callable[[MicroBatch], MicroBatch],
) -> str:
    """Find the first row of a step's micro-batches whose own `what` (loss or gradient) is not finite; return where it is, in
    words, and its text. `prepare` moves a row to the model's device."""
    for k, micro in enumerate(micro_batches, 1):
        rows = _rows(micro)
        for n, row in enumerate(rows, 1):
            if not _is_finite(what, prepare(row), model, sum_loss):
                text = _text(model, row["input_ids"][0].tolist())
                return f"micro-batch {k} of {len(micro_batches)}, row {n} of {len(rows)}: {text}"
    return "no row of it alone shows it, only all together"


def _is_finite(what: str, row: MicroBatch, model: PreTrainedModel, sum_loss: Loss) -> bool:
    """Whether loss or gradient of one row is; of a title's view, its states."""
    if "labels" not in row:
        with torch.no_grad():
            found = [backbone.find_body(model)(**row, use_cache=False).last_hidden_state]
    else:
        loss = sum_loss(model, row)[0]
        found = [loss.detach()]
        if what == "gradient":
            parameters = [p for p in model.parameters() if p.requires_grad]
            found = [g for g in torch.autograd.grad(loss, parameters, allow_unused=True) if g is not None]
    return all(f.isfinite().all() for f in found)


def _rows(micro: MicroBatch) -> list[MicroBatch]:
    """The rows of a micro-batch, each by itself; of a contrastive one its views."""
    if "chunks" in micro:
        return [{k: v[r : r + 1] for k, v in c.items()} for c in micro["chunks"] for r in range(len(c["input_ids"]))]
    return [distributed.take(micro, torch.tensor([r])) for r in range(len(micro["input_ids"]))]


def _text(model: PreTrainedModel, ids: list[int]) -> str:
    """Token ids as text, where the tokenizer is found beside the model's weights; for an error message."""
    from transformers import AutoTokenizer

    with contextlib.suppress(OSError, ValueError):
        return repr(AutoTokenizer.from_pretrained(model.name_or_path or "?").decode(ids, skip_special_tokens=True))
    return f"tokens {ids}"
