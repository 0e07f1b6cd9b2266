"""The training loop: it learns, repeats, keeps to its schedule, stops where it should and keeps the weights it should."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
import transformers
from conftest import make_corpus
from trained import SETTINGS, csft_parts, same, tiny, train, train_contrastive, train_mntp
from transformers import TrainerCallback

from llm2rec_kit.corpus import mix
from llm2rec_kit.fitting import checkpoints, trainer
from llm2rec_kit.fitting.history import read_history, take_last_values, write_history
from llm2rec_kit.models import backbone
from llm2rec_kit.reproduction.plan import estimate
from llm2rec_kit.settings import MNTP, Backbone, Contrastive, SettingsError
from llm2rec_kit.training import contrastive, csft, mntp
from llm2rec_kit.training.titles import draw_rows, train_titles


def losses(history, name="loss"):
    return {row["step"]: row[name] for row in history if name in row}


def test_stage_2_learns_from_the_titles_of_the_training_domains_alone():
    names = [f"title {k}" for k in range(40)]
    names[6] = names[0]
    seen = make_corpus(users=2, items=40)
    seen = replace(seen, items=seen.items.with_columns(title=pl.Series(names)))
    elsewhere = seen.items.with_columns(title=pl.col("title") + " elsewhere", domain=pl.lit("other"))
    corpus = mix([seen, replace(seen, items=elsewhere, users=seen.users.with_columns(domain=pl.lit("other")))])

    def of(*domains):
        return train_titles(replace(corpus, facts=corpus.facts | {"train_domains": list(domains)}))

    own = [name for k, name in enumerate(names) if k != 6]
    assert of("toy") == own  # each once, in order
    assert len(np.unique(seen.sequence)) < len(own)  # also of items that nobody had
    assert of("other") == [f"{name} elsewhere" for name in own]
    assert of("toy", "other") == of("toy") + of("other")


def test_training_lowers_the_loss_and_repeats_to_the_byte(tmp_path):
    first, history = train(tmp_path / "a", steps=30)
    second, again = train(tmp_path / "b", steps=30)
    seen = list(losses(history).values())
    assert seen[-1] < 0.8 * seen[0]
    assert history == again
    assert same(first, second)
    assert (tmp_path / "a" / "checkpoints" / "checkpoint-30").exists()
    write_history(history, tmp_path / "a")
    assert not (tmp_path / "a" / "checkpoints").exists()
    assert read_history(tmp_path / "a") == history


def test_a_step_is_what_a_plain_loop_with_torch_alone_does(tmp_path):
    """AdamW, clipping, warm-up and linear decay, written out."""
    found, history = train(tmp_path, steps=5)
    model, batches, _ = csft_parts(SETTINGS)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    model.train()
    for step in range(5):
        rate = 3e-3 * min(step / 2, (5 - step) / 3)
        micros = batches[step]
        count = sum(int(m["count"]) for m in micros)
        value = sum(csft.compute_loss(model, m)[0] for m in micros) / count
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        assert losses(history)[step + 1] == pytest.approx(value.item(), rel=1e-5)
        assert losses(history, "learning_rate")[step + 1] == pytest.approx(rate, rel=1e-6)
    for name, weights in model.state_dict().items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=1e-5)


def test_the_schedule_can_be_planned_past_the_stop(tmp_path):
    _, stopped = train(tmp_path, schedule_steps=100)
    assert list(losses(stopped, "learning_rate").values())[-1] == pytest.approx(3e-3 * (100 - 11) / 98, rel=1e-6)


def test_the_schedule_can_be_planned_over_epochs_as_in_the_official_code(tmp_path):
    _, batches, _ = csft_parts(SETTINGS)
    horizon = 9 * batches.steps_per_epoch
    _, stopped = train(tmp_path, schedule_epochs=9)
    rates = list(losses(stopped, "learning_rate").values())
    assert rates[-1] == pytest.approx(3e-3 * (horizon - 11) / (horizon - 2), rel=1e-6)


def test_a_micro_batch_without_a_hidden_token_does_not_count(tmp_path):
    """A title a pass, so that many passes hide nothing, is one pass of all; steps that hide nothing cost nothing."""
    together, apart = (train_mntp(tmp_path / str(tokens), rate=0.1, batch_tokens=tokens)[1] for tokens in (10_000, 1))
    assert list(losses(apart).values()) == pytest.approx(list(losses(together).values()), rel=1e-4)
    _, nothing = train_mntp(tmp_path / "nothing", rate=1e-9)
    assert set(losses(nothing).values()) == {0.0}


@pytest.mark.parametrize(
    ("schedule", "after"), [("linear", 0.0), ("cosine", 0.0), ("constant_with_warmup", SETTINGS.learning_rate)]
)
def test_after_a_decay_that_ends_early_the_rate_stays_and_what_is_said_of_it_is_true(tmp_path, capsys, schedule, after):
    _, history = train(tmp_path, schedule=schedule, schedule_steps=6)
    rates = list(losses(history, "learning_rate").values())  # that of step k + 1 is of k steps before it
    assert rates[:3] == [0.0, SETTINGS.learning_rate / 2, SETTINGS.learning_rate]
    assert rates[6:] == [after] * 6
    assert ("the learning rate is 0 from step 6 on" in capsys.readouterr().out) == (after == 0)


def test_the_official_horizons_of_stage_two():
    """108,753 titles of the six training sets: 5 epochs of 256, and 3 epochs of 32 over the 90% that are not held out."""

    class Tokens:
        def __init__(self, n, size):
            self.steps_per_epoch = -(-n // size)

    assert trainer.plan_steps(Contrastive(schedule_epochs=5), Tokens(108_753, 256)) == 2125
    assert trainer.plan_steps(MNTP(schedule_epochs=3), Tokens(97_878, 32)) == 9177
    model, tokenizer = tiny()
    titles = [f"title {i}" for i in range(20)]
    assert contrastive.Batches(titles, tokenizer, Contrastive(batch_size=8)).steps_per_epoch == 3
    assert mntp.Batches(titles, tokenizer, model.config.vocab_size, MNTP(batch_size=6)).steps_per_epoch == 4


def test_one_horizon_at_a_time(tmp_path):
    with pytest.raises(SettingsError, match=r"csft_schedule_epochs .* not both"):
        train(tmp_path, schedule_epochs=2, schedule_steps=30)


def test_how_a_step_is_cut_does_not_matter(tmp_path):
    whole, _ = train(tmp_path / "whole", steps=3)
    cut, _ = train(tmp_path / "cut", steps=3, batch_tokens=80)
    for name in whole:
        torch.testing.assert_close(whole[name], cut[name], rtol=0, atol=2e-4)


class Weights(TrainerCallback):
    """Keeps a copy of the weights of every step."""

    def __init__(self):
        self.at = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.at[state.global_step] = {k: v.clone() for k, v in model.state_dict().items()}


def overfitting(settings):
    """A validation loss by step that falls until step 4 and rises after it."""
    seen = []

    def validate(model):
        seen.append(len(seen) + 1)
        return {"loss": 1 + (seen[-1] - 4) ** 2 / 100, "other": 3.0}

    return validate


def fit_overfitting(folder, callback, **changes):
    settings = replace(SETTINGS, evaluate_every=1, **changes)
    model, batches, _ = csft_parts(settings)
    validate = overfitting(settings)
    history = trainer.fit(
        "csft", model, batches, csft.compute_loss, settings, folder, validate=validate, callbacks=[callback]
    )
    return model.state_dict(), history


def test_the_best_weights_come_back_where_they_are_asked_for(tmp_path):
    seen = Weights()
    kept, history = fit_overfitting(tmp_path, seen, keep="best")
    assert same(kept, seen.at[4])
    assert max(seen.at) == 12
    assert take_last_values(history) | {"best_step": 4, "best_validation_loss": 1.0, "kept_step": 4} == take_last_values(
        history
    )


def test_the_last_weights_are_kept_otherwise_and_the_best_is_recorded(tmp_path):
    seen = Weights()
    kept, history = fit_overfitting(tmp_path, seen)
    assert same(kept, seen.at[12])
    assert history[-1] == {"step": 12, "best_step": 4, "best_validation_loss": 1.0, "kept_step": 12}


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_plan_counts_the_checkpoints_that_are_there_at_once(tmp_path, monkeypatch, keep):
    there, seal = [], checkpoints.seal

    def count(target, more):
        there.append(len(list(target.parent.glob("checkpoint-*"))))
        seal(target, more)

    monkeypatch.setattr(checkpoints, "seal", count)
    fit_overfitting(tmp_path, Weights(), keep=keep)
    assert max(there) == estimate.count_checkpoints(replace(SETTINGS, keep=keep))


@pytest.mark.parametrize("keep", ["best", "last"])
def test_training_stops_when_patience_is_out(tmp_path, keep):
    seen = Weights()
    kept, history = fit_overfitting(tmp_path, seen, keep=keep, patience=3)
    assert max(seen.at) == 7
    assert same(kept, seen.at[4 if keep == "best" else 7])
    again, repeated = fit_overfitting(tmp_path, Weights(), keep=keep, patience=3)  # over: read, not trained on
    assert same(kept, again)
    assert repeated == history


def test_patience_wants_a_validation_loss(tmp_path):
    model, batches, _ = csft_parts(SETTINGS)
    settings = replace(SETTINGS, patience=1)
    with pytest.raises(SettingsError, match="there is no validation sample"):
        trainer.fit("csft", model, batches, csft.compute_loss, settings, tmp_path)
    with pytest.raises(trainer.TrainingError, match="need a finite validation loss"):
        trainer.fit("csft", model, batches, csft.compute_loss, settings, tmp_path, validate=lambda m: {"other": 1.0})


def poisoned(what: str, row: torch.Tensor, step: int):
    """CSFT's loss, from `step` on with a loss or gradient that is not finite where `row` is among the rows."""
    calls = 0

    def loss(model, micro):
        nonlocal calls
        value, n = csft.compute_loss(model, micro)
        calls += model.training
        if calls >= step and model.training and any(torch.equal(row, ids) for ids in micro["input_ids"]):
            zero = value * 0
            value = value + (zero / 0 if what == "loss" else torch.sqrt(zero))
        return value, n

    return loss


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_training_and_names_the_sample(tmp_path, what):
    backbone.save(*tiny(), tmp_path / "base")
    model, tokenizer = backbone.load(tmp_path / "base")
    _, batches, _ = csft_parts(SETTINGS)
    row = batches[5][0]["input_ids"][1]
    with pytest.raises(trainer.TrainingError, match=f"The {what} of step 6 is nan") as error:
        train(tmp_path, loss=poisoned(what, row, 6), model=model, save_every=2)
    message = str(error.value)
    assert "The last checkpoint is that of step 4." in message
    assert "micro-batch 1 of 1, row 2 of 2" in message
    assert repr(tokenizer.decode(row, skip_special_tokens=True)) in message
    assert checkpoints.step_of(checkpoints.find_last(tmp_path / "checkpoints")) == 4
    whole, _ = train(tmp_path / "whole")
    mended, _ = train(tmp_path, save_every=2)
    assert same(whole, mended)


