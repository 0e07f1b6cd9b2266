"""The training loop: it learns, repeats, resumes to the same bytes after kill -9, and refuses a broken loss."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_corpus

from llm2rec_kit import backbone
from llm2rec_kit.settings import CSFT, MNTP, Backbone, Contrastive
from llm2rec_kit.training import contrastive, csft, mntp, samples, trainer

SETTINGS = CSFT(steps=12, batch_size=8, learning_rate=3e-3, warmup_steps=2, save_every=3)


def train(folder: Path, loss=csft.loss, **changes) -> tuple[dict, list]:
    from dataclasses import replace

    settings = replace(SETTINGS, **changes)
    corpus = make_corpus()
    model, tokenizer = backbone.make_tiny(
        corpus.titles, Backbone(hidden=32, layers=2, heads=2, vocabulary=400, device="cpu")
    )
    learned = samples.prepare(corpus, corpus.samples("train"), tokenizer, settings)
    valid = samples.prepare(corpus, corpus.samples("valid"), tokenizer, settings)
    pad = tokenizer.pad_token_id
    history = trainer.fit(
        "csft",
        model,
        csft.Batches(learned, settings, pad),
        loss,
        settings,
        folder,
        validate=lambda m: csft.validation(m, valid, settings, pad),
    )
    return model.state_dict(), history


def test_training_lowers_the_loss_and_repeats_to_the_byte(tmp_path):
    first, history = train(tmp_path / "a", steps=40)
    second, again = train(tmp_path / "b", steps=40)
    losses = [row["loss"] for row in history if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    assert history == again
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not (tmp_path / "a" / "checkpoints").exists()


def test_the_schedule_can_be_planned_past_the_stop(tmp_path):
    _, stopped = train(tmp_path, schedule_steps=100)
    rates = [row["learning_rate"] for row in stopped if "learning_rate" in row]
    assert rates[-1] == pytest.approx(3e-3 * (100 - 11) / 98, rel=1e-6)


def test_how_a_step_is_cut_does_not_matter(tmp_path):
    whole, _ = train(tmp_path / "whole", steps=3)
    cut, _ = train(tmp_path / "cut", steps=3, batch_tokens=80)
    for name in whole:
        torch.testing.assert_close(whole[name], cut[name], rtol=0, atol=2e-4)


def test_a_loss_that_is_not_finite_stops_and_says_where(tmp_path):
    def broken(model, micro):
        value, n = csft.loss(model, micro)
        return value * float("nan"), n

    with pytest.raises(trainer.TrainingError, match="loss of step 1 is nan"):
        train(tmp_path, loss=broken)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_trainer import train
from llm2rec_kit.training import csft
calls = 0
def loss(model, micro):
    global calls
    calls += 1
    if calls == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return csft.loss(model, micro)
train(Path({folder!r}), loss=loss)
"""


@pytest.mark.parametrize("at", [2, 8])
def test_kill_9_and_resume_gives_the_same_weights(tmp_path, at):
    whole, history = train(tmp_path / "whole")
    tests = Path(__file__).parent
    code = KILLED.format(tests=str(tests), folder=str(tmp_path / "killed"), at=at)
    path = os.pathsep.join([str(tests), str(tests.parent)])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert (trainer.last_checkpoint(tmp_path / "killed" / "checkpoints") is not None) == (at > 3)
    resumed, again = train(tmp_path / "killed")
    assert history == again
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_checkpoint_cut_short_is_not_used(tmp_path):
    for step, complete in ((3, True), (6, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if complete:
            (folder / trainer.COMPLETE).touch()
    assert trainer.last_checkpoint(tmp_path).name == "checkpoint-3"


def test_each_step_draws_distinct_titles_and_an_epoch_repeats_none():
    drawn = [trainer.drawn(10, 3, 7, step).tolist() for step in range(3)]
    assert len({i for batch in drawn for i in batch}) == 9
    assert drawn == [trainer.drawn(10, 3, 7, step).tolist() for step in range(3)]


def test_stage_two_trains_bidirectionally_from_csft(tmp_path, tiny):
    model, tokenizer = tiny
    titles = make_corpus().titles
    backbone.bidirectional(model)
    masks = MNTP(steps=30, batch_size=8, learning_rate=3e-3)
    batches = mntp.Batches(titles, tokenizer, model.config.vocab_size, masks)
    history = trainer.fit(
        "mntp", model, batches, mntp.loss, masks, tmp_path / "m", validate=lambda m: mntp.validation(m, batches)
    )
    seen = [row["validation_loss"] for row in history if "validation_loss" in row]
    assert seen[-1] < seen[0]
    contrast = Contrastive(steps=10, batch_size=8, learning_rate=1e-3, warmup_steps=0, views="both")
    with contrastive.dropout(model, contrast):
        history = trainer.fit(
            "contrastive",
            model,
            contrastive.Batches(titles, tokenizer, contrast),
            contrastive.loss_of(contrast),
            contrast,
            tmp_path / "c",
        )
    losses = [row["loss"] for row in history]
    assert losses[-1] < losses[0]
    assert backbone.is_bidirectional(model)
    assert backbone.leak(model) > 0
