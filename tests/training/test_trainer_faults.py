"""Real faults: killed at many points, disk full, damaged checkpoints. What is resumed ends with the same bits."""

from __future__ import annotations

import errno
import functools
import json
import os
import resource
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch
from trained import ended, same, start_child, train, train_contrastive
from transformers import PreTrainedModel, TrainerCallback

from llm2rec_kit import runs
from llm2rec_kit.fitting import checkpoints, lora, trainer
from llm2rec_kit.models import kernels
from llm2rec_kit.training import csft


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Weights and history of a training that nothing happened to."""
    return train(tmp_path_factory.mktemp("whole"))


def kill(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(patch, owner, name: str, call: int, *, after: bool = False) -> None:
    """Have the process kill itself at the given call of owner.name: before it, or when it has done its work."""
    own, calls = getattr(owner, name), 0

    def deadly(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call and not after:
            kill()
        result = own(*args, **kwargs)
        if calls == call:
            kill()
        return result

    patch.setattr(owner, name, deadly)


def cut_in_half(patch) -> None:
    """Have the second writing of the optimiser's state stop half-way, the process dead."""
    own, calls = torch.save, 0

    def deadly(thing, path, *args, **kwargs):
        nonlocal calls
        own(thing, path, *args, **kwargs)
        calls += Path(path).name == "optimizer.pt"
        if calls == 2:
            os.truncate(path, os.path.getsize(path) // 2)
            kill()

    patch.setattr(torch, "save", deadly)


def in_step(patch, call: int) -> None:
    """Have the process die in the middle of a step, between forward and backward."""
    kill_at(patch, trainer.StepTrainer, "_prepare_inputs", call)


POINTS = {
    "in the first step": (lambda p: in_step(p, 1), 0),
    "in step 8": (lambda p: in_step(p, 8), 6),
    "between gradient and update": (lambda p: kill_at(p, torch.optim.AdamW, "step", 8), 6),
    "after the second checkpoint's weights": (lambda p: kill_at(p, PreTrainedModel, "save_pretrained", 2, after=True), 3),
    "half-way through the optimiser's file": (cut_in_half, 3),
    "before its marker": (lambda p: kill_at(p, runs, "write_json", 2), 3),
    "after it is sealed, before the old are removed": (lambda p: kill_at(p, checkpoints, "prune", 3), 9),
    "half-way through removing an old one": (lambda p: kill_at(p, checkpoints.shutil, "rmtree", 4), 9),
    "when all is trained": (lambda p: kill_at(p, trainer.StepTrainer, "restore_kept", 1), 12),
    "after the merge": (lambda p: kill_at(p, lora, "merge", 1, after=True), 12),
}


def killed(work, folder: Path, point: str, **changes) -> None:
    """Train until the process kills itself."""
    POINTS[point][0](pytest.MonkeyPatch())
    work(folder, **changes)


@pytest.mark.parametrize("point", [p for p in POINTS if p != "after the merge"])
def test_killed_at_any_point_it_resumes_to_the_same_bits(tmp_path, whole, capsys, point):
    left = POINTS[point][1]
    assert ended(start_child(killed, train, tmp_path, point)) == -signal.SIGKILL
    capsys.readouterr()
    found = checkpoints.find_last(tmp_path / "checkpoints")
    assert (checkpoints.step_of(found) if found else 0) == left
    resumed, history = train(tmp_path)
    assert history == whole[1]
    assert same(whole[0], resumed)
    assert (f"resuming from checkpoint-{left}" in capsys.readouterr().out) == (left > 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"tuning": "lora"},
        {"keep": "best"},
        {"gradient_checkpointing": True},
        pytest.param(
            {"precision": "mixed"}, marks=pytest.mark.skipif(not kernels.has_fast_bfloat16(), reason="no AVX512-BF16")
        ),
    ],
)
def test_what_is_trained_in_another_way_resumes_to_the_same_bits(tmp_path, changes):
    expected, history = train(tmp_path / "whole", **changes)
    work = functools.partial(train, **changes)
    assert ended(start_child(killed, work, tmp_path / "cut", "in step 8")) == -signal.SIGKILL
    resumed, again = train(tmp_path / "cut", **changes)
    assert same(expected, resumed)
    assert history == again


