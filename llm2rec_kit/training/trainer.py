"""What the three objectives share: optimiser steps, schedule, checkpoints, resume, history.

An objective gives two things: `batches`, a sequence whose item k is what optimiser step k reads (a list of
micro-batches), and `loss(model, micro_batch) -> (sum, count)`. A step's loss is the sum over its micro-batches divided by
the count over them, so how a batch is cut to fit memory does not change what is learned. Item k depends on the seed and
k alone, which is why an interrupted training resumes on the very batch it lost.

The rest is transformers' Trainer: devices, clipping, checkpoints with optimiser and random state.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, SequentialSampler
from tqdm.auto import tqdm
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments, get_scheduler
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from llm2rec_kit.corpus import Corpus

MicroBatch = dict[str, torch.Tensor]
Loss = Callable[[PreTrainedModel, MicroBatch], tuple[torch.Tensor, int]]
COMPLETE = "complete"  # marker file, written when everything else of a checkpoint is on disk


class TrainingError(RuntimeError):
    """Training that cannot go on; the message names the step and the last good checkpoint."""


class StageSettings(Protocol):
    """The fields of CSFT, MNTP and Contrastive that every training needs."""

    steps: int
    schedule_steps: int
    learning_rate: float
    warmup_steps: int
    schedule: str
    weight_decay: float
    clip: float
    save_every: int
    seed: int


class _Steps(torch.utils.data.Dataset):
    """The first `steps` items of `batches`, for a DataLoader that reads them in order."""

    def __init__(self, batches: Sequence[list[MicroBatch]], steps: int) -> None:
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> list[MicroBatch]:
        return self.batches[step]


class StepTrainer(Trainer):
    """transformers' Trainer over whole optimiser steps, with our loss and our validation."""

    def __init__(self, *, loss: Loss, validate: Callable[[PreTrainedModel], dict[str, float]] | None, **kwargs: Any):
        super().__init__(**kwargs)
        self.sum_loss, self.validate, self.validated_at = loss, validate, -1

    def get_train_dataloader(self) -> DataLoader:
        """One item a step, in order: the batches have been drawn already."""
        return self.accelerator.prepare(
            DataLoader(self.train_dataset, batch_size=1, sampler=SequentialSampler(self.train_dataset), collate_fn=_only)
        )

    def training_step(self, model: PreTrainedModel, inputs: list[MicroBatch], num_items_in_batch: Any = None):
        """Backward through every micro-batch; returns the step's mean loss."""
        model.train()
        count = sum(int(micro["count"]) for micro in inputs)
        total = torch.zeros((), device=self.args.device)
        for micro in inputs:
            loss = self.sum_loss(model, self._prepare_inputs(micro))[0] / count
            self.accelerator.backward(loss)
            total += loss.detach()
        if not torch.isfinite(total):
            raise TrainingError(
                f"The loss of step {self.state.global_step + 1} is {total.item()}. Training stopped; the last checkpoint "
                f"in {self.args.output_dir} is sound. A lower learning rate or float32 usually helps."
            )
        return total

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Our validation numbers, logged at this step; Trainer asks twice at the last one."""
        if self.validated_at == self.state.global_step:
            return {}
        self.validated_at = self.state.global_step
        found = {f"validation_{k}": v for k, v in self.validate(self.model).items()}
        self.log(dict(found))
        return found

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the estimate of transformers knows nothing of shared prefixes."""
        return 0

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        (Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / COMPLETE).touch()


