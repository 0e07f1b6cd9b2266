"""Titles per second: the kit's Encoder against SentenceTransformer.encode and llm2vec, the same weights, one run.

    python benchmarks/encode.py --data FOLDER [--llm2vec PYTHON]      # FOLDER holds games.item (RecBole's layout)
    python benchmarks/encode.py --data FOLDER --figure5               # the paper's Figure 5 workload, on a GPU
    python benchmarks/encode.py --data FOLDER --million               # memory over 100,000 and 1,000,000 titles

Weights are random: speed does not depend on them. The tokenizer is trained on the titles. `--llm2vec` is the interpreter
of an environment with llm2vec 0.2.3, as peers.sh makes it; without it those rows are left out.
On a machine that does other work, too, processor seconds with OMP_NUM_THREADS=1 are the fairer comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM

from llm2rec_kit.encoding.encoder import Encoder
from llm2rec_kit.encoding.tokenisation import tokenise_titles
from llm2rec_kit.models import backbone, kernels
from llm2rec_kit.settings import Backbone, Encoding


@dataclass(frozen=True)
class Size:
    """A Qwen2 of this shape, and how many of the titles it is measured on (0: all)."""

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    titles: int


SIZES = {
    "tiny": Size("tiny (hidden 192, 4 layers)", 192, 576, 4, 6, 6, 0),
    "512": Size("hidden 512, 8 layers", 512, 1536, 8, 8, 8, 4000),
    "0.5b": Size("Qwen2-0.5B's shape", 896, 4864, 24, 14, 2, 400),
}
LLM2VEC = """
import json, sys, time
import torch
from llm2vec import LLM2Vec
from llm2vec.models import Qwen2BiModel
from transformers import AutoTokenizer, Qwen2Config
from safetensors.torch import load_file
folder, titles = sys.argv[1], json.load(open(sys.argv[2]))
about = json.load(open(folder + "/config.json"))
names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
config = Qwen2Config(**{n: about[n] for n in names}, tie_word_embeddings=True, use_cache=False,
                     rope_theta=(about.get("rope_parameters") or {}).get("rope_theta", 10000.0))
config._attn_implementation = "sdpa"
model = Qwen2BiModel(config)
weights = {k.removeprefix("model."): v for k, v in load_file(folder + "/model.safetensors").items()}
model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("lm_head")}, strict=True)
tokenizer = AutoTokenizer.from_pretrained(folder + "/tokenizer")
tokenizer.padding_side = "left"
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
encoder = LLM2Vec(model.eval(), tokenizer, pooling_mode="mean", max_length=512, skip_instruction=True)
encoder.encode(titles[:64], batch_size=32, show_progress_bar=False)
seconds = []
for _ in range(int(sys.argv[3])):
    began = time.perf_counter(), time.process_time()
    encoder.encode(titles, batch_size=32, show_progress_bar=False)
    seconds.append((time.perf_counter() - began[0], time.process_time() - began[1]))
print("RESULT", json.dumps([min(column) for column in zip(*seconds)]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with games.item")
    parser.add_argument("--sizes", default="tiny,512,0.5b", help="which models (default: %(default)s)")
    parser.add_argument(
        "--titles", type=int, default=-1, help="titles drawn by seed; default: all for tiny, 4,000 for 512, 400 for 0.5b"
    )
    parser.add_argument("--repeats", type=int, default=2, help="the best of so many (default: %(default)s)")
    parser.add_argument("--llm2vec", default="", metavar="PYTHON", help="interpreter of an environment with llm2vec 0.2.3")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--figure5", action="store_true", help="9,517 titles, Qwen2-0.5B's shape, bfloat16 on a GPU")
    parser.add_argument("--million", action="store_true", help="peak memory over 100,000 and 1,000,000 titles")
    parser.add_argument("--memory-of", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    titles = read(Path(args.data))
    if args.memory_of:
        return memory_of(titles, args.memory_of)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}; {len(titles):,} titles", flush=True)
    if args.million:
        return million(args.data)
    if args.figure5:
        return figure5(titles, args.device)
    peaks = peak(args.device)
    print("matrix-product peak, float32: " + ", ".join(f"{k} {v:.0f} GFLOP/s" for k, v in peaks.items()), flush=True)
    for name in args.sizes.split(","):
        compare(SIZES[name], titles, args, max(peaks.values()))


def read(folder: Path) -> list[str]:
    """Titles of games.item, entities resolved; the few items without a title are left out and counted."""
    lines = (folder / "games.item").read_text().rstrip("\n").split("\n")[1:]
    titles = [html.unescape(line.split("\t")[1]).strip() for line in lines]
    found = [t for t in titles if t]
    if len(found) < len(titles):
        print(f"{len(titles) - len(found)} of {len(titles):,} items have no title and are left out")
    return found


def build(size: Size, titles: list[str], folder: Path) -> Encoder:
    """A random model of this size in `folder`, saved by the kit and so readable by all."""
    tokenizer = backbone.train_tokenizer(titles, 8192)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        use_cache=False,
    )
    Encoder(Qwen2ForCausalLM(config).eval(), tokenizer).save(folder)
    (folder / "tokenizer").mkdir()
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    whole["model"]["merges"] = [" ".join(pair) for pair in whole["model"]["merges"]]  # as tokenizers 0.19 reads them
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(whole))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": backbone.END_OF_TEXT,
        "pad_token": backbone.END_OF_TEXT,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(about))
    return Encoder.load(folder)