def test_contrast_with_dropout_resumes_to_the_same_bits(tmp_path):
    work = functools.partial(train_contrastive, views="both", steps=9)
    expected, _ = work(tmp_path / "whole")
    assert ended(start_child(killed, work, tmp_path / "cut", "in step 8")) == -signal.SIGKILL
    resumed, _ = work(tmp_path / "cut")
    assert same(expected, resumed)


def test_a_merge_that_was_killed_is_done_again(tmp_path):
    expected, _ = train(tmp_path / "whole", tuning="lora")
    work = functools.partial(train, tuning="lora")
    assert ended(start_child(killed, work, tmp_path / "cut", "after the merge")) == -signal.SIGKILL
    resumed, _ = train(tmp_path / "cut", tuning="lora")
    assert same(expected, resumed)


class SmallDisk(TrainerCallback):
    """From a step on no file may grow past `size` bytes: the kernel itself refuses the write, as on a full disk."""

    def __init__(self, step: int, size: int) -> None:
        self.step, self.size = step, size

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


def on_a_small_disk(folder: Path, size: int) -> None:
    try:
        train(folder, callbacks=[SmallDisk(4, size)])
    except trainer.TrainingError as error:
        (folder / "said.txt").write_text(str(error))
        os._exit(7)


@pytest.mark.parametrize(("size", "what"), [(50_000, "the weights"), (200_000, "the optimiser's state")])
def test_a_full_disk_is_said_and_leaves_the_checkpoint_before_it(tmp_path, whole, size, what):
    assert ended(start_child(on_a_small_disk, tmp_path, size)) == 7, what
    message = (tmp_path / "said.txt").read_text()
    assert "The checkpoint of step 6 could not be written" in message
    assert "MiB are free there" in message
    assert "The last checkpoint is that of step 3." in message
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-3"]
    resumed, history = train(tmp_path)
    assert same(whole[0], resumed)
    assert history == whole[1]


def test_a_disk_that_is_full_at_the_marker_counts_as_full(tmp_path, monkeypatch):
    own = runs.write_json

    def full(path, value):
        if path.parent.name == "checkpoint-6":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        own(path, value)

    monkeypatch.setattr(runs, "write_json", full)
    with pytest.raises(trainer.TrainingError, match=r"step 6 could not be written .* No space left on device"):
        train(tmp_path)
    assert checkpoints.step_of(checkpoints.find_last(tmp_path / "checkpoints")) == 3


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "optimizer.pt has": lambda c: os.truncate(c / "optimizer.pt", 100),
    "model.safetensors is damaged": lambda c: flip(c / "model.safetensors"),
    "trainer_state.json is missing": lambda c: (c / "trainer_state.json").unlink(),
    "cut short": lambda c: (c / "complete").unlink(),
    "marker 'complete' is damaged": lambda c: (c / "complete").write_text("{"),
}


@pytest.mark.parametrize("why", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, whole, capsys, why):
    train(tmp_path)
    DAMAGE[why](tmp_path / "checkpoints" / "checkpoint-12")
    capsys.readouterr()
    resumed, history = train(tmp_path)
    said = capsys.readouterr().out
    assert "checkpoint-12 is not used: " in said
    assert why in said
    assert "resuming from checkpoint-9" in said
    assert same(whole[0], resumed)
    assert history == whole[1]


def test_a_marker_names_every_file_with_size_and_hash(tmp_path):
    train(tmp_path)
    checkpoint = tmp_path / "checkpoints" / "checkpoint-12"
    files = json.loads((checkpoint / "complete").read_text())["files"]
    assert set(files) == {p.name for p in checkpoint.iterdir()} - {"complete"}
    assert files["model.safetensors"][1] == runs.hash_file(checkpoint / "model.safetensors")
    assert safetensors.torch.load_file(checkpoint / "model.safetensors")


def test_best_weights_that_are_damaged_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "find_fault", lambda c: "it is damaged")
    with pytest.raises(trainer.TrainingError, match=r"best weights, of step \d+, cannot be read"):
        train(tmp_path, keep="best", evaluate_every=4, loss=rising)


def rising(model, micro):
    """A loss whose sign turns training round: the first validation is the best."""
    value, n = csft.compute_loss(model, micro)
    return (-value if model.training else value), n
