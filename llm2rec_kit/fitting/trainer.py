"""What the three objectives share: optimiser steps, schedule, tuning, checkpoints, resume, history, many processes.

An objective gives two things: `batches`, a sequence whose item k is what optimiser step k reads (a list of
micro-batches), and `loss(model, micro_batch) -> (sum, count)`. A step's loss is the sum over its micro-batches divided by
the count over them, so how a batch is cut to fit memory does not change what is learned. Item k depends on the seed and
k alone, and so does the dropout of step k, which is why an interrupted training resumes on the very batch it lost.

The rest is transformers' Trainer: devices, DDP and FSDP, mixed precision, clipping, optimiser state. Its model is called
as `model(micro=...)` and returns the summed loss, because wrappers (DDP, FSDP, autocast) act on a model's own call.
"""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

from llm2rec_kit import settings as S
from llm2rec_kit.fitting import checkpoints, distributed, faulty_rows, live, lora, tracking
from llm2rec_kit.fitting.callbacks import Progress, SaveAsSet, Stop, exchange_callbacks
from llm2rec_kit.fitting.distributed import Batches, MicroBatch, Step, print_once
from llm2rec_kit.fitting.faulty_rows import Loss
from llm2rec_kit.models import backbone, kernels, mixed_blocks

Validate = Callable[[PreTrainedModel], dict[str, float]]


class TrainingError(RuntimeError):
    """Training that cannot go on; the message names the step and the last good checkpoint."""


def fit(
    name: str,
    model: PreTrainedModel,
    batches: Batches,
    loss: Loss,
    settings: S.Training,
    folder: Path,
    *,
    validate: Validate | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    new_tokens: Sequence[int] = (),
) -> list[dict[str, float]]:
    """Train `model` in place for `settings.steps` steps and return its history.

    Checkpoints go to `folder/checkpoints`, the newest whole one there is resumed from, and `write_history` removes them
    once the weights are saved. Afterwards the model is plain (adapters merged), in its former dtype, in eval mode.
    History rows are {"step", "loss", "learning_rate", "grad_norm"} and {"step", "validation_..."}; where there is a
    validation loss, a last one names the best and the kept step.

    `new_tokens` are ids whose embeddings know nothing yet: with adapters they are learned, too.
    Under torchrun or accelerate every process calls this with the same arguments; `batch_size` is that of all together.
    Under FSDP `model` stays in pieces, and the kept weights are read from the checkpoint of the kept step.
    An interrupt (the stop button, Ctrl-C) lets the step finish, saves it and raises KeyboardInterrupt. Raises
    TrainingError where a loss or gradient is not finite or a checkpoint cannot be written.
    """
    _refuse(settings, model, validate)
    transformers_logging.disable_progress_bar()  # of every checkpoint's "model shards"
    dtype, horizon = model.dtype, plan_steps(settings, batches)
    if horizon < settings.steps and settings.schedule != "constant_with_warmup":
        print_once(f"  {name}: the learning rate is 0 from step {horizon} on, where the planned decay ends")
    headless = any("chunks" in micro for micro in batches[0])
    trainer = StepTrainer(
        inner=model,
        loss=loss,
        validate=validate or (lambda model: {}),  # Trainer asks for none then
        settings=settings,
        horizon=horizon,
        model=_tuned(model, settings, new_tokens),
        train_dataset=_Steps(batches, settings.steps),
        eval_dataset=[],  # Trainer wants one to call evaluate(), which is ours and reads none
        args=_arguments(settings, folder / "checkpoints", model, validated=bool(validate), headless=headless),
    )
    bar = live.LiveBar(name, lambda: sum(map(_tokens, trainer.step_inputs)))
    exchange_callbacks(trainer, [Progress(name, settings.steps), bar, SaveAsSet(), *callbacks])
    with _use_own_kernels(model, settings), tracking.track(trainer, settings, folder):
        trainer.go(name)
    if not distributed.is_sharded():
        _leave_kept_weights(trainer, model, settings, dtype)
    return trainer.history()


def _leave_kept_weights(trainer: StepTrainer, model: PreTrainedModel, settings: S.Training, dtype: torch.dtype) -> None:
    trainer.restore_kept()
    if settings.tuning == "lora":
        lora.merge(trainer.model)
    backbone.moved(backbone.set_recomputing(model, False), dtype).eval()


