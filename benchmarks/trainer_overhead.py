"""What the training loop costs beside the training: seconds a step of trainer.fit against a bare loop over the same steps.

    python benchmarks/trainer_overhead.py [--steps 60] [--repeats 5] [--batch-size 64]

Both read the same batches, compute the same loss, clip, and step a fused AdamW under the same schedule; the weights of
both must come out equal to the bit. The bare loop writes no checkpoint and keeps no history. Times alternate, and the
median of the paired ratios is told, so that a machine that slows down for a while slows both.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback, get_scheduler

from llm2rec_kit import settings as S
from llm2rec_kit.data import cleaning, sources
from llm2rec_kit.fitting import trainer
from llm2rec_kit.models import backbone
from llm2rec_kit.training import csft, samples


def parts(steps: int, batch_size: int):
    """(a function that makes a fresh model, batches, settings) of the demo's CSFT."""
    data = S.Data(synthetic_users=2400, synthetic_items=1200)
    corpus = cleaning.build_corpus(sources.load(data), data)
    seen, _ = corpus.select(corpus.train_domains)
    place = S.Backbone(device="cpu")
    _, tokenizer = backbone.make_tiny(seen.titles, place)
    settings = S.CSFT(steps=steps, batch_size=batch_size, learning_rate=1e-3, warmup_steps=10, save_every=10**6)
    prepared = samples.prepare(seen, seen.samples("train"), tokenizer, settings)
    batches = csft.Batches(prepared, settings, tokenizer.pad_token_id)
    return lambda: backbone.make_tiny(seen.titles, place)[0], batches, settings


class Clock(TrainerCallback):
    """(wall, CPU) seconds from the end of the first step to that of the last, before the checkpoint is written."""

    def on_step_end(self, args, state, control, **kwargs):  # noqa: D102
        self.stop = now()
        if state.global_step == 1:
            self.start = self.stop


def now() -> np.ndarray:
    """Wall time and CPU time of this process, seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def by_trainer(model, batches, settings) -> np.ndarray:
    """Seconds of trainer.fit."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer.fit("csft", model, batches, csft.compute_loss, settings, Path(folder), callbacks=[clock])
    return clock.stop - clock.start


def by_hand(model, batches, settings) -> np.ndarray:
    """Seconds of a loop of torch alone."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0, fused=True)
    scheduler = get_scheduler(settings.schedule, optimizer, settings.warmup_steps, settings.steps)
    model.train()
    for step in range(settings.steps):
        micros = batches[step]
        count = sum(int(micro["count"]) for micro in micros)
        for micro in micros:
            loss = csft.compute_loss(model, micro)[0] / count
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        scheduler.step()
        model.zero_grad()
        if step == 0:
            start = now()
    return now() - start


def short() -> dict[str, float]:
    """Ratio of the short form: processor time of the bare loop over that of `trainer.fit`, 25 steps of 16 samples."""
    torch.set_num_threads(1)
    fresh, batches, settings = parts(25, 16)
    ratios = [by_hand(fresh(), batches, settings)[1] / by_trainer(fresh(), batches, settings)[1] for _ in range(4)]
    return {"steps of 16 samples, torch alone over trainer.fit": float(np.median(ratios))}


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="samples a step (the demo's 64)")
    args = parser.parse_args()
    fresh, batches, settings = parts(args.steps, args.batch_size)
    seconds = {by_hand: [], by_trainer: []}
    same = True
    for _ in range(args.repeats):
        weights = []
        for way, found in seconds.items():
            model = fresh()
            found.append(way(model, batches, settings) / (settings.steps - 1))
            weights.append(model.state_dict())
        same &= all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    print(
        f"{args.steps} steps of {args.batch_size} samples, {torch.get_num_threads()} threads; weights equal to the bit: {same}"
    )
    for way, found in seconds.items():
        wall, cpu = np.median(found, axis=0) * 1e3
        print(f"{way.__name__:12} {wall:8.2f} ms a step, {cpu:8.2f} ms of CPU (medians of {args.repeats})")
    ratios = np.array(seconds[by_trainer]) / np.array(seconds[by_hand]) - 1
    for name, column in zip(("wall", "CPU"), ratios.T, strict=True):
        print(f"overhead, {name:4} {np.median(column):+7.2%} (median of pairs; {column.min():+.2%} to {column.max():+.2%})")


if __name__ == "__main__":
    main()
