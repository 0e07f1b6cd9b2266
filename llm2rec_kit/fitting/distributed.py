"""Several processes, one training (torchrun, accelerate launch): which rows are whose, and what they tell each other.

Every process draws the same step and takes every `world_size`-th row of each of its micro-batches, so each sample is seen
once. A loss is a sum over rows, divided by the count over the whole step and not over the process's share, so DDP's mean
of the gradients, times the number of processes, is the gradient that one process with all rows would have.

Contrast has no sum over rows: each title is every other's negative. There the rows are shared out for the model's work
alone; the embeddings are gathered, every process computes the loss of the whole step, and each carries the gradient
back through its own rows. The sum over the processes is the whole gradient, exactly.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

import torch
import torch.distributed as dist

MicroBatch = dict[str, Any]
Step = list[MicroBatch]  # what an optimiser step reads


class Batches(Protocol):
    """What a training reads: item k is optimiser step k."""

    steps_per_epoch: int

    def __len__(self) -> int: ...

    def __getitem__(self, step: int, /) -> Step: ...


def join(device: torch.device) -> None:
    """Meet the processes that torchrun or accelerate launch started, each on a device of its own; alone, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu")


def leave() -> None:
    """Part from the others, at the very end."""
    if world_size() > 1:
        dist.destroy_process_group()


def is_sharded() -> bool:
    """Tell whether the model's weights are in pieces, one a process (FSDP, by accelerate's config)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def world_size() -> int:
    """Count the processes that train together; 1 outside torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number among those that train together, from 0. Process 0 alone writes files and prints."""
    return dist.get_rank() if world_size() > 1 else 0


def print_once(line: str) -> None:
    """Print a line on process 0 alone."""
    if rank() == 0:
        print(line, flush=True)


def share(micro: MicroBatch) -> MicroBatch:
    """Take this process's rows of a micro-batch, one at least, because all have to call the model equally often: where there
    are fewer rows than processes, some get one without labels. `count` stays that of the whole."""
    if world_size() == 1:
        return micro
    if "chunks" in micro:
        return _share_chunks(micro)
    rows = torch.arange(len(micro["input_ids"]))[rank() :: world_size()]
    return take(micro, rows) if len(rows) else take(micro, torch.tensor([0]), labels=False)


def take(micro: MicroBatch, rows: torch.Tensor, *, labels: bool = True) -> MicroBatch:
    """Take some rows of a micro-batch of (B, ...) tensors with flat `labels` and the `sources` (row x length + place) that
    predict them. Raises ValueError for a tensor of another form."""
    size, length = micro["input_ids"].shape
    place = torch.full((size,), -1)
    place[rows] = torch.arange(len(rows))
    of = micro["sources"] // length
    kept = (place[of] >= 0) if labels else torch.zeros(len(of), dtype=torch.bool)
    out = {
        "sources": (place[of] * length + micro["sources"] % length)[kept],
        "labels": micro["labels"][kept],
        "count": micro["count"],
    }
    for name in micro.keys() - out.keys():
        if len(micro[name]) != size:
            raise ValueError(
                f"{name!r} of a micro-batch has {len(micro[name])} rows, input_ids {size}: it cannot be shared out."
            )
        out[name] = micro[name][rows]
    return out


def _share_chunks(micro: MicroBatch) -> MicroBatch:
    """As `share`, for contrast: every chunk's rows are shared out, and `place` then counts in the gathered order."""
    sizes = [len(chunk["input_ids"]) for chunk in micro["chunks"]]
    each = [-(-size // world_size()) for size in sizes]  # equal on all processes, for the gathering; short ones repeat a row
    own = [torch.arange(n) * world_size() + rank() for n in each]
    chunks = [
        {name: tensor[torch.where(rows < size, rows, 0)] for name, tensor in chunk.items()}
        for chunk, rows, size in zip(micro["chunks"], own, sizes, strict=True)
    ]
    first = torch.cumsum(torch.tensor([0, *each]), 0)
    at = [
        torch.arange(size) % world_size() * first[-1] + before + torch.arange(size) // world_size()
        for size, before in zip(sizes, first, strict=False)
    ]
    return micro | {"chunks": chunks, "place": torch.cat(at)[micro["place"]]}


def all_gather(own: torch.Tensor) -> torch.Tensor:
    """Gather (n, d) of every process, this one's `own`, to (world x n, d), in the order of the processes;
    own rows carry the gradient.

    For the loss of a micro-batch that was shared out; a validation, which every process does whole, has nothing to gather.
    """
    if world_size() == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(parts, own.detach().contiguous())
    parts[rank()] = own
    return torch.cat(parts)


def all_reduce(value: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over the processes."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def broadcast(value: Any) -> Any:
    """Send what process 0 has to all: a plain value (numbers, text, lists of them)."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Wait until all processes have come here."""
    if world_size() > 1:
        dist.barrier()