def _refuse(settings: S.Training, model: PreTrainedModel, validate: Validate | None) -> None:
    """Raise SettingsError for settings that do not go together, or not with this machine; of the model as `check_head`."""
    tracking.check(settings)
    if settings.precision == "mixed" and _on_own_kernels(model) and not kernels.has_fast_bfloat16():
        raise S.SettingsError(f"{settings.prefix}_precision: mixed {kernels.EMULATED}")
    if validate is None and (settings.patience or settings.keep == "best"):
        raise S.SettingsError(
            f"{settings.prefix}_patience and {settings.prefix}_keep: best watch the validation loss, and there is no "
            "validation sample."
        )
    if settings.tuning == "lora" and distributed.is_sharded():
        raise S.SettingsError(
            f"{settings.prefix}_tuning: lora does not go with FSDP here. With adapters the frozen weights need no optimiser "
            "state and fit one GPU: start with torchrun, without FSDP."
        )
    backbone.check_head(model)


@contextlib.contextmanager
def _use_own_kernels(model: PreTrainedModel, settings: S.Training) -> Iterator[None]:
    mixed = settings.precision == "mixed" and _on_own_kernels(model)
    with mixed_blocks.use_fused_blocks(model, mixed), kernels.use_fast_linears(model):
        yield


def _on_own_kernels(model: PreTrainedModel) -> bool:
    """Whether mixed precision is `kernels.use_bfloat16` here; elsewhere it is torch's autocast."""
    return model.device.type == "cpu" and kernels.is_available()


def _tuned(model: PreTrainedModel, settings: S.Training, new_tokens: Sequence[int]) -> torch.nn.Module:
    """The model as the settings have it trained, in place; peft's wrapper of it with adapters."""
    if settings.precision == "mixed":
        model.float()
    backbone.set_recomputing(model, settings.gradient_checkpointing)
    return lora.attach(model, settings, new_tokens) if settings.tuning == "lora" else model


