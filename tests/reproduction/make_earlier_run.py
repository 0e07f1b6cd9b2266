"""Make `earlier_run.tar.xz`, the finished run that test_earlier_run.py unpacks: a run by code of an earlier day must load and be reused.

    git worktree add --detach ../then 9508c545a253 && PYTHONPATH=$PWD/../then python tests/reproduction/make_earlier_run.py

It is not to be made anew because the kit changed: that it was made before is what it is for. Where a release changes what is
written on purpose, put another beside it.

Left out of it are pictures (in notebooks, `figures/`, the report), which nothing reads back; folders of the machine that made
it are replaced by names.
"""

from __future__ import annotations

import getpass
import hashlib
import importlib.util
import json
import lzma
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ARCHIVE = Path(__file__).with_name("earlier_run.tar.xz")
RUN = "earlier"
SETTINGS = {
    "data.synthetic_users": 60,
    "data.synthetic_items": 72,
    "backbone.hidden": 16,
    "backbone.layers": 1,
    "backbone.vocabulary": 300,
    "csft.steps": 2,
    "csft.batch_size": 16,
    "csft.warmup_steps": 0,
    "csft.evaluate_samples": 8,
    "mntp.steps": 2,
    "mntp.batch_size": 8,
    "contrastive.steps": 2,
    "contrastive.batch_size": 8,
    "contrastive.warmup_steps": 0,
    "encoding.variants": ["csft-last-causal"],
    "evaluation.embeddings": ["raw", "contrastive", "id"],
    "evaluation.baselines": ["popularity", "nearest"],
    "evaluation.hidden": 8,
    "evaluation.layers": 1,
    "evaluation.inner": 8,
    "evaluation.epochs": 1,
    "maps.neighbours": 5,
    "maps.clusters": 3,
    "tables.models": ["LLM2Vec", "LLMEmb"],
    "tables.normalised": False,
    "tables.backbones": ["tiny-8"],
    "questions.asked": ["temperature", "mntp", "text"],
}
NOT_READ_BACK = {"figures", "explorer.html", "report.html", "report.md", "projector"}


def make(outputs: Path) -> Path:
    """Run the series into `outputs`; returns the run's folder."""
    words = [sys.executable, "-m", "llm2rec_kit.cli", "reproduce", "--profile", "smoke", "--run", RUN]
    words += [w for name, value in SETTINGS.items() for w in ("--set", f"{name}={json.dumps(value)}")]
    subprocess.run([*words, "--outputs", str(outputs)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return outputs / RUN


def places(outputs: Path) -> dict[str, str]:
    """Folders of this machine and what stands for them."""
    checkout = Path(importlib.util.find_spec("llm2rec_kit").origin).parents[1]
    named = {outputs: "outputs", checkout: "llm2rec_kit", Path(sys.prefix): "python", Path.home(): "home"}
    return {str(place): name for place, name in named.items()}


def replace_places(text: str, outputs: Path) -> str:
    """`text` without folders of this machine."""
    for place, name in places(outputs).items():
        text = text.replace(place, name)
    return re.sub(r"/tmp/ipykernel_\d+", "ipykernel", text)


def without_pictures(notebook: dict) -> dict:
    """An executed notebook with its text and its records, and no picture."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for kind in [k for k in data if k.startswith("image/") or "widget" in k or k == "text/html"]:
                del data[kind]
    notebook["metadata"].pop("widgets", None)
    return notebook


def tidy(run: Path, outputs: Path) -> None:
    """Take out of notebooks and run.json what differs from machine to machine, or is large and not read back."""
    for book in sorted((run / "notebooks").glob("*.ipynb")):
        slim = json.dumps(without_pictures(json.loads(book.read_text())), indent=1)
        book.write_text(replace_places(slim, outputs))
    for note in run.rglob("run.json"):
        kept = json.loads(replace_places(note.read_text(), outputs))
        kept.pop("seal")
        seal = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
        note.write_text(json.dumps(kept | {"seal": seal}, indent=1) + "\n")


def pack(run: Path, archive: Path) -> None:
    """Write the run's files into an archive, without owners; what is linked within the run stays linked."""

    def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = info.name.split("/")
        if info.name.endswith(".lock") or (len(parts) > 1 and parts[1] in NOT_READ_BACK):
            return None
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    with lzma.open(archive, "wb", preset=9 | lzma.PRESET_EXTREME) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(run, RUN, filter=kept)


def check(archive: Path, outputs: Path) -> None:
    """Raise AssertionError where a file in the archive names this machine's folders or its user."""
    names = [*places(outputs), f"/{getpass.getuser()}/", "/tmp/", "ipykernel_"]
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            data = tar.extractfile(member).read() if member.isreg() else b""
            found = [name for name in names if name.encode() in data]
            assert not found, f"{member.name} names {found}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve() / "outputs"
        made = make(place)
        tidy(made, place)
        pack(made, ARCHIVE)
        check(ARCHIVE, place)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size / 1e3:.0f} kB")
