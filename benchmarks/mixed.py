"""Mixed precision on a CPU: CSFT of SmolLM2-135M and encoding with it beside float32, its memory, and `tiny` on a busy machine.

    python benchmarks/mixed.py --corpus RUN/corpus                     everything, eight minutes on two quiet cores
    python benchmarks/mixed.py --corpus RUN/corpus --parts csft,memory
    python benchmarks/mixed.py --corpus RUN/corpus --parts csft --layers 8 --steps 1     a look, on a busy machine

`--corpus` is a run's corpus (games, for instance), `--model` a folder or `smollm2`, as `llm2rec fetch smollm2` leaves it. Each part
is a process of its own. Ways that are compared take turns on the same steps or titles. Seconds are the clock's, processor seconds stand
beside them, and what is told of peaks is of products of this model's shape, measured right before on as many threads.

csft    whole steps (forward, backward, clip, AdamW), spread over the lengths of an epoch's steps
memory  the kernel's mark while the step with the largest forward pass is made, twice, at the default csft_batch_tokens
loss    validation loss after --loss-steps steps of --loss-batch samples, from the same start on the same samples
encode  all titles; with products in bfloat16, and how near that comes (cosine)
busy    `tiny`: a training and an encoding alone, then with --loops busy loops beside it; the fair share of a thread is the number of
        cores over the number of loops and threads
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from csft import shared_work

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.encoding.encoder import Encoder
from llm2rec_kit.encoding.tokenisation import tokenise_titles
from llm2rec_kit.models import backbone, kernels, mixed_blocks
from llm2rec_kit.runs import meter
from llm2rec_kit.training import csft
from llm2rec_kit.training.samples import prepare

WAYS = {"float32": False, "mixed": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of a run's corpus")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, in this order (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="0: one a core")
    parser.add_argument("--layers", type=int, default=0, help="keep so many of the model's layers; 0: all")
    parser.add_argument("--steps", type=int, default=4, help="csft: steps timed (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="csft, memory: samples a step (default: %(default)s)")
    parser.add_argument("--loss-steps", type=int, default=100)
    parser.add_argument("--loss-batch", type=int, default=6)
    parser.add_argument("--titles", type=int, default=0, help="encode: so many titles; 0: all")
    parser.add_argument("--loops", type=int, default=8, help="busy: loops beside it (default: %(default)s)")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)  # what a process of its own is to do
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    if asked.part:
        name, _, way = asked.part.partition(":")
        PARTS[name](asked, way)
        return
    for name in asked.parts.split(","):
        for way in WAYS if name in ("memory", "loss") else ("",):
            began, words = time.perf_counter(), [*sys.argv[1:], "--part", f"{name}:{way}"]
            subprocess.run([sys.executable, __file__, *words], check=True)
            print(f"  ({name} {way}: {time.perf_counter() - began:.0f} s in all)\n", flush=True)


# -- what the parts share -------------------------------------------------------------------------------------------


def loaded(asked: argparse.Namespace) -> tuple[Any, Any]:
    """The model with float32 weights, in training mode, and its tokenizer."""
    with contextlib.redirect_stdout(sys.stderr):
        model, tokenizer = backbone.load(asked.model, S.Backbone(name=asked.model, dtype="float32", device="cpu"))
    if asked.layers:
        model.model.layers = model.model.layers[: asked.layers]
        model.config.num_hidden_layers = asked.layers
    backbone.restore_causal_mask(model)
    return model.train(), tokenizer


def batches_of(asked: argparse.Namespace, tokenizer: Any, folder: str, split: str = "train", **how: Any) -> csft.Batches:
    corpus = Corpus.load(asked.corpus)
    part, _ = corpus.select(corpus.train_domains)
    settings = S.CSFT(**{"batch_size": asked.batch} | how)
    chosen = part.samples(split)
    if split != "train":
        chosen = np.random.default_rng(0).permutation(chosen)[:200]
    return csft.Batches(prepare(part, chosen, tokenizer, settings, Path(folder) / split), settings, tokenizer.pad_token_id)


def step(model: Any, optimizer: Any, micros: list[dict[str, Any]], low: bool) -> None:
    """One optimiser step, as the trainer makes it."""
    optimizer.zero_grad()
    count = sum(int(m["count"]) for m in micros)
    with kernels.use_bfloat16(low):
        for micro in micros:
            (csft.compute_loss(model, micro)[0] / count).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def peak(dtype: torch.dtype) -> float:
    """GFLOP a second of the clock in a product of 2,048 x 1,536 x 576, the best of twenty."""
    a, b = torch.randn(2048, 576).to(dtype), torch.randn(1536, 576).to(dtype)
    return 2 * 2048 * 576 * 1536 / 1e9 / min(timed(lambda: kernels.multiply(a, b))[0] for _ in range(20))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(seconds of the clock, processor seconds) of one call."""
    began = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def told(name: str, seconds: tuple[float, float], *more: str) -> None:
    print(f"  {name:34}{seconds[0]:8.2f} s{seconds[1]:9.2f} processor s   {'   '.join(more)}", flush=True)