class StepTrainer(Trainer):
    """transformers' Trainer over whole optimiser steps, with our loss, our validation and sealed checkpoints."""

    model: Any  # the language model, or peft's wrapper of it
    train_dataset: _Steps

    def __init__(
        self, *, inner: PreTrainedModel, loss: Loss, validate: Validate, settings: S.Training, horizon: int, **kwargs: Any
    ) -> None:
        """`inner` is the language model itself, `model` the same or peft's wrapper of it; `horizon` the planned steps."""
        super().__init__(**kwargs)
        self.inner, self.sum_loss, self.validate, self.settings, self.horizon = inner, loss, validate, settings, horizon
        self.folder = Path(str(self.args.output_dir))
        self.pending = [0.0, 0]  # summed loss and number of the steps since the last log
        self.validated_at = self.saved_at = -1
        self.step_inputs: Step = []

    # -- a training from end to end ----------------------------------------------------------------------------------

    def go(self, name: str) -> None:
        """Train from the newest whole checkpoint to the end; one that is over already is only read."""
        found = distributed.broadcast(str(checkpoints.find_last(self.folder) or "") if distributed.rank() == 0 else "")
        if found:
            print_once(f"  {name}: resuming from {Path(found).name}")
            self.state = TrainerState.load_from_json(str(Path(found) / "trainer_state.json"))
            self.pending = checkpoints.read_marker(Path(found))["pending"]
            self.train_dataset.start = self.state.global_step
            if self.state.global_step >= self.settings.steps or self._patience_is_out():
                if not distributed.is_sharded():
                    self._load_from_checkpoint(found)
                return
        stop = Stop()
        self.add_callback(stop)
        try:
            with stop.listening(name), _called_as_loss(self.model, self.inner, self.sum_loss):
                self.train(resume_from_checkpoint=found or None)
        except KeyboardInterrupt:
            print_once(
                f"  {name}: interrupted. {self._last_sound()} Run the same cell or command again to go on from there."
            )
            raise
        if stop.asked:
            saved = f"{name}: interrupted after step {self.state.global_step} of {self.settings.steps}, which is saved."
            print_once(f"  {saved} Run the same cell or command again to go on from there.")
            raise KeyboardInterrupt(saved)

    def restore_kept(self) -> None:
        """Put the weights of the best validation back, where they are the ones to keep."""
        best = self._best_step()
        if self.settings.keep != "best" or best in (0, self.state.global_step):
            return
        checkpoint = checkpoints.locate(self.folder, best)
        if why := checkpoints.find_fault(checkpoint):
            raise TrainingError(f"The best weights, of step {best}, cannot be read from {checkpoint}: {why}.")
        self._load_from_checkpoint(str(checkpoint))

    def history(self) -> list[dict[str, float]]:
        """Collect the log's rows that repeat from run to run, and say which step is best and which is kept."""
        log = [(entry["step"], tracking.select_numbers(entry)) for entry in self.state.log_history]
        rows = [{"step": step} | numbers for step, numbers in log if numbers]
        if best := self._best_step():
            last = self.state.global_step
            kept = best if self.settings.keep == "best" else last
            rows.append({"step": last, "best_step": best, "best_validation_loss": self._losses()[best], "kept_step": kept})
        return rows

    # -- a step ------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Step]:
        """Load one item a step, in order: the batches have been drawn already, and `share` gives each process its rows."""
        return DataLoader(self.train_dataset, batch_size=None, sampler=SequentialSampler(self.train_dataset))

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Create the learning rate's decay over the planned steps, which may be more than are trained. Where they are fewer
        the rate stays as it ends: a cosine would climb again."""
        scheduler: Any = super().create_scheduler(self.horizon, optimizer)  # a LambdaLR, of each schedule of the settings
        scheduler.lr_lambdas = [functools.partial(_hold, rate, self.horizon) for rate in scheduler.lr_lambdas]
        return scheduler

    def training_step(self, model: torch.nn.Module, inputs: Step, num_items_in_batch: Any = None) -> torch.Tensor:  # type: ignore[override]  # an item of ours
        """Run the backward pass of every micro-batch; return the step's mean loss, over all processes."""
        model.train()
        seed = np.random.SeedSequence([self.args.seed, self.state.global_step, distributed.rank(), 3])
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
        count = max(1, sum(int(micro["count"]) for micro in inputs))  # no token of a step's titles may be hidden
        total = torch.zeros((), device=self.args.device)
        self.step_inputs = [distributed.share(micro) for micro in inputs]
        with self._products():
            for k, micro in enumerate(self.step_inputs, 1):
                # Gradients are exchanged once a step, in the last backward pass.
                with contextlib.nullcontext() if k == len(inputs) else self.accelerator.no_sync(model):
                    loss = model(micro=self._prepare_inputs(micro)) / count
                    self.accelerator.backward(loss * distributed.world_size())
                total += loss.detach() / (distributed.world_size() if "chunks" in micro else 1)
        value = distributed.all_reduce(total).item()
        self._check_finite("loss", value)
        self.pending = [self.pending[0] + value, self.pending[1] + 1]
        return total

    def _products(self) -> contextlib.AbstractContextManager[None]:
        """What mixed precision is on a CPU: one block a step, since weights are rounded once in it."""
        return kernels.use_bfloat16(self.settings.precision == "mixed" and _on_own_kernels(self.inner))

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor:
        norm: torch.Tensor = super()._get_grad_norm(model, grad_norm)
        self._check_finite("gradient", float(norm))
        return norm

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"The {what} of step {self.state.global_step + 1} is {value}: {self._blame(what)}. Training stopped before the "
                f"weights were changed. {self._last_sound()} A lower learning rate or float32 usually helps."
            )

    def _blame(self, what: str) -> str:
        """Where in the step (of this process) it is: the first row whose own loss, or gradient, is not finite."""
        if distributed.is_sharded():  # a model in pieces cannot be asked by one process alone
            return f"in one of its {len(self.step_inputs)} micro-batches"
        return faulty_rows.find_first_row(what, self.step_inputs, self.inner, self.sum_loss, self._prepare_inputs)

    # -- validation --------------------------------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Compute our validation numbers and log them at this step; Trainer asks twice at the last one."""
        if self.validated_at == self.state.global_step:
            return {}
        self.validated_at = self.state.global_step
        with self.accelerator.autocast(), self._products():
            numbers = distributed.broadcast(self.validate(self.inner))
        found = {f"validation_{k}": v for k, v in numbers.items()}
        self.log(dict(found))
        self._weigh(found)
        return found

    def _weigh(self, found: dict[str, float]) -> None:
        """Have the best weights saved, and the training stopped where patience is out."""
        if not self.settings.patience and self.settings.keep == "last":
            return
        if not math.isfinite(found.get("validation_loss", math.nan)):
            raise TrainingError(
                f"{self.settings.prefix}_patience and {self.settings.prefix}_keep need a finite validation loss; found "
                f"{found} after step {self.state.global_step}. {self._last_sound()}"
            )
        out = self._patience_is_out()
        self.control.should_training_stop |= out
        self.control.should_save |= out or (self.settings.keep == "best" and self._best_step() == self.state.global_step)

    def _losses(self) -> dict[int, float]:
        """Validation losses by step."""
        return {int(row["step"]): row["validation_loss"] for row in self.state.log_history if "validation_loss" in row}

    def _best_step(self) -> int:
        """The first step with the lowest validation loss; 0 where there is none."""
        losses = self._losses()
        return min(losses, key=losses.__getitem__, default=0)

    def _patience_is_out(self) -> bool:
        since = sum(step > self._best_step() for step in self._losses())
        return 0 < self.settings.patience <= since

    # -- log and checkpoints -----------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as Trainer does, with a mean loss that a resumed training counts as an uninterrupted one does."""
        if "loss" in logs:
            logs["loss"] = self.pending[0] / self.pending[1]
            self.pending = [0.0, 0]
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0, not counted: transformers' estimate knows nothing of shared prefixes."""
        return 0

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing to save: every step seeds itself."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing to load: every step seeds itself."""

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raise TrainingError on missing or unknown weights; a tied head, saved as the embedding, may be missing."""
        tied = getattr(self.inner, "_tied_weights_keys", None) or ()
        wrong = [k for k in load_result.missing_keys if k not in tied] + list(load_result.unexpected_keys)
        if wrong:
            raise TrainingError(f"A checkpoint in {self.args.output_dir} is of another model: {wrong[:5]} do not match.")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write, seal, and only then remove older ones; Trainer asks twice at the last step."""
        step, folder = self.state.global_step, self.folder
        if self.saved_at == step:
            return
        target = checkpoints.locate(folder, step)
        try:
            if self.args.should_save:
                checkpoints.remove(target)
            distributed.barrier()
            super()._save_checkpoint(model, trial)
            distributed.barrier()
            if self.args.should_save:
                checkpoints.seal(target, {"pending": self.pending})
                checkpoints.prune(folder, {step, self.saved_at, self._best_step() if self.settings.keep == "best" else step})
        except Exception as error:  # whatever a writer raises (OSError, SafetensorError, RuntimeError), it did not write
            checkpoints.remove(target)
            free = shutil.disk_usage(folder).free / 2**20 if folder.is_dir() else 0
            raise TrainingError(
                f"The checkpoint of step {step} could not be written to {target}: {error} ({free:,.0f} MiB are free there). "
                f"{self._last_sound()} Make room and run the same cell or command again."
            ) from error
        self.saved_at = step

    def _last_sound(self) -> str:
        if found := checkpoints.find_last(self.folder):
            return f"The last checkpoint is that of step {checkpoints.step_of(found)}."
        return "There is no checkpoint yet."


