"""Where a recommender's training step and its ranking spend their time, beside what arithmetic allows.

    python benchmarks/recommender_profile.py                           9,517 items x 896, the kit's SASRec and GRU4Rec
    python benchmarks/recommender_profile.py --precision bfloat16      the same with products of training in bfloat16
    python benchmarks/recommender_profile.py --checkout CHECKOUT --python OFFICIAL/bin/python
                                                   and the official code in turn (official_code.py says how to get it)

One thread. The floor is the time that the matrix products would take at the rate of the fastest large product on this machine,
measured first (torch.mm and the kit's own); how many multiplications a step takes is counted from the shapes of the products
that it makes. So floor / measured is how much of the machine is used, and official / floor is the most that any code can gain
that makes these products, had it nothing else to do.

All times are processor time, which other programs disturb least; so operators are timed as torch dispatches them, and not by
torch.profiler, which tells clock time. That lengthens each by a microsecond or two, which tells in those that are called often.
"python, numpy" is what a step takes beyond its operators.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import official_code as sides
import polars as pl
import torch
from official_side import RATES
from torch.utils._python_dispatch import TorchDispatchMode

from llm2rec_kit.models import kernels

HIDDEN = sides.settings_of().hidden
REST = "products of the recommender"
PRODUCTS = {"mkldnn._linear_pointwise", "aten.mm", "aten.addmm", "aten.bmm"}
SHOWN = 9  # operators in a table


def peak(dtype: torch.dtype, rounds: int = 15) -> dict[str, float]:
    """GFLOP/s of one thread in a product of 2,048 x 1,024 x 1,024, the best of the rounds, by torch.mm and by the kit's."""
    a, b = torch.randn(2048, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    work = 2 * a.numel() * len(b) / 1e9
    ways = {"torch.mm": lambda: torch.mm(a, b), "the kit's product": lambda: kernels.multiply(a, b)}
    return {name: work / min(sides.timed(way)[1] for _ in range(rounds)) for name, way in ways.items()}


def part(m: int, n: int, k: int) -> str:
    """What a product (m, k) x (k, n) belongs to, by the sizes of the item table."""
    items = (sides.ITEMS, sides.ITEMS + 1)
    if m in items and k == sides.WIDE:
        return "adapter"
    if n == sides.WIDE and k in items:
        return "gradient of the adapter"
    if n in items:
        return "scores" if k == HIDDEN else "gradient of the classes"
    return "gradient of the states" if k in items else REST


class Operators(TorchDispatchMode):
    """Within: processor seconds and calls of every operator, {(its name, sizes of its first two tensors): [calls, seconds]}."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[tuple[str, tuple], list[float]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run and time one operator."""
        began = time.process_time()
        out = func(*args, **(kwargs or {}))
        took = time.process_time() - began
        sizes = tuple(tuple(x.shape) for x in args[:2] if isinstance(x, torch.Tensor))
        sums = self.found.setdefault((str(func.overloadpacket), sizes), [0, 0.0])
        sums[0] += 1
        sums[1] += took
        return out


def operators(work: Callable[[], object], rounds: int) -> dict[tuple[str, tuple], list[float]]:
    """{(operator, sizes): [calls, median seconds of the rounds]} of one call of `work`."""
    each = []
    for _ in range(rounds):
        with Operators() as seen:
            work()
        each.append(seen.found)
    return {key: [calls, float(np.median([e[key][1] for e in each if key in e]))] for key, (calls, _) in each[0].items()}


def parts(found: dict, count: int, rates: Callable[[str], float]) -> list[dict[str, object]]:
    """A row a part of the products: GFLOP, ms at the peak and ms measured, each a step (of `count` in the profile)."""
    sums: dict[str, list[float]] = {}
    for (operator, sizes), (calls, seconds) in found.items():
        if operator not in PRODUCTS:
            continue
        a, b = sizes
        n = b[0] if operator == "mkldnn._linear_pointwise" else b[-1]
        name = part(a[-2], n, a[-1])
        both = sums.setdefault(name, [0.0, 0.0])
        both[0] += 2 * calls * np.prod(a, dtype=float) * n / 1e9 / count
        both[1] += seconds / count * 1e3
    rows = [
        {"": name, "GFLOP": work, "floor, ms": work / rates(name) * 1e3, "measured, ms": took, "GFLOP/s": work / took * 1e3}
        for name, (work, took) in sorted(sums.items(), key=lambda item: -item[1][0])
    ]
    total = {key: sum(row[key] for row in rows) for key in ("GFLOP", "floor, ms", "measured, ms")}
    return [*rows, {"": "all products", **total, "GFLOP/s": total["GFLOP"] / total["measured, ms"] * 1e3}]


def shares(found: dict, count: float, whole: float) -> list[dict[str, object]]:
    """A row an operator, largest first: its share of a step of `whole` ms, and its own ms."""
    sums: dict[str, float] = {}
    for (operator, _), (_, seconds) in found.items():
        name = "products" if operator in PRODUCTS else operator
        sums[name] = sums.get(name, 0.0) + seconds / count * 1e3
    sums["python, numpy"] = whole - sum(sums.values())
    largest = sorted(sums.items(), key=lambda item: -item[1])
    rows = [*largest[:SHOWN], (f"{len(largest) - SHOWN} others", sum(took for _, took in largest[SHOWN:]))]
    return [{"operator": name, "share": f"{took / whole:.1%}", "ms": took} for name, took in rows]


def measured(given: argparse.Namespace, recommender: str, side: sides.Kit, folder: Path) -> dict[str, np.ndarray]:
    """{side: seconds (rounds, training or ranking, wall or processor)}; the official side where it is given."""
    if given.checkout:
        return sides.rounds(given, recommender, {"kit": side}, folder)
    side.round()
    return {"kit": np.array([side.round() for _ in range(given.rounds)])}


def show(given: argparse.Namespace, recommender: str, side: sides.Kit, times: dict[str, np.ndarray], peaks: dict) -> None:
    """Print both tables of training and of ranking, and how far the floor is from each side."""
    low = peaks[torch.bfloat16 if given.precision == "bfloat16" else torch.float32]
    works = {
        "a training step of 256": (
            side.epoch,
            sides.STEPS,
            sides.STEPS,
            lambda name: peaks[torch.float32] if name == REST else low,
        ),
        "32 ranked": (side.rank, len(side.tests) / 32, sides.RANKED / 32, lambda name: peaks[torch.float32]),
    }
    for at, (what, (work, count, timed, rates)) in enumerate(works.items()):
        found = operators(work, given.rounds)
        table = parts(found, count, rates)
        floor = table[-1]["floor, ms"]
        took = {way: float(np.median(each[:, at, 1])) / timed * 1e3 for way, each in times.items()}
        print(
            f"\n{recommender}, {what}: floor {floor:.2f} ms, kit {took['kit']:.2f} ms (of it {floor / took['kit']:.0%})",
            end="",
        )
        if "official" in took:
            factors = times["official"][:, at, 1] / times["kit"][:, at, 1]
            print(
                f", official {took['official']:.2f} ms: {np.median(factors):.1f}x ({factors.min():.1f} to {factors.max():.1f}), "
                f"at most {took['official'] / floor:.1f}x",
                end="",
            )
        print(f"; load {os.getloadavg()[0]:.1f}")
        print(pl.DataFrame(table))
        print(pl.DataFrame(shares(found, count, took["kit"])))


def short() -> dict[str, float]:
    """Ratios of the short form: SASRec's products at this machine's best rate over what a step and a ranking take."""
    torch.set_num_threads(1)
    best = max(peak(torch.float32).values())
    side, found = sides.Kit(*sides.generated(), "SASRec"), {}
    side.round()
    times = np.median([side.round() for _ in range(3)], axis=0)[:, 1]
    for at, (what, work, count, timed) in enumerate(
        (("a step", side.epoch, sides.STEPS, sides.STEPS), ("ranking", side.rank, len(side.tests), sides.RANKED))
    ):
        floor = parts(operators(work, 1), count, lambda _: best)[-1]["floor, ms"]
        found[f"SASRec, {what} at 9,517 items x 896, products alone over kit"] = floor / (times[at] / timed * 1e3)
    return found


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkout", type=lambda p: Path(p).resolve(), help="clone of the official repository")
    parser.add_argument("--python", help="of an environment for the official code")
    given = parser.parse_args()
    if bool(given.checkout) != bool(given.python):
        parser.error("--checkout and --python belong together")
    torch.set_num_threads(1)
    pl.Config(
        tbl_rows=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, float_precision=2, fmt_str_lengths=60
    )
    peaks = {}
    for dtype in (torch.float32, torch.bfloat16):
        found = peak(dtype)
        peaks[dtype] = max(found.values())
        print(f"{dtype}, GFLOP/s of one thread: " + ", ".join(f"{name} {rate:.0f}" for name, rate in found.items()))
    corpus, vectors = sides.generated()
    with tempfile.TemporaryDirectory() as folder:
        sides.write_for_times(corpus, vectors, Path(folder))
        for recommender in RATES:
            side = sides.Kit(corpus, vectors, recommender, precision=given.precision)
            show(given, recommender, side, measured(given, recommender, side, Path(folder)), peaks)


if __name__ == "__main__":
    main()
