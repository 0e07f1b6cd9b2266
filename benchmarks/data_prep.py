"""Raw Amazon reviews to a finished 5-core corpus: how fast, in how much memory, where the time goes, and against pandas.

    python benchmarks/generate_reviews.py 2000000 /tmp/reviews --gz --words 45
    python benchmarks/data_prep.py /tmp/reviews --pandas /path/to/python-with-pandas
    python benchmarks/data_prep.py --load

Each contestant runs in a fresh process, one after another, and reports its own wall time, processor time and peak memory:

floor   the files inflated and thrown away, by Python's own zlib and by ISA-L, which the kit uses: no reader is faster
kit     sources.load, cleaning.build_corpus, Corpus.save (--repeats times; the median counts)
pandas  the plain way: read_json(lines=True), drop_duplicates, groupby k-core, a list a user (once; saves nothing)

Kit and pandas must end with the same numbers of interactions, users and items. `--load` measures loading a corpus of 100,000
items and 1,000,000 samples.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

PROFILED = {  # function in the profile -> what it is
    "acquire": "waiting for the threads that inflate and parse",
    "select": "ids to codes (and other selects)",
    "_as_arrays": "codes to rows of the item table",
    "_known_titles": "title rules",
    "mark_first_events": "earliest review of a pair",
    "mark_k_core": "k-core to its fixed point",
    "_corpus": "numbering, sorting, splitting, checking",
    "save": "writing the corpus",
}


def main() -> None:
    """Run what the command line asks for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="Generated.jsonl[.gz] and its metadata")
    parser.add_argument("--pandas", default="", help="an interpreter that has pandas; left out without")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--load", action="store_true", help="time Corpus.load only")
    parser.add_argument(
        "--only", default="", choices=["", "kit", "pandas", "load", "floor, zlib", "floor, ISA-L"], help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if args.only:
        contestants = {"kit": kit, "pandas": pandas_way, "load": load, "floor, zlib": floor, "floor, ISA-L": fast_floor}
        print(json.dumps(contestants[args.only](args.folder)))
    elif args.load:
        found = _run("load", None)
        print(
            f"Corpus.load of {found['samples']:,} samples, {found['items']:,} items: {found['seconds']:.3f} s (median of 5)"
        )
    elif args.folder:
        compare(args.folder, args.pandas, args.repeats)
    else:
        parser.error("give a folder of generated reviews, or --load")


def compare(folder: Path, pandas: str, repeats: int) -> None:
    """Run the contestants and print their table and the kit's profile."""
    sizes = ", ".join(f"{p.name} {p.stat().st_size / 1e9:.2f} GB" for p in sorted(folder.glob("*.jsonl*")))
    print(sizes, flush=True)
    rows = {name: _run(name, folder) for name in ("floor, zlib", "floor, ISA-L")}
    runs = sorted((_run("kit", folder) for _ in range(repeats)), key=lambda r: r["wall"])
    rows["kit"] = runs[len(runs) // 2]
    if pandas:
        rows["pandas"] = _run("pandas", folder, pandas)
    n = rows["kit"]["reviews"]
    print(f"\n{n:,} reviews; {rows['floor, zlib']['bytes'] / 1e9:.2f} GB of text\n")
    print(f"{'':12} {'wall s':>8} {'cpu s':>8} {'reviews/s':>12} {'peak GiB':>9} {'against pandas':>15}")
    for name, r in rows.items():
        ratio = f"{rows['pandas']['wall'] / r['wall']:.1f}x" if pandas and "floor" not in name else ""
        print(f"{name:12} {r['wall']:8.1f} {r['cpu']:8.1f} {n / r['wall']:12,.0f} {r['peak']:9.2f} {ratio:>15}")
    walls = ", ".join(f"{r['wall']:.1f}" for r in runs)
    print(f"\nkit, {repeats} runs: wall {walls} s; result {rows['kit']['result']}")
    if pandas:
        print("pandas: " + ", ".join(f"{k} {v:.1f} s" for k, v in rows["pandas"]["parts"].items()))
        same = rows["pandas"]["result"] == rows["kit"]["result"]
        print("same interactions, users and items" if same else f"DIFFERENT RESULTS: {rows['pandas']['result']}")
    print("\nwhere the kit's wall time goes, seconds in the main thread")
    for what, seconds in sorted(rows["kit"]["parts"].items(), key=lambda kv: -kv[1]):
        print(f"  {what:42} {seconds:7.1f}  {seconds / rows['kit']['wall']:4.0%}")


def short() -> dict[str, float]:
    """Ratio of the short form: processor time of inflating alone (ISA-L) over the kit's from files to files, 300,000 reviews."""
    from generate_reviews import generate

    with tempfile.TemporaryDirectory() as folder:
        generate(300_000, Path(folder), gz=True)
        ratios = [fast_floor(Path(folder))["cpu"] / kit(Path(folder))["cpu"] for _ in range(4)]
    return {"reviews to a corpus, inflating alone over kit": statistics.median(ratios[1:])}


def fast_floor(folder: Path) -> dict:
    """As `floor`, with the kit's inflater."""
    from isal import isal_zlib

    return floor(folder, isal_zlib)


def floor(folder: Path, inflater=zlib) -> dict:
    """Inflate (or just read) every file."""
    with _Measured() as measured:
        total = 0
        for path in sorted(folder.glob("*.jsonl*")):
            with path.open("rb") as file:
                member = inflater.decompressobj(wbits=31) if path.suffix == ".gz" else None
                while data := file.read(1 << 20):
                    total += len(member.decompress(data) if member else data)
    return measured.found | {"bytes": total}


def kit(folder: Path) -> dict:
    """The kit, from files to files."""
    import cProfile
    import pstats

    from llm2rec_kit.corpus import Corpus  # noqa: F401  imports are not what is measured
    from llm2rec_kit.data import cleaning, sources
    from llm2rec_kit.data.sources import amazon  # noqa: F401
    from llm2rec_kit.settings import Data

    settings = Data(source="amazon", path=str(folder))
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory(dir=folder) as target, _Measured() as measured, _quiet():
        profile.enable()
        interactions = sources.load(settings)
        corpus = cleaning.build_corpus(interactions, settings)
        corpus.save(Path(target))
        profile.disable()
    parts = dict.fromkeys(PROFILED.values(), 0.0)
    for (_, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items():
        plain = name.split("'")[1] if name.startswith("<method '") else name
        if plain in PROFILED:
            parts[PROFILED[plain]] = max(parts[PROFILED[plain]], cumulative)
    result = {"interactions": len(corpus.sequence), "users": corpus.n_users, "items": corpus.n_items}
    return measured.found | {"parts": parts, "result": result, "reviews": interactions.facts["reviews"]}


def pandas_way(folder: Path) -> dict:
    """What one writes first: everything in data frames."""
    import pandas as pd

    reviews, meta = (next(folder.glob(name)) for name in ("Generated.jsonl*", "meta_Generated.jsonl*"))
    parts: dict[str, float] = {}
    with _Measured() as measured:
        began = time.perf_counter()
        frame = pd.read_json(reviews, lines=True)
        items = pd.read_json(meta, lines=True)
        parts["read_json"] = time.perf_counter() - began
        began = time.perf_counter()
        frame = frame[frame["parent_asin"].isin(items.loc[items["title"].notna(), "parent_asin"])]
        frame = frame.sort_values("timestamp", kind="stable").drop_duplicates(["user_id", "parent_asin"])
        parts["titles, earliest review"] = time.perf_counter() - began
        began = time.perf_counter()
        while True:
            users = frame.groupby("user_id")["parent_asin"].transform("size")
            counts = frame.groupby("parent_asin")["user_id"].transform("size")
            keep = (users >= 5) & (counts >= 5)
            if keep.all():
                break
            frame = frame[keep]
        parts["k-core"] = time.perf_counter() - began
        began = time.perf_counter()
        sequences = frame.groupby("user_id")["parent_asin"].agg(list)
        parts["sequences"] = time.perf_counter() - began
    result = {"interactions": len(frame), "users": len(sequences), "items": frame["parent_asin"].nunique()}
    return measured.found | {"parts": parts, "result": result}


def load(_: Path | None) -> dict:
    """Corpus.load of 100,000 items and 1,000,000 samples."""
    import numpy as np
    import polars as pl

    from llm2rec_kit.corpus import Corpus
    from llm2rec_kit.data.splits import leave_one_out

    rng = np.random.default_rng(0)
    items, users, samples = 100_000, 150_000, 1_000_000
    lengths = np.full(users, 7) + (np.arange(users) < samples + users - 7 * users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    targets, splits = leave_one_out(offsets)
    words = np.array(["".join(rng.choice(list("abcdefghijklmnop"), 6)) for _ in range(3000)])
    corpus = Corpus(
        items=pl.DataFrame(
            {
                "item": np.arange(1, items + 1, dtype=np.int32),
                "source_id": [f"B{i:09d}" for i in range(items)],
                "title": [" ".join(w) for w in words[rng.integers(0, 3000, (items, 10))]],
                "domain": "games",
            }
        ),
        users=pl.DataFrame(
            {"user": np.arange(users, dtype=np.int32), "source_id": [f"A{u:027d}" for u in range(users)], "domain": "games"}
        ),
        offsets=offsets,
        sequence=rng.integers(1, items + 1, offsets[-1]).astype(np.int32),
        times=(np.arange(offsets[-1]) * 1000).astype(np.int64),
        targets=targets,
        splits=splits,
        max_history=10,
    ).check()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        corpus.save(Path(folder))
        for _ in range(5):
            began = time.perf_counter()
            loaded = Corpus.load(Path(folder))
            seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds), "samples": len(loaded.targets), "items": loaded.n_items}


class _Measured:
    """Wall and processor seconds of a block, and the process's peak memory in GiB."""

    def __enter__(self) -> _Measured:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self.found = {"wall": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu, "peak": peak}


def _quiet():
    import contextlib
    import io

    return contextlib.redirect_stdout(io.StringIO())


def _run(what: str, folder: Path | None, interpreter: str = sys.executable) -> dict:
    words = [interpreter, __file__, *([str(folder)] if folder else []), "--only", what]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
