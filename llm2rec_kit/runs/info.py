"""run.json: what a run was asked for, where and with what it was last made, its stages and what they cost.

What a stage is, its manifest says; run.json tells its cost. A stage that it notes is shown where the run holds that very
one. Where run.json is damaged or another run's, it is kept beside and made anew, as far as manifests tell.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import json
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2rec_kit import storage
from llm2rec_kit.runs import manifest, meter, places

if TYPE_CHECKING:
    from llm2rec_kit.runs import Run

FILE = "run.json"
PACKAGES = ("torch", "transformers", "peft", "numpy", "scipy", "polars", "umap-learn", "matplotlib", "papermill")
PARTS = {"asked": dict, "notebooks": dict, "stages": dict, "versions": dict, "git": dict | None, "machine": dict}


def read(run: Run) -> dict[str, Any]:
    """Read run.json, of its stages those that the run has."""
    known = _read_or_mend(run)
    own = {name: stage for name, stage in known["stages"].items() if _is_of(run, name, stage)}
    return _whole(run, known | {"stages": own})


def read_stage(run: Run, name: str) -> dict[str, Any] | None:
    """Read what run.json notes of stage `name`; None where it notes nothing, or of another stage than the run has. Reads
    few manifests, where `read` reads all."""
    stage = _read_or_mend(run)["stages"].get(name)
    return stage if _is_of(run, name, stage) else None


def write(run: Run, part: str, value: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Keep `value`: as `asked`, or added to `notebooks` or `stages`; the provenance becomes this process's."""
    with storage.hold_lock(run.path / ".run.lock"):  # two kernels may write at the same time
        try:
            about = _read(run, value)
        except ValueError as error:
            about = _anew(run, str(error))
        about |= provenance
        about[part] = value if part == "asked" else {**about[part], **value}
        storage.write_note(run.path / FILE, _whole(run, about))


def collect_provenance() -> dict[str, Any]:
    """Collect package versions, git state and machine, to repeat a run; once a process, when the code was imported."""
    return copy.deepcopy(_provenance())


def _read_or_mend(run: Run) -> dict[str, Any]:
    """All that run.json holds; where it is damaged or another run's, made anew and written."""
    try:
        return _read(run)
    except ValueError as error:
        with storage.hold_lock(run.path / ".run.lock"):
            known = _anew(run, str(error))
            storage.write_note(run.path / FILE, known)
        return known


def _read(run: Run, noted: dict[str, Any] | None = None) -> dict[str, Any]:
    """All that run.json holds; ValueError where it is damaged or another run's. `noted` are stages made just now."""
    path = run.path / FILE
    try:
        known = storage.read_note(path)
    except FileNotFoundError:
        return _whole(run, collect_provenance() | {"stages": _of_manifests(run)})
    if odd := [part for part, kind in PARTS.items() if not isinstance(known.get(part, {}), kind)]:
        raise ValueError(f"{path} is damaged: {', '.join(odd)} in it is not what it should be.")
    stages = known.get("stages", {})
    of_it = any(_is_of(run, name, stage) for name, stage in stages.items())
    if stages and not of_it and {*run.artefacts()} - {*(noted or {})}:
        raise ValueError(f"{path} is another run's: none of the stages that it notes is what run {run.name!r} holds.")
    return _whole(run, collect_provenance() | known | {"stages": stages})


def _whole(run: Run, known: dict[str, Any]) -> dict[str, Any]:
    """`known` with the parts that follow from it or never change."""
    stages = {name: s for name, s in known["stages"].items() if isinstance(s, dict) and isinstance(s.get("settings"), dict)}
    seeds = {name: s["settings"]["seed"] for name, s in stages.items() if "seed" in s["settings"]}
    parts = {"asked": {}, "notebooks": {}, **known, "stages": stages, "seeds": seeds, "measured": meter.MEANING}
    return {"name": run.name, **{k: v for k, v in parts.items() if k not in ("name", storage.SEAL)}}


def _is_of(run: Run, name: str, stage: Any) -> bool:
    """Whether a stage in run.json is the one that the run holds."""
    made = _made(run, name)
    if made is None or not isinstance(stage, dict) or stage.get("settings") != made["settings"]:
        return False
    return stage.get(storage.SEAL, made.get(storage.SEAL)) == made.get(storage.SEAL)


def _anew(run: Run, why: str) -> dict[str, Any]:
    """What run.json would hold, of what the manifests tell; the one there is kept beside it, and that is told."""
    with contextlib.suppress(OSError):
        kept = storage.set_aside(run.path / FILE)
        print(
            f"{why} It is made anew of the manifests, without costs and command; what was there is now {kept}.", flush=True
        )
    return _whole(run, collect_provenance() | {"stages": _of_manifests(run)})


def _of_manifests(run: Run) -> dict[str, Any]:
    found = {name: made for name in run.artefacts() if (made := _made(run, name)) is not None}
    return {n: {k: m[k] for k in ("settings", "finished", storage.SEAL) if k in m} for n, m in found.items()}


def _made(run: Run, name: str) -> dict[str, Any] | None:
    """A stage's manifest; None without a sound one."""
    with contextlib.suppress(ValueError, FileNotFoundError):
        return manifest.read(run.manifest_path(name), name)
    return None


@cache
def _provenance() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    machine = {
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": meter.list_gpus(),
    }
    return {"versions": versions, "git": read_git(), "machine": machine}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@cache
def read_git() -> dict[str, Any] | None:
    """Read the commit of the code's checkout, or that pip built it from, and whether there are other changes; None where
    nothing tells."""
    if (root := places.find_checkout()) is None:
        return _installed_from()
    try:

        def asked(*words: str) -> str:
            return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

        return {"commit": asked("rev-parse", "HEAD"), "dirty": bool(asked("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _installed_from() -> dict[str, Any] | None:
    """The commit in the note that pip leaves of a package installed from a repository."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        told = json.loads(importlib.metadata.distribution("llm2rec-kit").read_text("direct_url.json") or "")
        return {"commit": told["vcs_info"]["commit_id"], "dirty": False}
    return None
