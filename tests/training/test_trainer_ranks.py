"""Two processes on one machine (gloo, loopback): the same samples, losses and weights as one process with all of them."""

from __future__ import annotations

import functools
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from trained import SETTINGS, csft_parts, ended, same, start_child, tiny, train, train_contrastive, train_mntp

from llm2rec_kit.fitting import checkpoints, distributed, trainer
from llm2rec_kit.models import backbone
from llm2rec_kit.settings import Contrastive
from llm2rec_kit.training import contrastive, csft


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def together(work, *args, world: int = 2, **environment: str) -> list[int]:
    """Run work(*args) in `world` processes, as torchrun does; how each ended."""
    shared = environment | {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    children = [start_child(work, *args, RANK=str(r), LOCAL_RANK=str(r), **shared) for r in range(world)]
    return [ended(child) for child in children]


def trained_by_two(work, folder: Path) -> None:
    weights, history = work(folder)
    rank = int(os.environ["RANK"])
    torch.save(weights, folder / f"weights-{rank}.pt")
    (folder / f"history-{rank}.json").write_text(json.dumps(history))


@pytest.mark.parametrize(
    "work",
    [
        functools.partial(train, batch_tokens=80),  # several micro-batches, some of one row: a process without labels
        functools.partial(train, tuning="lora", lora_dropout=0.0, gradient_checkpointing=True),
        train_mntp,
        functools.partial(train_contrastive, symmetric=True),
    ],
    ids=["csft", "csft with lora", "mntp", "contrastive"],
)
def test_two_processes_learn_what_one_does(tmp_path, work):
    alone, history = work(tmp_path / "one")
    folder = tmp_path / "two"
    folder.mkdir()
    assert together(trained_by_two, work, folder) == [0, 0]
    first, second = (torch.load(folder / f"weights-{r}.pt", weights_only=True) for r in range(2))
    assert same(first, second)
    for name in alone:
        torch.testing.assert_close(first[name], alone[name], rtol=0, atol=3e-4)
    told = [json.loads((folder / f"history-{r}.json").read_text()) for r in range(2)]
    assert told[0] == told[1]
    # Before AdamW's division blows rounding up: the gradient of the first step.
    assert told[0][0]["grad_norm"] == pytest.approx(history[0]["grad_norm"], rel=1e-5)
    for one, two in zip(history, told[0], strict=True):
        assert one.keys() == two.keys()
        assert list(two.values()) == pytest.approx(list(one.values()), rel=2e-4)
    assert len(list((folder / "checkpoints").iterdir())) == len(list((tmp_path / "one" / "checkpoints").iterdir()))


def as_rank(monkeypatch, rank: int, world: int) -> None:
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "world_size", lambda: world)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_every_row_is_seen_once_and_the_sums_add_up(monkeypatch, world):
    from dataclasses import replace

    settings = replace(SETTINGS, batch_tokens=200)
    model, batches, _ = csft_parts(settings)
    model.double()
    for micro in batches[0]:
        whole, n = csft.compute_loss(model, micro)
        parts = []
        for rank in range(world):
            as_rank(monkeypatch, rank, world)
            parts.append(distributed.share(micro))
        assert sum(len(p["labels"]) for p in parts) == n
        assert all(int(p["count"]) == n and len(p["input_ids"]) for p in parts)
        seen = [tuple(ids.tolist()) for p in parts if len(p["labels"]) for ids in p["input_ids"]]
        assert sorted(seen) == sorted(tuple(ids.tolist()) for ids in micro["input_ids"])
        values = [csft.compute_loss(model, p)[0] for p in parts]
        assert sum(values).item() == pytest.approx(whole.item(), rel=1e-6)
        assert all(v.requires_grad for v in values)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_contrast_shared_out_has_the_gradient_of_the_whole(monkeypatch, world):
    """In one process, the gathering played by hand: every rank's own rows carry the gradient, float64."""
    settings = Contrastive(batch_size=7, batch_tokens=80, symmetric=True)
    model, tokenizer = tiny()
    backbone.lift_causal_mask(model.double())
    (micro,) = contrastive.Batches([f"{w} of {i} {w}" for i, w in enumerate("abcdefghi")], tokenizer, settings)[0]
    assert len(micro["chunks"]) > 1
    loss = contrastive.make_loss(settings)
    value, n = loss(model, micro)
    wanted = torch.autograd.grad(value, list(model.model.parameters()))
    pooled, shares = [], []
    for rank in range(world):
        as_rank(monkeypatch, rank, world)
        shares.append(distributed.share(micro))
        monkeypatch.setattr(distributed, "all_gather", lambda own: pooled.append(own) or own.repeat(world, 1))
        loss(model, shares[-1])
    assert len({len(p) for p in pooled}) == 1  # all_gather wants equal sizes
    total = [torch.zeros_like(g) for g in wanted]
    for rank in range(world):
        parts = [p if r == rank else p.detach() for r, p in enumerate(pooled)]
        monkeypatch.setattr(distributed, "all_gather", lambda own, parts=parts: torch.cat(parts))
        part, count = loss(model, shares[rank])
        assert (part.item(), count) == (pytest.approx(value.item(), rel=1e-6), n)
        gradients = torch.autograd.grad(part, list(model.model.parameters()), retain_graph=True)
        total = [t + g for t, g in zip(total, gradients, strict=True)]
    for found, expected in zip(total, wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_tensor_of_another_form_is_not_shared_out_silently():
    micro = {"input_ids": torch.zeros(3, 4), "sources": torch.tensor([0]), "labels": torch.tensor([1]), "count": 1}
    with pytest.raises(ValueError, match="'odd' of a micro-batch has 5 rows"):
        distributed.take(micro | {"odd": torch.zeros(5)}, torch.tensor([0]))


def killed_after(step: int, folder: Path) -> None:
    from test_trainer_faults import kill
    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == step:
                kill()

    train(folder, callbacks=[Kill()])


def test_two_processes_that_were_killed_go_on_as_one(tmp_path):
    """The number of processes is no setting: what two began, one ends, within rounding."""
    alone, _ = train(tmp_path / "one")
    assert together(killed_after, 8, tmp_path / "two") == [-9, -9]
    assert checkpoints.step_of(checkpoints.find_last(tmp_path / "two" / "checkpoints")) == 6
    resumed, _ = train(tmp_path / "two")
    for name in alone:
        torch.testing.assert_close(resumed[name], alone[name], rtol=0, atol=3e-4)


def fails_on_one(folder: Path) -> None:
    def loss(model, micro):
        value, n = csft.compute_loss(model, micro)
        return (value * np.nan if distributed.rank() == 1 and model.training else value), n

    with pytest.raises(trainer.TrainingError, match="The loss of step 1 is nan"):
        train(folder, loss=loss)
    os._exit(7)


def test_what_is_not_finite_on_one_process_stops_all(tmp_path):
    assert together(fails_on_one, tmp_path) == [7, 7]
