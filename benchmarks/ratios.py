"""The short form of every script here: its ratios, beside those that were kept, and what moved by more than 15%.

    make benchmark                                 the same as: python benchmarks/ratios.py
    make benchmark KEEP=1                          and keep these ratios, to be compared with from now on
    python benchmarks/ratios.py --only csft encode

No time is tested: a script's `short()` takes two ways in turn in one run, mostly by processor time, and gives {what: the other way's
time over the kit's}, so more is better, and another machine or a busy one moves a ratio far less than a time. What did move is told and
fails nothing; a short form that fails does. Each runs in a process of its own, on one thread, one after the other.

Written are benchmarks/.ratios/last.json and, the first time or with --keep, kept.json: {"made": when, "machine": what, "load": of the
machine, "ratios": {script: {what: ratio}}, "failed": {script: why}}.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from llm2rec_kit.storage import write_json

HERE = Path(__file__).parent
FOLDER = HERE / ".ratios"
MOVED = 0.15
PATIENCE = 240  # seconds for one script
WITHOUT = {  # scripts that have no short form, and why
    "backbone_families": "makes docs/backbones.md and measures no time",
    "csft_curve": "measures metrics, not times",
    "csft_layers": "measures metrics, not times",
    "explorer_smoothness": "frames of a browser, in milliseconds; there is no other side",
    "generate_reviews": "makes the input of data_prep, which runs it",
    "gpu": "needs a GPU and a pretrained model",
    "mixed": "needs a pretrained model and minutes",
    "official_code": "needs the official code and its environment (peers.sh), and minutes",
    "official_side": "a part of official_code",
    "own_lengths": "measures metrics, not times",
    "peers": "needs another program's environment (peers.sh)",
    "ratios": "is this",
    "starts": "measures metrics, not times",
}


def scripts(folder: Path = HERE) -> list[str]:
    """Names of the scripts in `folder` that define `short`."""
    return [
        file.stem
        for file in sorted(folder.glob("*.py"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "short" for node in ast.parse(file.read_text()).body)
    ]


def run(name: str, folder: Path = HERE) -> dict[str, float]:
    """The ratios of one script, from a process of its own; RuntimeError with its last word where it fails."""
    code = f"import json, {name}; print('RATIOS ' + json.dumps({name}.short()))"
    path = os.pathsep.join([str(folder), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"took more than {PATIENCE} s") from None
    found = [line for line in done.stdout.splitlines() if line.startswith("RATIOS ")]
    if done.returncode or not found:
        raise RuntimeError((done.stderr.strip().splitlines() or ["gave no ratios"])[-1])
    return json.loads(found[-1].removeprefix("RATIOS "))


def compared(kept: dict[str, dict[str, float]], now: dict[str, dict[str, float]], share: float = MOVED) -> list[str]:
    """What to tell of {script: {what: ratio}} beside those kept: a line for what moved by more than `share`, is new or is gone.

    Of a script that was not run now nothing is told.
    """
    lines = []
    for script, ratios in now.items():
        before = kept.get(script, {})
        for what in dict.fromkeys([*before, *ratios]):
            if what not in before:
                lines.append(f"{script}: {what}: {ratios[what]:.2f}, new")
            elif what not in ratios:
                lines.append(f"{script}: {what}: was {before[what]:.2f}, is no longer measured")
            elif abs(change := ratios[what] / before[what] - 1) > share:
                lines.append(f"{script}: {what}: {before[what]:.2f} to {ratios[what]:.2f}, {change:+.0%}")
    return lines


def machine() -> str:
    """Processor, cores, Python and torch: ratios of another machine are others."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    model = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def measured(names: list[str], folder: Path = HERE) -> dict[str, Any]:
    """What is written: the ratios of those scripts, told as they come."""
    found: dict[str, Any] = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    found |= {"load": os.getloadavg()[0], "ratios": {}, "failed": {}}
    for name in names:
        began = time.monotonic()
        try:
            found["ratios"][name] = run(name, folder)
        except RuntimeError as error:
            found["failed"][name] = str(error)
        print(
            f"{name}, {time.monotonic() - began:.0f} s",
            *([f"failed: {found['failed'][name]}"] if name in found["failed"] else []),
        )
        for what, ratio in found["ratios"].get(name, {}).items():
            print(f"  {ratio:7.2f}x  {what}", flush=True)
    return found


def report(found: dict[str, Any], folder: Path, *, keep: bool) -> None:
    """Write `found` into `folder`, tell what moved, and keep it where asked or where there is nothing to compare with."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "last.json", found)
    file = folder / "kept.json"
    kept = json.loads(file.read_text()) if file.is_file() else None
    if kept is None:
        print("\nThere were no ratios to compare with; these are kept.")
    else:
        lines = compared(kept["ratios"], found["ratios"])
        print(
            f"\nBeside those of {kept['made']}: "
            + (f"moved by more than {MOVED:.0%}" if lines else f"none moved by more than {MOVED:.0%}")
        )
        print("\n".join(lines) or "-")
        if kept["machine"] != found["machine"]:
            print(f"Those were made on another machine: {kept['machine']}.")
    if keep or kept is None:
        write_json(file, found | {"ratios": (kept or {"ratios": {}})["ratios"] | found["ratios"]})


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=scripts(), help="these scripts alone")
    parser.add_argument("--keep", action="store_true", help="compare with these ratios from now on")
    given = parser.parse_args()
    found = measured(given.only or scripts())
    report(found, FOLDER, keep=given.keep)
    sys.exit(bool(found["failed"]))


if __name__ == "__main__":
    main()
