"""How long do maps of a large catalogue take, and where does the time go?

    python benchmarks/maps_at_scale.py [--items 5000 20000 100000] [--fitted 20000] [--library]
    python benchmarks/maps_at_scale.py --first [--items 1000]      the first maps of a process, compiled and read

Four stages of made-up 192-dimensional embeddings (300 blobs on a 24-dimensional sheet, noise around it, each stage a little
nearer to the last). Seconds by the clock and of processor time; `--library` also runs umap-learn's own AlignedUMAP at the
first size, on the same embeddings.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm2rec_kit.maps import projection, quality
from llm2rec_kit.settings import Maps

STAGES = {"raw": 1.0, "csft": 0.5, "mntp": 0.4, "contrastive": 0.3}


def spaces(n: int, dim: int = 192) -> dict[str, np.ndarray]:
    """Made-up embeddings, float32 (n, dim), a stage each."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(300, 24))[rng.integers(300, size=n)] + 0.5 * rng.normal(size=(n, 24))
    sheet = rng.normal(size=(24, dim))
    return {
        stage: ((base + far * rng.normal(size=(n, 24))) @ sheet + 0.3 * rng.normal(size=(n, dim))).astype(np.float32)
        for stage, far in STAGES.items()
    }


def processor_seconds() -> float:
    """User and system time so far, of this process and of those that it started and that have ended."""
    of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in of)


class Clock:
    """Seconds, by the clock and of the processor, spent inside wrapped functions, by name."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}

    def around(self, name: str, function: Callable) -> Callable:
        """`function`, its time noted under `name`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began, used = time.perf_counter(), processor_seconds()
            try:
                return function(*args, **kwargs)
            finally:
                note = self.spent.setdefault(name, [0.0, 0.0])
                note[0] += time.perf_counter() - began
                note[1] += processor_seconds() - used

        return timed


def measure(n: int, fitted: int) -> None:
    """Lay out all stages of n items and print where the time went, and what the layout is worth."""
    tables, settings = spaces(n), Maps(max_items=fitted)
    clock = Clock()
    originals = projection.fit_spaces, projection.align
    projection.fit_spaces = clock.around("UMAP of the stages (search included)", originals[0])
    projection.align = clock.around("AlignedUMAP", originals[1])
    chosen = projection.choose_items(n, fitted, settings.seed) - 1
    layouts = clock.around("all", projection.lay_out)(tables, settings, fitted=chosen)
    projection.fit_spaces, projection.align = originals
    print(f"\n{n:,} items, 4 stages, UMAP fitted to {len(chosen):,}, {n - len(chosen):,} placed")
    for name, (seconds, used) in clock.spent.items():
        print(f"  {name:38} {seconds:8.1f} s   {used:8.1f} s of processor   {used / clock.spent['all'][1]:5.0%}")
    most = [resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"  most memory {most[0]:.1f} GiB, of a process beside it {most[1]:.1f}")
    anchors = quality.draw_anchors(n, 0)
    for stage in ("raw", "contrastive"):
        found = quality.measure_projection(tables[stage], layouts.aligned[stage], "cosine", anchors=anchors)
        print(f"  {stage}: trustworthiness {found['trustworthiness']:.3f}, {found['kept']:.1%} of neighbours kept")


def short() -> dict[str, float]:
    """Ratio of the short form: 15 neighbours of 4,000 items, all pairs sorted in numpy over the kit's exact search, processor time."""
    torch.set_num_threads(1)
    table, ratios = spaces(4000)["raw"], []
    for _ in range(4):
        began = processor_seconds()
        unit = table / np.linalg.norm(table, axis=1, keepdims=True)
        np.argsort(-(unit @ unit.T), axis=1)[:, 1:16]
        between = processor_seconds()
        projection.find_nearest(table, 15)
        ratios.append((between - began) / (processor_seconds() - between))
    return {"neighbours of 4,000 items, sorted in numpy over kit": float(np.median(ratios[1:]))}


FIRST = """
import sys, time
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
from maps_at_scale import processor_seconds, spaces
from llm2rec_kit.maps import projection
from llm2rec_kit.settings import Maps
torch.set_num_threads(2)
began, used = time.perf_counter(), processor_seconds()
from llm2rec_kit.maps import compiled
if sys.argv[3] == "compiled anew":
    compiled._make_folder = lambda: 1 / 0
tables = spaces(int(sys.argv[2]))
projection.lay_out(tables, Maps())
print(time.perf_counter() - began, processor_seconds() - used)
"""


def first(n: int, rounds: int = 3) -> None:
    """The first maps of fresh processes, umap-learn's import with them: its code compiled in each, or kept by an earlier one."""
    here = str(Path(__file__).parent)
    with tempfile.TemporaryDirectory() as cache:
        where, spent = os.environ | {"LLM2REC_CACHE": cache}, {}
        for turn in range(rounds + 1):  # the first fills the cache
            for way in ("compiled anew", "kept"):
                words = [sys.executable, "-c", FIRST, here, str(n), way]
                told = subprocess.run(words, env=where, capture_output=True, text=True, check=True).stdout
                if turn:
                    spent.setdefault(way, []).append([float(value) for value in told.split()])
        size = sum(file.stat().st_size for file in Path(cache).rglob("*") if file.is_file()) / 2**20
    found = {way: np.median(times, axis=0) for way, times in spent.items()}
    print(f"\n{n:,} items, 4 stages, the first maps of a process, middle of {rounds}; {size:.1f} MiB kept")
    for way, (seconds, used) in found.items():
        print(f"  {way:14} {seconds:8.1f} s   {used:8.1f} s of processor   {found['compiled anew'][0] / seconds:.1f}x")


def library(n: int) -> None:
    """umap-learn's AlignedUMAP on the same embeddings."""
    import umap

    tables = spaces(n)
    began, used = time.perf_counter(), processor_seconds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = umap.AlignedUMAP(n_neighbors=15, metric="cosine", random_state=42)
        model.fit(list(tables.values()), relations=[{i: i for i in range(n)}] * (len(tables) - 1))
    print(f"\n{n:,} items, 4 stages, umap.AlignedUMAP alone")
    print(f"  {'all':32} {time.perf_counter() - began:8.1f} s   {processor_seconds() - used:8.1f} s of processor")


def main() -> None:
    """Run the sizes asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, nargs="+", default=[5_000, 20_000, 100_000])
    parser.add_argument("--fitted", type=int, default=100_000, help="most items that UMAP is fitted to")
    parser.add_argument("--library", action="store_true")
    parser.add_argument("--first", action="store_true")
    args = parser.parse_args()
    if args.first:
        return first(args.items[0])
    torch.set_num_threads(2)
    projection.lay_out(spaces(200), Maps())  # compiles
    for n in args.items:
        measure(n, args.fitted)
    if args.library:
        library(args.items[0])


if __name__ == "__main__":
    main()
