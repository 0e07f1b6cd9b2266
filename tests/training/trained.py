"""What the trainer's tests share: small trainings of the three stages, and children that may be killed."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import torch
from conftest import make_corpus

from llm2rec_kit.fitting import trainer
from llm2rec_kit.models import backbone
from llm2rec_kit.settings import CSFT, MNTP, Backbone, Contrastive
from llm2rec_kit.training import contrastive, csft, mntp, samples

TINY = Backbone(hidden=32, layers=2, heads=2, vocabulary=400, device="cpu")
SETTINGS = CSFT(steps=12, batch_size=8, learning_rate=3e-3, warmup_steps=2, save_every=3, evaluate_every=3)


def tiny():
    """A fresh two-layer backbone and its tokenizer, the same every time."""
    return backbone.make_tiny(make_corpus().titles, TINY)


def csft_parts(settings: CSFT):
    """(model, batches, validate) of a small CSFT."""
    corpus = make_corpus()
    model, tokenizer = tiny()
    learned, valid = (samples.prepare(corpus, corpus.samples(s), tokenizer, settings) for s in ("train", "valid"))
    pad = tokenizer.pad_token_id
    return model, csft.Batches(learned, settings, pad), lambda m: csft.validate(m, valid, settings, pad)


def train(folder: Path, loss=csft.compute_loss, callbacks=(), model=None, **changes) -> tuple[dict, list]:
    """A small CSFT from start (or its last checkpoint) to end: (weights, history)."""
    settings = replace(SETTINGS, **changes)
    made, batches, validate = csft_parts(settings)
    model = model or made
    history = trainer.fit("csft", model, batches, loss, settings, folder, validate=validate, callbacks=callbacks)
    return model.state_dict(), history


def train_mntp(folder: Path, **changes) -> tuple[dict, list]:
    """A small MNTP: (weights, history)."""
    settings = replace(MNTP(steps=6, batch_size=8, learning_rate=3e-3, save_every=3, batch_tokens=120), **changes)
    model, tokenizer = tiny()
    batches = mntp.Batches(make_corpus().titles, tokenizer, model.config.vocab_size, settings)
    backbone.lift_causal_mask(model)
    check = lambda m: mntp.validate(m, batches)  # noqa: E731
    history = trainer.fit("mntp", model, batches, mntp.compute_loss, settings, folder, validate=check)
    return model.state_dict(), history


def train_contrastive(folder: Path, **changes) -> tuple[dict, list]:
    """A small contrast of titles: (weights, history)."""
    start = Contrastive(steps=6, batch_size=9, learning_rate=3e-3, warmup_steps=0, save_every=3, batch_tokens=120)
    settings = replace(start, **changes)
    model, tokenizer = tiny()
    batches = contrastive.Batches(make_corpus().titles, tokenizer, settings)
    backbone.lift_causal_mask(model)
    with contrastive.use_dropout(model, settings):
        history = trainer.fit("contrastive", model, batches, contrastive.make_loss(settings), settings, folder)
    return model.state_dict(), history


def same(one: dict, other: dict) -> bool:
    """Whether two sets of weights are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@functools.cache
def _server():
    """A process that has the libraries loaded and does nothing: children forked from it start at once, and, unlike those
    forked from pytest itself, without the threads' locks of what has run here (polars hangs on those)."""
    here = Path(__file__).parent
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["trained"])
    forkserver.ensure_running()
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before
    return server


def _alone(work: Callable, environment: dict[str, str], *args) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    work(*args)


def start_child(work: Callable, *args, **environment: str) -> multiprocessing.Process:
    """`work(*args)` in a process of its own, which may die."""
    child = _server().Process(target=_alone, args=(work, environment, *args))
    child.start()
    return child


def ended(child: multiprocessing.Process) -> int:
    """How a child ended: 0 well, 1 with an error, -9 killed."""
    child.join(900)  # long enough for any machine; a hang must not hang the suite
    assert child.exitcode is not None, "the child hangs"
    return child.exitcode