def compare(size: Size, titles: list[str], args: argparse.Namespace, top: float) -> None:
    """One table: the kit, sentence-transformers by default and at its best, llm2vec."""
    from sentence_transformers import SentenceTransformer

    number = size.titles if args.titles < 0 else args.titles
    if number and number < len(titles):
        titles = [titles[i] for i in np.random.default_rng(0).permutation(len(titles))[:number]]
    with tempfile.TemporaryDirectory() as folder:
        subject = build(size, titles, Path(folder))
        library = SentenceTransformer(folder, device=args.device)
        tokens = sum(map(len, tokenise_titles(subject.tokenizer, titles, 512)))
        work = 2 * tokens * sum(p.numel() for n, p in subject.model.named_parameters() if "layers" in n and p.dim() == 2)
        warm = titles[:64]
        subject.encode(warm), library.encode(warm)
        best_size = fastest_batch(library, titles)
        ways = {
            "kit, float32": lambda: subject.encode(titles),
            "sentence-transformers, defaults": lambda: library.encode(titles),
            f"sentence-transformers, batch {best_size}": lambda: library.encode(titles, batch_size=best_size),
        }
        seconds, vectors = interleaved(ways, args.repeats)
        if args.llm2vec:
            seconds["llm2vec 0.2.3"] = run_llm2vec(args.llm2vec, folder, titles, args.repeats)
        half = Encoder.load(folder, place=Backbone(device=args.device, dtype="bfloat16"))
        more, rough = interleaved({"kit, bfloat16": lambda: half.encode(titles)}, args.repeats)
        shares = where_time_goes(subject, titles)
    own = seconds["kit, float32"]
    print(f"\n{size.name}: {len(titles):,} titles, {tokens:,} tokens, {work / 1e9:,.0f} GFLOP in the linear layers")
    for name, (wall, cpu) in {**seconds, **more}.items():
        speed, share = len(titles) / wall, work / wall / 1e9 / top
        times = f"{wall / own[0]:5.2f}x ({cpu / own[1]:5.2f}x by processor seconds)"
        print(f"  {name:34} {wall:8.2f} s {speed:9,.0f} titles/s  {share:5.0%} of peak  kit is {times}", flush=True)
    reference, found = vectors["sentence-transformers, defaults"], vectors["kit, float32"]
    print(f"  kit and sentence-transformers differ by {np.abs(found - reference).max():.1e} at most")
    print(f"  bfloat16 against float32: cosine {cosine(rough['kit, bfloat16'], found).min():.5f} at least")
    print("  where the kit's time goes: " + ", ".join(f"{k} {v:.0%}" for k, v in shares.items()))


def short() -> dict[str, float]:
    """Ratio of the short form: sentence-transformers' time over the kit's, 600 made titles and the tiny model, one thread."""
    from csft import generated
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    titles = generated(6000).titles
    with tempfile.TemporaryDirectory() as folder:
        subject = build(SIZES["tiny"], titles, Path(folder))
        library = SentenceTransformer(folder, device="cpu")
        ways = {"kit": lambda: subject.encode(titles), "library": lambda: library.encode(titles)}
        interleaved(ways, 1)
        ratios = [(found["library"][1] / found["kit"][1]) for found, _ in (interleaved(ways, 1) for _ in range(5))]
    return {"titles encoded, sentence-transformers over kit": float(np.median(ratios))}