class _Progress(TrainerCallback):
    """A bar in a notebook or terminal, and one printed line at each validation."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.last = name, {}
        self.bar = tqdm(total=steps, desc=name, unit="step", leave=False, disable=not sys.stderr.isatty())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        self.last |= logs or {}
        if any(k.startswith("validation_") for k in logs or {}):
            shown = [
                f"{k.replace('_', ' ')} {self.last[k]:.3f}" for k in self.last if k == "loss" or k.startswith("validation_")
            ]
            print(f"  {self.name} step {state.global_step}/{state.max_steps}: {', '.join(shown)}", flush=True)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.bar.close()


def fit(
    name: str,
    model: PreTrainedModel,
    batches: Sequence[list[MicroBatch]],
    loss: Loss,
    settings: StageSettings,
    folder: Path,
    *,
    validate: Callable[[PreTrainedModel], dict[str, float]] | None = None,
    evaluate_every: int = 0,
) -> list[dict[str, float]]:
    """Train `model` in place for `settings.steps` steps and return its history.

    Checkpoints go to `folder/checkpoints`; a complete one that is there already is resumed from, and all are removed
    at the end. History rows are {"step", "loss", "learning_rate", "grad_norm"} and {"step", "validation_..."}.
    Raises TrainingError where the loss is not finite.
    """
    checkpoints = folder / "checkpoints"
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    horizon = settings.schedule_steps or settings.steps
    scheduler = get_scheduler(settings.schedule, optimizer, settings.warmup_steps, horizon)
    every = evaluate_every or max(1, settings.steps // 10)
    trainer = StepTrainer(
        model=model,
        loss=loss,
        validate=validate,
        train_dataset=_Steps(batches, settings.steps),
        eval_dataset=[],  # Trainer wants one to call evaluate(), which is ours and reads none
        optimizers=(optimizer, scheduler),
        args=_arguments(settings, checkpoints, model, every if validate else 0),
    )
    for callback in (PrinterCallback, ProgressCallback, *_notebook_callbacks()):
        trainer.remove_callback(callback)
    trainer.add_callback(_Progress(name, settings.steps))
    resume = last_checkpoint(checkpoints)
    if resume:
        print(f"  {name}: resuming from {resume.name}", flush=True)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    shutil.rmtree(checkpoints, ignore_errors=True)
    model.eval()
    return [row for entry in trainer.state.log_history if len(row := _repeatable(entry)) > 1]


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose writing was completed, or None."""
    found = [p.parent for p in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(found, key=lambda p: int(p.name.split("-")[1]), default=None)


def write_history(history: list[dict[str, float]], folder: Path) -> None:
    """Keep the history as `history.json` beside the weights."""
    (folder / "history.json").write_text(json.dumps(history, indent=1, sort_keys=True) + "\n")


def read_history(folder: Path) -> list[dict[str, float]]:
    """The history that `write_history` kept."""
    return json.loads((Path(folder) / "history.json").read_text())


def final(history: list[dict[str, float]]) -> dict[str, float]:
    """The last value of every number in a history, for a record."""
    return {k: v for row in history for k, v in row.items() if k not in ("step", "learning_rate", "grad_norm")}


def drawn(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Which of n titles optimiser step `step` (from 0) reads: a new permutation an epoch, whole batches only."""
    size = min(n, batch_size)
    epoch, k = divmod(step, n // size)
    return np.random.default_rng([seed, epoch]).permutation(n)[k * size : (k + 1) * size]


def train_titles(corpus: Corpus) -> list[str]:
    """The distinct titles of the training domains, in item order: what stage 2 learns from (paper sec. 4.1.3)."""
    return corpus.select(corpus.train_domains)[0].items["title"].unique(maintain_order=True).to_list()


def _arguments(settings: StageSettings, folder: Path, model: PreTrainedModel, evaluate_every: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        max_grad_norm=settings.clip,
        seed=settings.seed,
        per_device_train_batch_size=1,
        use_cpu=model.device.type == "cpu",
        report_to="none",
        logging_steps=max(1, math.ceil(settings.steps / 100)),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=2,
        eval_strategy="steps" if evaluate_every else "no",
        eval_steps=evaluate_every or None,
        eval_on_start=False,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        average_tokens_across_devices=False,
    )


def _only(items: list[list[MicroBatch]]) -> list[MicroBatch]:
    return items[0]


def _notebook_callbacks() -> list[type]:
    """In a kernel Trainer adds an HTML table that cannot show our validation numbers."""
    from transformers.utils import is_in_notebook

    if not is_in_notebook():
        return []
    from transformers.utils.notebook import NotebookProgressCallback

    return [NotebookProgressCallback]


def _repeatable(entry: dict[str, float]) -> dict[str, float]:
    """The step and the numbers of a log entry that repeat from run to run: no seconds, no rates."""
    kept = ("loss", "learning_rate", "grad_norm")
    return {"step": entry["step"]} | {k: v for k, v in entry.items() if k in kept or k.startswith("validation_")}