class _Steps(torch.utils.data.Dataset[Step]):
    """Items `start`, `start` + 1, ... of `batches`, for a DataLoader that reads them in order."""

    def __init__(self, batches: Batches, steps: int) -> None:
        self.batches, self.steps, self.start = batches, steps, 0

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, k: int) -> Step:
        return self.batches[self.start + k]


@contextlib.contextmanager
def _called_as_loss(model: torch.nn.Module, inner: PreTrainedModel, loss: Loss) -> Iterator[None]:
    """While open, `model(micro=...)` is the summed loss of a micro-batch; any other call is the model's own."""
    own = model.forward

    @functools.wraps(own)
    def forward(*args: Any, micro: MicroBatch | None = None, **kwargs: Any) -> Any:
        return own(*args, **kwargs) if micro is None else loss(inner, micro)[0]

    model.forward = forward
    try:
        yield
    finally:
        for name in ("forward", "_original_forward"):  # the second is accelerate's, under mixed precision
            model.__dict__.pop(name, None)


def _hold(rate: Callable[[int], float], last: int, step: int) -> float:
    """`rate` of a step, and after step `last` what it was there."""
    return rate(min(step, last))


def _tokens(micro: MicroBatch) -> int:
    """How many tokens a micro-batch has, padding included."""
    return sum(part["input_ids"].numel() for part in micro.get("chunks", [micro]))


def plan_steps(settings: S.Training, batches: Batches) -> int:
    """Count the steps over which the learning rate decays: a number, epochs (official code), or all steps that are trained.

    An epoch is `batches.steps_per_epoch` steps. Raises SettingsError where both ways are set.
    """
    settings.check(("schedule_steps", "schedule_epochs"))
    if settings.schedule_epochs:
        return settings.schedule_epochs * batches.steps_per_epoch
    return settings.schedule_steps or settings.steps


def _arguments(
    settings: S.Training, folder: Path, model: PreTrainedModel, *, validated: bool, headless: bool
) -> TrainingArguments:
    """`headless` says that the loss does not use the language-model head, so that it may get no gradient."""
    on_cpu = model.device.type == "cpu"
    every = settings.evaluate_every or max(1, settings.steps // 10)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        optim="adamw_torch_fused",
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.clip,
        bf16=settings.precision == "mixed" and not _on_own_kernels(model),
        seed=settings.seed,
        per_device_train_batch_size=1,
        use_cpu=on_cpu,
        ddp_find_unused_parameters=headless and not model.config.tie_word_embeddings,
        report_to="none",
        logging_steps=max(1, math.ceil(settings.steps / 100)),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        save_strategy="steps",
        save_steps=settings.save_every,
        eval_strategy="steps" if validated else "no",
        eval_steps=every if validated else None,
        ignore_data_skip=True,  # the batches begin at the step that is resumed
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        average_tokens_across_devices=False,
    )
    # Several GPUs in one process would mean nn.DataParallel, which knows nothing of our batches; torchrun is the way.
    arguments._n_gpu = min(1, arguments.n_gpu)
    arguments.report_to = []  # what "none" leaves in where a cluster's variable asks for it; `tracking` sends what is asked for
    return arguments