def interleaved(ways: dict, repeats: int) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Best [seconds, processor seconds] of each way, taking turns, and its vectors."""
    best, vectors = {name: [float("inf")] * 2 for name in ways}, {}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter(), time.process_time()
            vectors[name] = way()
            took = time.perf_counter() - began[0], time.process_time() - began[1]
            best[name] = [min(pair) for pair in zip(best[name], took, strict=True)]
    return best, vectors


def fastest_batch(library, titles: list[str]) -> int:
    """The batch size at which sentence-transformers is fastest, on a tenth of the titles (64 at least)."""
    few = titles[:: max(1, min(10, len(titles) // 64))]
    took = {}
    for size in (4, 8, 16, 64, 128, 256):
        began = time.perf_counter()
        library.encode(few, batch_size=size)
        took[size] = time.perf_counter() - began
    return min(took, key=took.get)


def run_llm2vec(python: str, folder: str, titles: list[str], repeats: int) -> list[float]:
    """Best [seconds, processor seconds] of llm2vec's own encode, in its own environment."""
    listed = Path(folder) / "titles.json"
    listed.write_text(json.dumps(titles))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    words = [python, "-c", LLM2VEC, folder, str(listed), str(repeats)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not found:
        print(f"  llm2vec did not run: {done.stderr.strip().splitlines()[-1:]}")
        return [float("nan")] * 2
    return json.loads(found[0].removeprefix("RESULT "))


def peak(device: str, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """Best GFLOP/s of a matrix product over some shapes, by torch's own and by oneDNN's product."""
    best: dict[str, float] = {}
    shapes = [(1024, 512, 1536), (2048, 896, 896), (2048, 2048, 2048)] + [(8192, 8192, 8192)] * (device == "cuda")
    for rows, inner, out in shapes:
        x, w = (torch.randn(s, device=device, dtype=dtype) for s in ((rows, inner), (out, inner)))
        products = {"torch": lambda x=x, w=w: F.linear(x, w)}
        if device == "cpu" and kernels.is_available():
            products["oneDNN"] = lambda x=x, w=w: kernels.multiply_blocked(x, w)
        for name, product in products.items():
            with torch.inference_mode():
                took = min(timed(product, device) for _ in range(12))
            best[name] = max(best.get(name, 0.0), 2 * rows * inner * out / took / 1e9)
    return best


def timed(way, device: str) -> float:
    """Seconds of one call, the device waited for."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    way()
    wait()
    return time.perf_counter() - began


def where_time_goes(subject: Encoder, titles: list[str]) -> dict[str, float]:
    """Shares of the time inside torch on a sample: linear layers, attention, everything else."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        subject.encode(titles[:: max(1, len(titles) // 2000)])
    groups = {"linear layers": ("linear", "addmm", "aten::mm"), "attention": ("scaled_dot_product", "bmm", "softmax")}
    total = {"linear layers": 0.0, "attention": 0.0, "the rest": 0.0}
    for event in seen.key_averages():
        name = next((g for g, words in groups.items() if any(w in event.key for w in words)), "the rest")
        total[name] += event.self_cpu_time_total
    return {k: v / sum(total.values()) for k, v in total.items()}


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def figure5(titles: list[str], device: str) -> None:
    """The paper's Figure 5: 9,517 titles through Qwen2-0.5B; it reports 11.7 s on one A40."""
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no GPU here; --device cpu runs the same on the CPU, for an hour or so.")
    chosen = [titles[i] for i in np.random.default_rng(0).permutation(len(titles))[:9517]]
    dtype = "bfloat16" if device == "cuda" else "float32"
    with tempfile.TemporaryDirectory() as folder:
        build(SIZES["0.5b"], titles, Path(folder))
        subject = Encoder.load(folder, Encoding(), Backbone(device=device, dtype=dtype))
    subject.encode(chosen[:256])
    seconds = min(timed(lambda: subject.encode(chosen), device) for _ in range(3))
    tokens = sum(map(len, tokenise_titles(subject.tokenizer, chosen, 512)))
    work = 2 * tokens * sum(p.numel() for n, p in subject.model.named_parameters() if "layers" in n and p.dim() == 2)
    top = max(peak(device, getattr(torch, dtype)).values())
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"Figure 5's workload on {name}, {dtype}: {seconds:.2f} s for {len(chosen):,} titles of {tokens:,} tokens;")
    print(
        f"  {work / seconds / 1e9:,.0f} GFLOP/s, {work / seconds / 1e9 / top:.0%} of the measured peak; paper: 11.7 s, A40"
    )


def million(data: str) -> None:
    """Peak memory of a process that encodes 100,000 and one that encodes 1,000,000 titles to a file."""
    for number in (100_000, 1_000_000):
        words = [sys.executable, __file__, "--data", data, "--memory-of", str(number)]
        print(subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1], flush=True)


def memory_of(titles: list[str], number: int) -> None:
    """Encode `number` distinct titles with a model of one small layer and print the resident memory."""
    size = Size("", 64, 128, 1, 2, 2, 0)
    many = [f"{titles[k % len(titles)]} {k // len(titles)}" for k in range(number)]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        subject = build(size, titles, Path(folder) / "model")
        subject.encode(many[:20_000], out=Path(folder) / "warm.npy")
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far: making the tokenizer took more
        before, began = resident("VmRSS"), time.perf_counter()
        found = subject.encode(many, out=Path(folder) / "vectors.npy")
        seconds, shape = time.perf_counter() - began, found.shape
    top = resident("VmHWM")
    print(
        f"{number:>9,} titles: float32 {shape}, {4 * shape[0] * shape[1] / 2**20:,.0f} MiB on the disk, in {seconds:.0f} s; "
        f"resident {before:,.0f} MiB before (the titles with it), {top:,.0f} MiB at most: {top - before:,.0f} MiB more"
    )


def resident(which: str) -> float:
    """Resident memory of this process, now (VmRSS) or at most (VmHWM), MiB; Linux."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[which].split()[0]) / 1024


if __name__ == "__main__":
    main()
