"""CSFT with shared prefixes against the plain way, on the same samples with the same model; and how fast samples are prepared.

    python benchmarks/csft.py --data FOLDER               games.item and games.test.inter (RecBole), a mid-size model, CPU
    python benchmarks/csft.py --data FOLDER --device cuda --config qwen2-0.5b
    python benchmarks/csft.py --prepare 1000000           prepare so many samples of a generated store

The plain way is how fine-tuning is usually written: one left-padded row a sample (to a multiple of 8, as the official code
pads), labels -100 on history and padding, transformers' own loss with logits at every position. Its micro-batches are drawn
at random; the official code takes 4 samples in each. Both ways sum gradients up to `--batch` samples, then step AdamW.

Each way runs in a process of its own, so that its peak memory is its own. On a CPU the factor is that of processor time,
which other programs on the machine disturb least; wall time is printed beside it. The prediction is arithmetic alone: 6 floating
point operations a weight and token, 12 L^2 d for the attention of a row of L tokens in a layer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import TEST, TRAIN, VALID, Corpus
from llm2rec_kit.data import cleaning, sources

CONFIGS = {
    "tiny": {"hidden": 32, "inner": 96, "layers": 2, "heads": 2, "kv_heads": 2, "vocabulary": 2000},
    "small": {"hidden": 128, "inner": 384, "layers": 3, "heads": 2, "kv_heads": 2, "vocabulary": 2000},
    "mid": {"hidden": 256, "inner": 768, "layers": 6, "heads": 4, "kv_heads": 4, "vocabulary": 32000},
    "qwen2-0.5b": {"hidden": 896, "inner": 4864, "layers": 24, "heads": 14, "kv_heads": 2, "vocabulary": 151936},
}
PEAKS = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "T4": 65e12,
}  # bf16 (T4: fp16) FLOP/s
PAPER_SAMPLES = 10_000 * 128
T4_HOURS = 145  # one reproduction's 10,000 steps on a T4


@dataclass(frozen=True)
class Work:
    """What a way of training has to do: padded tokens, of them those with logits, floating point operations."""

    tokens: int
    logits: int
    operations: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="folder of RecBole files; empty: the kit's synthetic store")
    parser.add_argument("--config", default="mid", choices=CONFIGS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=128, help="samples a step")
    parser.add_argument("--steps", type=int, default=8, help="steps timed, spread over the lengths of an epoch's steps")
    parser.add_argument("--plain", default="4,16,128", help="samples in a micro-batch of the plain way, one run each")
    parser.add_argument("--prepare", type=int, default=0, help="measure the preparation of so many samples instead")
    parser.add_argument("--threads", type=int, default=0, help="threads on a CPU; 0: one a core")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model's body in every run")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)  # what a process of its own is to do
    arguments = parser.parse_args()
    if arguments.part:
        part = json.loads(arguments.part)
        print("RESULT " + json.dumps(PARTS[part["do"]](arguments, part)))
    elif arguments.prepare:
        report_preparation(arguments)
    else:
        report_training(arguments)


def alone(arguments: argparse.Namespace, part: dict[str, Any]) -> dict[str, Any]:
    """Do one part in a process of its own and return what it found."""
    given = [f"--{k}={v}" for k, v in vars(arguments).items() if k not in ("part", "compile")]
    given += ["--compile"] if arguments.compile else []
    done = subprocess.run(
        [sys.executable, __file__, *given, "--part", json.dumps(part)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])


# -- training ---------------------------------------------------------------------------------------------------------


def report_training(arguments: argparse.Namespace) -> None:
    """Run every way and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        ways = [{"do": "train", "way": "shared", "folder": folder}]
        ways += [{"do": "train", "way": "plain", "micro": int(m), "folder": folder} for m in arguments.plain.split(",")]
        found = []
        for way in ways:
            found.append(alone(arguments, way))
            print(f"  {name_of(found[-1])}: {found[-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
        gradients = [np.load(f["gradient"]) for f in found]
    shared = found[0]
    print(
        f"{shared['corpus']}; {shared['model']} on {shared['device']}, {shared['samples']} samples in {arguments.steps} "
        f"steps\nmatrix products at best {shared['peak'] / 1e9:,.0f} GFLOP a second of "
        f"{'one core' if arguments.device == 'cpu' else 'the card'}"
    )
    print(
        f"{'':24}{'samples/s':>10}{'tokens':>8}{'logits':>8}{'memory':>10}{'of peak':>9}"
        f"{'predicted':>11}{'processor':>11}{'wall':>7}"
    )
    for f in found:
        print(
            f"{name_of(f):24}{f['samples'] / f['wall']:10.1f}{f['tokens'] / f['samples']:8.1f}{f['logits'] / f['samples']:8.1f}"
            f"{f['memory_mib']:7.0f}MiB{f['operations'] / f['seconds'] / f['peak']:9.0%}"
            f"{f['operations'] / shared['operations']:10.1f}x{f['seconds'] / shared['seconds']:10.1f}x"
            f"{f['wall'] / shared['wall']:6.1f}x"
        )
    print("tokens, logits: a sample, with padding. predicted, processor, wall: how much longer than shared prefixes.\n")
    for f, gradient in zip(found, gradients, strict=True):
        off = np.abs(gradient - gradients[0]).max() / np.abs(gradients[0]).max()
        print(
            f"{name_of(f):24} loss of the same {f['checked']} target tokens {f['loss']:.7f}, gradient off by {off:.1e} of its largest"
        )
    print(f"\nshared prefixes, where the time goes: {', '.join(f'{k} {v:.0%}' for k, v in shared['shares'].items())}")
    if arguments.device == "cuda":
        hours = PAPER_SAMPLES / (shared["samples"] / shared["wall"]) / 3600
        print(
            f"{shared['tokens'] / shared['wall']:,.0f} tokens a second, {utilisation(shared)}; the paper's 10,000 steps of "
            f"128 would take {hours:.1f} h (one reproduction: {T4_HOURS} h on a T4)"
        )


def short() -> dict[str, float]:
    """Ratio of the short form: the plain way's time over that with shared prefixes, two steps of 64 of the synthetic store."""
    import torch

    from llm2rec_kit.models import backbone, kernels
    from llm2rec_kit.training import csft, prefix_attention

    torch.set_num_threads(1)
    corpus = load("")
    tokenizer = backbone.train_tokenizer(corpus.titles, CONFIGS["small"]["vocabulary"])
    settings = S.CSFT(batch_size=64, batch_tokens=8192)
    batches, chosen = representative(corpus, tokenizer, settings, 2)
    model = make_model(argparse.Namespace(config="small", device="cpu"), tokenizer)
    shared, plain = (
        [shared_step(batches, rows) for rows in chosen],
        plain_groups(batches, chosen, tokenizer, 16, settings)[0],
    )
    kernel, _ = prefix_attention.choose_kernel(model, batches[0][0])
    ratios = []
    for _ in range(4):
        with prefix_attention.use_kernel(model, kernel), kernels.use_fast_linears(model):  # as `csft.train` does
            own = timed(model, csft.compute_loss, shared, time.process_time)[1]
        ratios.append(timed(model, plain_loss, plain, time.process_time)[1] / own)
    return {"steps of fine-tuning, plain (micro-batch 16) over shared prefixes": float(np.median(ratios[1:]))}


def name_of(found: dict[str, Any]) -> str:
    return "shared prefixes" if found["way"] == "shared" else f"plain, micro-batch {found['micro']}"


def utilisation(found: dict[str, Any]) -> str:
    """Model FLOPs utilisation, against the card's data sheet where it is known."""
    rate = found["operations"] / found["seconds"]
    known = next((peak for card, peak in PEAKS.items() if card in found["device"]), 0)
    return f"{rate / known:.0%} of the card's peak" if known else f"{rate / 1e12:.1f} TFLOP/s"


def run_training(arguments: argparse.Namespace, part: dict[str, Any]) -> dict[str, Any]:
    """One way: loss and gradient of one step's samples, then the timed steps."""
    import torch

    from llm2rec_kit.models import backbone, kernels
    from llm2rec_kit.runs import meter
    from llm2rec_kit.training import csft, prefix_attention

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    corpus = load(arguments.data)
    tokenizer = backbone.train_tokenizer(corpus.titles, min(CONFIGS[arguments.config]["vocabulary"], 32000))
    settings = S.CSFT(batch_size=arguments.batch, batch_tokens=8192 if arguments.device == "cpu" else 65536)
    batches, chosen = representative(corpus, tokenizer, settings, arguments.steps)
    model = make_model(arguments, tokenizer)
    if part["way"] == "shared":
        reason = prefix_attention.choose_kernel(model, on(batches[0][0], model))
        print(*reason, sep=": ", file=sys.stderr)
        model.set_attn_implementation(reason[0])
        loss, groups = csft.compute_loss, [shared_step(batches, rows) for rows in chosen]
        check = groups[len(groups) // 2]
        work = shared_work(model, [micro for group in groups for micro in group()])
    else:
        loss = plain_loss
        groups, check = plain_groups(batches, chosen, tokenizer, part["micro"], settings)
        work = plain_work(model, [micro for group in groups for micro in group()])
    if arguments.compile:
        backbone.find_body(model).compile(dynamic=True)
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    with kernels.use_fast_linears(model) if part["way"] == "shared" else contextlib.nullcontext():  # as `csft.train` does
        value, checked = backward(model, loss, check())
        gradient = Path(part["folder"]) / f"{part['way']}{part.get('micro', '')}.npy"
        np.save(gradient, torch.cat([p.grad.float().flatten() for p in model.parameters()]).cpu().numpy())
        with meter.PeakMemory() as peak:
            wall, seconds, loading = timed(model, loss, groups, clock)
            memory = (
                peak.read()["peak_memory_mib"] if arguments.device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
            )
        spent = shares(model, loss, check) | {"loading data": loading / seconds} if part["way"] == "shared" else {}
    samples = sum(int(batches.samples.counts[rows].sum()) for rows in chosen)
    return part | {
        "corpus": f"{corpus.facts['source']} data, {len(batches.samples):,} training samples",
        "model": f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters",
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "samples": samples,
        "checked": int(checked),
        "loss": value,
        "gradient": str(gradient),
        "wall": wall,
        "seconds": seconds,
        "memory_mib": memory,
        "peak": matmul_peak(model, clock),
        "shares": spent,
        **vars(work),
    }


def load(path: str) -> Corpus:
    data = S.Data(source="recbole", path=path) if path else S.Data(synthetic_users=400, synthetic_items=200)
    corpus = cleaning.build_corpus(sources.load(data), data)
    return corpus.select(corpus.train_domains)[0]


def representative(corpus: Corpus, tokenizer: Any, settings: S.CSFT, steps: int) -> tuple[Any, list[np.ndarray]]:
    """The batches, and the rows of `steps` steps of the first epoch, spread evenly over the steps sorted by tokens."""
    from llm2rec_kit.training import csft
    from llm2rec_kit.training.samples import prepare

    batches = csft.Batches(prepare(corpus, corpus.samples("train"), tokenizer, settings), settings, tokenizer.pad_token_id)
    plan = batches.plan(0)
    order = np.argsort([batches.samples.lengths[rows].sum() for rows in plan], kind="stable")
    at = ((np.arange(steps) + 0.5) * len(plan) / steps).astype(int)
    return batches, [plan[order[k]] for k in at]


def make_model(arguments: argparse.Namespace, tokenizer: Any) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    size = CONFIGS[arguments.config]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=size["vocabulary"],
        hidden_size=size["hidden"],
        intermediate_size=size["inner"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv_heads"],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
    )
    dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    return Qwen2ForCausalLM(config).to(device=arguments.device, dtype=dtype).train()


def on(micro: dict[str, Any], model: Any) -> dict[str, Any]:
    return {k: v.to(model.device) for k, v in micro.items()}


def shared_step(batches: Any, rows: np.ndarray) -> Any:
    from llm2rec_kit.training import csft

    return lambda: list(csft.cut_micro_batches(batches.samples, rows, batches.settings, batches.pad_id))


def plain_groups(batches: Any, chosen: list[np.ndarray], tokenizer: Any, micro: int, settings: S.CSFT) -> tuple[list, Any]:
    """The same samples shuffled and put together `micro` at a time; and, to check, those of the step that shared checks."""
    from llm2rec_kit.fitting.ragged import index_spans

    held = [index_spans(batches.samples.first[rows], batches.samples.counts[rows]) for rows in chosen]
    order = np.random.default_rng(0).permutation(np.concatenate(held))

    def group(which: np.ndarray) -> Any:
        parts = np.split(which, range(micro, len(which), micro))
        return lambda: [left_padded(batches.samples, part, tokenizer.pad_token_id) for part in parts]

    groups = [group(part) for part in np.array_split(order, len(chosen))]
    return groups, group(held[len(held) // 2])


def left_padded(samples: Any, which: np.ndarray, pad_id: int) -> dict[str, Any]:
    """Samples as transformers' collator for language models pads them."""
    import torch

    pairs = [samples.alone(s) for s in which]
    longest = -(-max(len(h) + len(a) for h, a in pairs) // 8) * 8
    ids, labels = (np.full((len(pairs), longest), fill, dtype=np.int64) for fill in (pad_id, -100))
    seen = np.zeros_like(ids)
    for k, (history, answer) in enumerate(pairs):
        ids[k, longest - len(history) - len(answer) :] = np.concatenate([history, answer])
        labels[k, longest - len(answer) :] = answer
        seen[k, longest - len(history) - len(answer) :] = 1
    found = {"input_ids": ids, "attention_mask": seen, "labels": labels, "count": np.array((labels >= 0).sum())}
    return {k: torch.from_numpy(v) for k, v in found.items()}


def plain_loss(model: Any, micro: dict[str, Any]) -> tuple[Any, int]:
    """transformers' own loss, as a sum over the target tokens."""
    count = micro["count"]
    given = {k: micro[k] for k in ("input_ids", "attention_mask", "labels")}
    return model(**given, num_items_in_batch=count).loss * count, int(count)


def backward(model: Any, loss: Any, micros: list[dict[str, Any]]) -> tuple[float, int]:
    """Mean loss over the target tokens of a step and their gradient; (loss, target tokens)."""
    count, total = sum(int(m["count"]) for m in micros), 0.0
    for micro in micros:
        value = loss(model, on(micro, model))[0] / count
        value.backward()
        total += value.item()
    return total, count


def timed(model: Any, loss: Any, groups: list, clock: Any) -> tuple[float, float, float]:
    """Seconds of all steps with loading, backward pass and AdamW, by the wall's clock and by `clock`; of loading by `clock`."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0, fused=True)
    optimizer.step()  # its states are made here, outside the measurement, and the check's backward pass has warmed up
    wall, begun, loading = time.perf_counter(), clock(), 0.0
    for group in groups:
        before = clock()
        micros = group()
        loading += clock() - before
        optimizer.zero_grad()
        backward(model, loss, micros)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, clock() - begun, loading


def weights(model: Any) -> tuple[int, int, int]:
    """Weights that every token passes: of the body, of them the last feed-forward block's; and of the head."""
    config = model.config
    kv = config.hidden_size * config.num_key_value_heads // config.num_attention_heads
    block = 3 * config.hidden_size * config.intermediate_size
    layer = 2 * config.hidden_size**2 + 2 * config.hidden_size * kv + block
    return layer * config.num_hidden_layers, block, config.hidden_size * config.vocab_size


def shared_work(model: Any, micros: list[dict[str, Any]]) -> Work:
    body, block, head = weights(model)
    labels = sum(int(m["count"]) for m in micros)
    tokens = sum(m["input_ids"].numel() for m in micros)
    products = 6 * ((body - block) * tokens + (block + head) * labels)
    return Work(tokens, labels, products + attention_work(model, micros))


def plain_work(model: Any, micros: list[dict[str, Any]]) -> Work:
    body, _, head = weights(model)
    tokens = sum(m["input_ids"].numel() for m in micros)
    return Work(tokens, tokens, 6 * (body + head) * tokens + attention_work(model, micros))


def attention_work(model: Any, micros: list[dict[str, Any]]) -> float:
    squares = sum(m["input_ids"].shape[0] * m["input_ids"].shape[1] ** 2 for m in micros)
    return 12.0 * squares * model.config.hidden_size * model.config.num_hidden_layers


def matmul_peak(model: Any, clock: Any, fast: bool = True) -> float:
    """The fastest matrix product that this machine was seen to do in the model's dtype, FLOP a second of `clock`."""
    import torch

    from llm2rec_kit.models import kernels

    n, best = (2048 if model.device.type == "cpu" else 8192), 0.0
    a, b = (torch.randn(n, n, dtype=model.dtype, device=model.device) for _ in range(2))
    for _ in range(12):
        begun = clock()
        kernels.multiply(a, b) if fast else a @ b
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * n**3 / (clock() - begun))
    return best


def shares(model: Any, loss: Any, check: Any) -> dict[str, float]:
    """Where the time of a step goes, by kind of operation (torch.profiler)."""
    from torch.profiler import ProfilerActivity, profile

    cuda = model.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        backward(model, loss, check())
    kinds = {"matrix products": ("mm", "gemm", "linear", "nvjet", "cutlass"), "attention": ("attention", "flash", "flex")}
    found = dict.fromkeys(kinds, 0.0) | {"all else": 0.0}
    for event in profiler.key_averages():
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        kind = next(
            (k for k in ("attention", "matrix products") if any(w in event.key.lower() for w in kinds[k])), "all else"
        )
        found[kind] += spent
    return {k: v / sum(found.values()) for k, v in found.items()}


# -- preparation ------------------------------------------------------------------------------------------------------


def report_preparation(arguments: argparse.Namespace) -> None:
    print(f"{'':24}{'samples':>10}{'seconds':>9}{'samples/s':>11}{'peak memory':>13}{'before':>9}{'on disk':>9}")
    for tokenisation in ("apart", "joined"):
        f = alone(arguments, {"do": "prepare", "tokenisation": tokenisation})
        print(
            f"tokenised {tokenisation:14}{f['samples']:10,}{f['seconds']:9.1f}{f['samples'] / f['seconds']:11,.0f}"
            f"{f['memory_mib']:10.0f}MiB{f['before_mib']:6.0f}MiB{f['disk_mib']:6.0f}MiB",
            flush=True,
        )
    print(
        f"{f['items']:,} items with titles of {f['words']:.1f} words, {f['users']:,} users; {f['tokens']:.1f} tokens a sample alone"
    )


def run_preparation(arguments: argparse.Namespace, part: dict[str, Any]) -> dict[str, Any]:
    from llm2rec_kit.models import backbone
    from llm2rec_kit.runs import meter
    from llm2rec_kit.training.samples import prepare

    corpus = generated(arguments.prepare)
    tokenizer = backbone.train_tokenizer(corpus.titles, CONFIGS[arguments.config]["vocabulary"])
    with meter.PeakMemory() as peak:
        before = peak.read()["peak_memory_mib"]
    with tempfile.TemporaryDirectory() as folder, meter.PeakMemory() as peak:
        begun = time.perf_counter()
        samples = prepare(
            corpus, corpus.samples("train"), tokenizer, S.CSFT(tokenisation=part["tokenisation"]), Path(folder) / "train"
        )
        seconds = time.perf_counter() - begun
        memory = peak.read()["peak_memory_mib"]
        disk = sum(p.stat().st_size for p in Path(folder).rglob("*.npy"))
    return {
        "samples": len(samples),
        "seconds": seconds,
        "memory_mib": memory,
        "before_mib": before,
        "disk_mib": disk / 2**20,
        "items": corpus.n_items,
        "users": corpus.n_users,
        "words": float(np.mean([t.count(" ") + 1 for t in corpus.titles])),
        "tokens": samples.facts["plain_tokens"] / len(samples),
    }


def generated(samples: int, seed: int = 0) -> Corpus:
    """A store with some `samples` training samples: one item a ten samples, titles of 3 to 14 words, sequences of 5 and more."""
    rng = np.random.default_rng(seed)
    words = np.array(
        ["".join(rng.choice(list("abcdefghiklmnoprstuvwy"), n)) for n in rng.integers(2, 10, 8000)], dtype=object
    )
    odds = 1 / np.arange(1, len(words) + 1)
    items = max(100, samples // 10)
    lengths = rng.integers(3, 15, items)
    flat = words[rng.choice(len(words), lengths.sum(), p=odds / odds.sum())]
    titles = [" ".join(part) for part in np.split(flat, np.cumsum(lengths)[:-1])]
    titles = [f"{t} ({t[:3].upper()})" if k % 7 == 0 else t for k, t in enumerate(titles)]
    users = max(1, round(samples / 5.7))
    longs = 5 + rng.geometric(1 / 4.7, users) - 1
    offsets = np.concatenate([[0], np.cumsum(longs)])
    targets = np.setdiff1d(np.arange(offsets[-1]), offsets[:-1])
    splits = np.full(offsets[-1], TRAIN, dtype=np.uint8)
    splits[offsets[1:] - 1], splits[offsets[1:] - 2] = TEST, VALID
    about = {"domain": "made"}
    return Corpus(
        items=pl.DataFrame({"item": np.arange(1, items + 1, dtype=np.int32), "title": titles}).with_columns(
            source_id=pl.col("item").cast(pl.String), **{k: pl.lit(v) for k, v in about.items()}
        ),
        users=pl.DataFrame({"user": np.arange(users, dtype=np.int32)}).with_columns(
            source_id=pl.col("user").cast(pl.String), **{k: pl.lit(v) for k, v in about.items()}
        ),
        offsets=offsets,
        sequence=rng.integers(1, items + 1, offsets[-1]).astype(np.int32),
        times=None,
        targets=targets,
        splits=splits[targets],
        max_history=10,
        facts={"source": "generated"},
    ).check()


PARTS = {"train": run_training, "prepare": run_preparation}

if __name__ == "__main__":
    main()