def test_a_title_that_breaks_the_contrast_is_named(tmp_path):
    """A token whose embedding is not finite, as a divergence leaves it."""
    model, tokenizer = tiny()
    titles = make_corpus().titles
    token = tokenizer(titles[3], add_special_tokens=False)["input_ids"][-1]
    settings = Contrastive(steps=2, batch_size=len(titles), views="dropout")
    batches = contrastive.Batches(titles, tokenizer, settings)

    class Diverge(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            with torch.no_grad():
                model.model.embed_tokens.weight[token] = float("nan")

    found = rf"loss of step 2 is nan: micro-batch 1 of 1, row \d+ of 32: .*\b{token}\b"
    with pytest.raises(trainer.TrainingError, match=found):
        trainer.fit("c", model, batches, contrastive.make_loss(settings), settings, tmp_path, callbacks=[Diverge()])


def test_a_model_that_is_broken_from_the_start_is_not_trained(tmp_path):
    model, batches, _ = csft_parts(SETTINGS)
    with torch.no_grad():
        model.model.norm.weight[0] = float("inf")
    with pytest.raises(backbone.BackboneError, match="not finite before any training"):
        trainer.fit("csft", model, batches, csft.compute_loss, SETTINGS, tmp_path)


class Interrupt(TrainerCallback):
    """Interrupts at a step, by an exception or by the signal that the stop button sends."""

    def __init__(self, step, how):
        self.step, self.how = step, how

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            self.how()


def stop_button():
    os.kill(os.getpid(), signal.SIGINT)


def raised():
    raise KeyboardInterrupt


@pytest.fixture
def in_background():
    """SIGINT ignored, as a shell does for a job in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_job_in_the_background_goes_on_ignoring_interrupts(tmp_path, in_background):
    _, history = train(tmp_path, steps=3, callbacks=[Interrupt(2, stop_button)])
    assert history[-1]["step"] == 3


@pytest.mark.parametrize(("how", "saved"), [(stop_button, 7), (raised, 6)])
def test_an_interrupt_leaves_a_usable_checkpoint_and_says_how_to_go_on(tmp_path, capsys, monkeypatch, how, saved):
    arguments = trainer._arguments

    def log_seldom(*args, **kwargs):
        made = arguments(*args, **kwargs)
        made.logging_steps = 5
        return made

    monkeypatch.setattr(trainer, "_arguments", log_seldom)
    whole, history = train(tmp_path / "whole")
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", callbacks=[Interrupt(7, how)])
    assert "Run the same cell or command again to go on from there." in capsys.readouterr().out
    assert checkpoints.step_of(checkpoints.find_last(tmp_path / "cut" / "checkpoints")) == saved
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    warned = []
    monkeypatch.setattr(transformers.trainer.logger, "warning", warned.append)
    resumed, again = train(tmp_path / "cut")
    assert not warned
    assert f"resuming from checkpoint-{saved}" in capsys.readouterr().out
    assert same(whole, resumed)
    assert history == again  # a logged loss is the mean of five steps here, and the cut falls between two logs


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train(tmp_path)
    other, _ = backbone.make_tiny(make_corpus().titles, Backbone(hidden=32, layers=3, heads=2, vocabulary=400, device="cpu"))
    with pytest.raises(trainer.TrainingError, match=r"is of another model: \['model.layers.2"):
        train(tmp_path, model=other)


def test_each_step_draws_distinct_titles_and_an_epoch_repeats_none():
    steps = [draw_rows(10, 3, 7, step).tolist() for step in range(3)]
    assert len({i for batch in steps for i in batch}) == 9
    assert steps == [draw_rows(10, 3, 7, step).tolist() for step in range(3)]


def test_stage_two_learns_and_stays_bidirectional(tmp_path):
    _, history = train_mntp(tmp_path / "m", steps=30)
    seen = list(losses(history, "validation_loss").values())
    assert seen[-1] < seen[0]
    _, history = train_contrastive(tmp_path / "c", steps=12, views="both")
    seen = list(losses(history).values())
    assert seen[-1] < seen[0]
    assert all(math.isfinite(x) for x in seen)


def test_dropout_depends_on_seed_and_step_alone(tmp_path):
    """A training with attention dropout resumes to the bit although no random state is saved."""
    whole, history = train_contrastive(tmp_path / "whole", views="dropout")
    other, _ = train_contrastive(tmp_path / "other", views="dropout", seed=7)
    assert not same(whole, other)
    short, _ = train_contrastive(tmp_path / "cut", views="dropout")
    checkpoints.remove(tmp_path / "cut" / "checkpoints" / "checkpoint-6")
    torch.manual_seed(999)
    resumed, again = train_contrastive(tmp_path / "cut", views="dropout")
    assert same(whole, short)
    assert same(whole, resumed)
    assert history == again