# -- the parts --------------------------------------------------------------------------------------------------------


def run_csft(asked: argparse.Namespace, way: str) -> None:
    model, tokenizer = loaded(asked)
    with tempfile.TemporaryDirectory() as folder:
        batches = batches_of(asked, tokenizer, folder, steps=1000)
        plan = batches.plan(0)
        order = np.argsort([batches.samples.lengths[rows].sum() for rows in plan], kind="stable")
        at = ((np.arange(asked.steps) + 0.5) * len(plan) / asked.steps).astype(int)
        steps = [list(csft.cut_micro_batches(batches.samples, plan[order[k]], batches.settings, batches.pad_id)) for k in at]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-7, fused=True)
    spent = {name: np.zeros(2) for name in WAYS}
    with mixed_blocks.use_fused_blocks(model), kernels.use_fast_linears(model):
        for low in WAYS.values():
            step(model, optimizer, steps[0], low)  # kernels are compiled
        for micros in steps:
            for name, low in WAYS.items():
                spent[name] += timed(lambda micros=micros, low=low: step(model, optimizer, micros, low))
    work = sum(shared_work(model, micros).operations for micros in steps) / 1e9
    tokens = sum(m["input_ids"].numel() for micros in steps for m in micros)
    tops = {name: peak(torch.bfloat16 if low else torch.float32) for name, low in WAYS.items()}
    print(
        f"CSFT, {asked.steps} steps of {asked.batch} samples, {tokens:,} tokens, {work:,.0f} GFLOP, "
        f"{torch.get_num_threads()} threads; products reach {tops['float32']:.0f} GFLOP/s in float32, {tops['mixed']:.0f} in bfloat16"
    )
    for name, seconds in spent.items():
        factor = spent["float32"] / seconds
        share = work / seconds[0] / tops[name]
        told(name, seconds, f"{share:.0%} of its peak", f"{factor[0]:.2f}x ({factor[1]:.2f}x by processor seconds)")


def run_memory(asked: argparse.Namespace, way: str) -> None:
    model, tokenizer = loaded(asked)
    with tempfile.TemporaryDirectory() as folder:
        batches = batches_of(asked, tokenizer, folder, steps=1000)
        plan = batches.plan(0)
        most = max(plan, key=lambda rows: min(batches.samples.lengths[rows].sum(), batches.settings.batch_tokens))
        micros = list(csft.cut_micro_batches(batches.samples, most, batches.settings, batches.pad_id))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-7, fused=True)
    with mixed_blocks.use_fused_blocks(model), kernels.use_fast_linears(model), meter.PeakMemory() as memory:
        seconds = timed(lambda: [step(model, optimizer, micros, WAYS[way]) for _ in range(2)])
        mib = memory.read()["peak_memory_mib"]
    tokens = " + ".join(str(m["input_ids"].numel()) for m in micros)
    told(f"memory, {way}", seconds, f"{mib / 1024:.2f} GiB = {mib * 2**20 / 1e9:.2f} GB at most", f"tokens {tokens}")


