"""Settings that change no result: a training goes on under others of them, and a finished one is reused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trained import SETTINGS, csft_parts, tiny, train

from llm2rec_kit.fitting import artefact, checkpoints, trainer
from llm2rec_kit.fitting.history import read_history, take_last_values, write_history
from llm2rec_kit.models import backbone
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import CSFT, MNTP, Backbone, Contrastive, training
from llm2rec_kit.training import csft

PLACE = Backbone(device="cpu")


def make(run: Run, loss=csft.compute_loss, **changes) -> Path:
    """A small CSFT as notebook 02 makes it, from no inputs."""
    settings = replace(SETTINGS, **changes)

    def build(folder: Path) -> dict:
        model, batches, validate = csft_parts(settings)
        history = trainer.fit("csft", model, batches, loss, settings, folder, validate=validate)
        backbone.save(model, tiny()[1], folder)
        write_history(history, folder)
        return take_last_values(history)

    return run.make("csft", build, **artefact.split_settings(settings, PLACE))


def out_of_memory(at: int):
    """CSFT's loss, until it is asked for the `at`-th time."""
    calls = []

    def loss(model, micro):
        calls.append(1)
        if len(calls) == at:
            raise MemoryError
        return csft.compute_loss(model, micro)

    return loss


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return backbone.load(folder, PLACE)[0].state_dict()


def test_out_of_memory_goes_on_from_the_checkpoint_with_less(tmp_path, capsys):
    run = Run("r", tmp_path)
    with pytest.raises(MemoryError):
        make(run, out_of_memory(8))
    left = checkpoints.find_last(run.path / ".csft.partial" / "checkpoints")
    assert left is not None
    made = make(run, batch_tokens=64, gradient_checkpointing=True, save_every=2)
    assert f"csft: resuming from {left.name}" in capsys.readouterr().out
    expected, history = train(tmp_path / "plain")
    for name, value in weights(made).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)
    found = read_history(made)
    assert [row["step"] for row in found] == [row["step"] for row in history]
    assert run.manifest("csft")["settings"]["batch_tokens"] == 64  # what it was finished with


def test_a_finished_training_is_reused_under_other_memory_settings_and_not_under_others(tmp_path, capsys):
    run = Run("r", tmp_path)
    make(run)
    make(run, batch_tokens=64, gradient_checkpointing=True, save_every=1)
    assert "csft: reused" in capsys.readouterr().out
    manifest = run.path / "csft" / "manifest.json"
    older = json.loads(manifest.read_text())
    del older["aside"], older["seal"]  # as versions wrote it that kept nothing aside
    manifest.write_text(json.dumps(older))
    make(run, batch_tokens=64)
    assert "csft: reused" in capsys.readouterr().out
    make(run, evaluate_every=4)
    assert "redoing, changed: settings.evaluate_every" in capsys.readouterr().out


def test_a_working_folder_of_an_older_version_is_resumed(tmp_path):
    run = Run("r", tmp_path)
    with pytest.raises(MemoryError):
        make(run, out_of_memory(8))
    mark = run.path / ".csft.partial" / ".key.json"
    older = json.loads(mark.read_text())
    del older["aside"], older["seal"]
    mark.write_text(json.dumps(older))
    left = checkpoints.find_last(mark.parent / "checkpoints")
    with pytest.raises(MemoryError):
        make(run, out_of_memory(1), batch_tokens=64)
    assert left.is_dir()


def test_a_resumed_training_saves_as_often_as_it_is_set_now(tmp_path, monkeypatch):
    with pytest.raises(MemoryError):
        train(tmp_path, loss=out_of_memory(8))
    saved = []
    seal = checkpoints.seal
    monkeypatch.setattr(checkpoints, "seal", lambda c, more: (saved.append(checkpoints.step_of(c)), seal(c, more)))
    start = checkpoints.step_of(checkpoints.find_last(tmp_path / "checkpoints"))
    train(tmp_path, save_every=1)
    assert saved == list(range(start + 1, SETTINGS.steps + 1))


LORA = ("lora_r", "lora_alpha", "lora_dropout")


@pytest.mark.parametrize(
    ("settings", "aside"),
    [
        (CSFT(), {"batch_tokens", "gradient_checkpointing", "save_every", *LORA}),
        (CSFT(tuning="lora"), {"save_every"}),
        (CSFT(tuning="lora", lora_dropout=0.0), {"batch_tokens", "gradient_checkpointing", "save_every"}),
        (MNTP(tuning="lora"), {"gradient_checkpointing", "save_every"}),
        (MNTP(tuning="lora", lora_dropout=0.0), {"batch_tokens", "gradient_checkpointing", "save_every"}),
        (Contrastive(), {*training.ASIDE, *LORA, "dropout"}),
        (Contrastive(views="both"), {*training.ASIDE, *LORA} - {"batch_tokens"}),
        (Contrastive(views="dropout", tuning="lora"), {*training.ASIDE, "mask_rate", "mask_token"} - {"batch_tokens"}),
    ],
)
def test_what_counts(settings, aside):
    key = artefact.split_settings(settings, PLACE, domains=["toy"])
    assert set(key["aside"]) == aside
    kept = {name: value for name, value in settings.as_dict().items() if name not in artefact.UNKEPT}
    assert key["settings"] == kept | {"device": "cpu", "dtype": "auto", "domains": ["toy"]}


def test_runs_of_a_store_share_what_differs_in_memory_alone(tmp_path):
    (tmp_path / ".store").mkdir()
    made = []
    for name, tokens in (("a", 1), ("b", 2)):
        key = artefact.split_settings(CSFT(batch_tokens=tokens), PLACE)
        run = Run(name, tmp_path)
        assert run.stale("csft", **key) == (name == "a")
        run.make("csft", lambda folder: made.append(folder), **key)
    assert len(made) == 1
    run.forget("csft")
    assert Run("c", tmp_path).stale("csft", **artefact.split_settings(CSFT(batch_tokens=3), PLACE))


def test_a_study_adopts_what_differs_in_memory_alone(tmp_path):
    base, study = Run("base", tmp_path), Run("study", tmp_path)
    base.make("csft", lambda folder: None, **artefact.split_settings(CSFT(), PLACE))
    assert study.reuse_from(base, "csft", **artefact.split_settings(CSFT(save_every=5), PLACE))
    assert not study.reuse_from(base, "csft", **artefact.split_settings(CSFT(steps=5), PLACE))