def run_loss(asked: argparse.Namespace, way: str) -> None:
    model, tokenizer = loaded(asked)
    how = {"steps": asked.loss_steps, "batch_size": asked.loss_batch, "learning_rate": 1e-4}
    with tempfile.TemporaryDirectory() as folder:
        batches = batches_of(asked, tokenizer, folder, **how)
        held = batches_of(asked, tokenizer, folder, "valid", **how)
        steps = [batches[k] for k in range(asked.loss_steps)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    with mixed_blocks.use_fused_blocks(model), kernels.use_fast_linears(model):
        seconds = timed(lambda: [step(model, optimizer, micros, WAYS[way]) for micros in steps])
        with kernels.use_bfloat16(WAYS[way]):
            own = csft.validate(model, held.samples, held.settings, held.pad_id)["loss"]
        exact = csft.validate(model, held.samples, held.settings, held.pad_id)["loss"]
    told(
        f"loss, {way}, {asked.loss_steps} steps of {asked.loss_batch}",
        seconds,
        f"validation loss {own:.4f}, its weights in float32 {exact:.4f}",
    )


def run_encode(asked: argparse.Namespace, way: str) -> None:
    titles = list(Corpus.load(asked.corpus).titles)
    titles = titles[: asked.titles or len(titles)]
    found, spent = {}, {}
    model, tokenizer = loaded(asked)
    subject = Encoder(model.eval(), tokenizer, S.Encoding())
    tokens = sum(map(len, tokenise_titles(tokenizer, titles, 512)))
    work = 2 * tokens * sum(p.numel() for n, p in model.named_parameters() if "layers" in n and p.dim() == 2) / 1e9

    def encode(name: str) -> None:
        found[name] = subject.encode(titles)

    subject.encode(titles[:64])
    with mixed_blocks.use_fused_blocks(model):
        for name, low in WAYS.items():
            with kernels.use_bfloat16(low):
                spent[name] = timed(lambda name=name: encode(name))
    model.bfloat16()
    spent["backbone_dtype: bfloat16"] = timed(lambda: encode("backbone_dtype: bfloat16"))
    top = peak(torch.float32)
    print(
        f"{len(titles):,} titles, {tokens:,} tokens, {work:,.0f} GFLOP in the linear layers; float32's peak {top:.0f} GFLOP/s"
    )
    for name, seconds in spent.items():
        a, b = found["float32"], found[name]
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        told(
            name,
            seconds,
            f"{work / seconds[0] / top:.0%} of float32's peak",
            f"{spent['float32'][0] / seconds[0]:.2f}x",
            f"cosine {cosines.min():.5f} at least, {np.median(cosines):.5f} in the middle, {(cosines < 0.9995).mean():.1%} below 0.9995",
        )


def run_busy(asked: argparse.Namespace, way: str) -> None:
    titles = list(Corpus.load(asked.corpus).titles)[:1160]
    model, tokenizer = backbone.make_tiny(titles, S.Backbone(device="cpu"))
    with tempfile.TemporaryDirectory() as folder:
        batches = batches_of(asked, tokenizer, folder, steps=10, batch_size=64)
        steps = [batches[k] for k in range(6)]
    optimizer, subject = torch.optim.AdamW(model.parameters(), lr=1e-7, fused=True), Encoder(model, tokenizer, S.Encoding())

    def train() -> None:
        backbone.restore_causal_mask(model)
        model.train()
        with kernels.use_fast_linears(model):
            for micros in steps:
                step(model, optimizer, micros, False)

    def encode() -> None:
        backbone.lift_causal_mask(model)
        subject.encode(titles)

    kinds = {"training": train, "encoding": encode}
    for work in kinds.values():
        work()
    alone = {name: timed(work) for name, work in kinds.items()}
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(asked.loops)]
    try:
        time.sleep(1)
        beside = {name: timed(work) for name, work in kinds.items()}
    finally:
        for loop in loops:
            loop.kill()
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    share = min(threads, cores * threads / (asked.loops + threads))
    print(f"`tiny` alone and with {asked.loops} busy loops on {cores} cores; its fair share is {share:.2f} cores")
    for name in kinds:
        told(f"{name}, alone", alone[name])
        fair = alone[name][1] / share
        told(f"{name}, beside the loops", beside[name], f"{beside[name][0] / fair:.2f}x of the {fair:.2f} s that are fair")


PARTS = {"csft": run_csft, "memory": run_memory, "loss": run_loss, "encode": run_encode, "busy": run_busy}

if __name__ == "__main__":
    main()
