"""A run: one folder under `outputs/` where the notebooks meet.

Notebooks hand each other files, never variables. What a notebook makes is an *artefact*: either a folder
(`corpus`, with `corpus/manifest.json`) or a few files with one stem (`embeddings/raw`: `raw.npy` and, as its manifest,
`raw.json`). The manifest is written last: settings, content hashes of the artefacts it was made from, hashes of its own
files, and the record (the numbers worth keeping). So an artefact either is complete or does not exist, a stage whose
settings and inputs did not change is reused, and a damaged file is named. A setting may be kept `aside`: it is written
down, but a change of it changes no result, so it makes nothing stale and throws no checkpoint away.

Where the outputs folder holds a `.store`, its runs share what they make: an artefact is looked up there by its name, settings and
inputs' hashes before it is built, and linked into the run. A grid has one.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from llm2rec_kit import meter
from llm2rec_kit.ranges import shown
from llm2rec_kit.stage import check_kind
from llm2rec_kit.storage import alone, cannot_write, file_digest, plain, write_json

RECORD_MIME = "application/vnd.llm2rec.record+json"
STORE = ".store"  # in an outputs folder: what its runs share
FORCED = "LLM2REC_FORCED"  # in the environment of a forced series: its name, which what it makes carries
MADE_BY = {
    "corpus": "01_data_prep",
    "backbone": "02_csft",
    "csft": "02_csft",
    "mntp": "03_item_embedding",
    "contrastive": "03_item_embedding",
    "encoder": "03_item_embedding",
    "embeddings": "03_item_embedding",
    "evaluation": "04_downstream_eval",
    "maps": "05_embedding_maps",
}
PACKAGES = ("torch", "transformers", "peft", "numpy", "scipy", "polars", "umap-learn", "matplotlib", "papermill")


class ArtefactError(RuntimeError):
    """An artefact is missing or damaged (the message says which notebook makes it), or cannot be written (and why)."""


def project_root() -> Path:
    """The folder that holds `notebooks/` and `llm2rec_kit/`, wherever the caller's working directory is."""
    for folder in (Path(__file__).resolve().parents[1], Path.cwd(), *Path.cwd().parents):
        if (folder / "notebooks").is_dir() and (folder / "llm2rec_kit").is_dir():
            return folder
    return Path.cwd()


def outputs_folder(outputs: str | Path = "") -> Path:
    """Where runs live: `outputs`, or the project's own outputs/; SettingsError for what is neither text nor a path."""
    if not isinstance(outputs, Path):
        check_kind("outputs", str, outputs)
    return Path(outputs).expanduser() if outputs else project_root() / "outputs"


def check_name(name: str) -> None:
    """Raise ValueError for what cannot be a run's name."""
    check_kind("run", str, name)
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError(f"A run's name is one plain folder name; found {shown(name)}.")


def find(name: str, outputs: str | Path = "") -> Run:
    """The run of this name under `outputs`, or in the folder that `name` leads to; ValueError where there is none."""
    base = outputs_folder(outputs)
    for folder in (base / name, Path(name).expanduser().resolve()):
        if (folder / "run.json").is_file():
            return Run(folder.name, folder.parent)
    raise ValueError(f"There is no run {name!r} in {base}. Make one with `llm2rec reproduce`.")


class Run:
    """The folder `outputs/<name>/` and what is in it."""

    def __init__(self, name: str, outputs: str | Path = "") -> None:
        """Open the run, making its folder if need be; `outputs` defaults to the project's `outputs/`."""
        check_name(name)
        self.name = name
        self.path = outputs_folder(outputs) / name
        with self._writing("the folder"):
            self.path.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def make(
        self,
        name: str,
        build: Callable[[Path], dict[str, Any] | None],
        *,
        settings: dict[str, Any],
        inputs: Sequence[str] = (),
        aside: Collection[str] = (),
        force: bool = False,
        quiet: bool = False,
        spent: float | dict[str, Any] = 0.0,
    ) -> Path:
        """Make artefact `name` with `build(folder)`, or reuse it, and return `path(name)`.

        With `force` it is made anew; once, where a whole series is forced (`reproduce --force`), however often that is
        interrupted. `build` writes its files into `folder` and returns the record. The folder outlives an interruption, so a
        `build` that keeps checkpoints there can resume; it is emptied when settings or inputs changed. Settings named in
        `aside` change no result: they are kept in the manifest and not compared. A file artefact
        (`embeddings/raw`) names its files after its stem (`raw.npy`). Unless `quiet`, prints what it does and why.
        `spent` is what it took elsewhere to make the content that `build` only writes, for run.json: seconds, or a cost as
        `meter.measured` gives it. Then memory and CPU time are those of the work, or absent, never those of the writing.
        """
        busy = "" if quiet else f"{name}: another process is making it; waiting until it has finished or died"
        with self._writing(repr(name)), alone(self._lock_path(name), busy):
            key, force = self._key(settings, inputs, aside), force and not self.redone(name)
            why = "redoing, forced" if force else self._stale(name, key)
            if not why:
                if not quiet:
                    print(f"{name}: reused, nothing changed since {self.manifest(name)['finished']}", flush=True)
                return self.path_of(name)
            with self._shared(name, key, busy) as shared:
                if shared and not force and self._fetch(shared, name):
                    if not quiet:
                        print(
                            f"{name}: taken from the store, made by another run with the same settings and inputs",
                            flush=True,
                        )
                    return self.path_of(name)
                partial = self._partial(name, key, force)
                if not quiet:
                    print(f"{name}: {why}", flush=True)
                with meter.measured() as cost:
                    record = build(partial) or {}
                self._finish(name, partial, key, record)
                self._note_stage(name, key["settings"], meter.with_work_elsewhere(cost, spent))
                if shared:
                    Run(shared.name, shared.parent).take(self, name)
        return self.path_of(name)

    def take(self, other: Run, name: str) -> None:
        """Link finished artefact `name` of another run into this one (copy it where the file system has no links).

        What it cost goes with it into run.json. Links are safe: an artefact is never written in place, only replaced.
        """
        manifest, source = other.manifest(name), other._manifest_path(name).parent
        folder = self.path_of(name).with_name(f".{name.split('/')[-1]}.taken")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in manifest["files"]:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source / file, folder / file)
            except OSError:
                shutil.copy2(source / file, folder / file)
        self._settle(name, folder, manifest)
        if name in (stages := other.about()["stages"]):
            self.note("stages", {name: stages[name]})

    def adopt(
        self,
        other: Run,
        name: str,
        *,
        settings: dict[str, Any],
        inputs: Sequence[str] = (),
        aside: Collection[str] = (),
    ) -> bool:
        """Take `name` from another run where it was made there with the same settings and inputs; whether it was."""
        if not other.has(name):
            return False
        key = self._key(settings, inputs, aside)
        if other._stale(name, key):
            return False
        if self._stale(name, key):
            self.take(other, name)
        return True

    def stale(
        self,
        name: str,
        *,
        settings: dict[str, Any],
        inputs: Sequence[str] = (),
        aside: Collection[str] = (),
        force: bool = False,
    ) -> bool:
        """Whether `make` with these arguments would build rather than reuse. What a shared store has is taken from there."""
        key = self._key(settings, inputs, aside)
        force = force and not self.redone(name)
        if force or not self._stale(name, key):
            return force
        shared = self._shared_path(name, key)
        return not (shared and self._fetch(shared, name))

    def redone(self, name: str) -> bool:
        """Whether the forced series that is under way has made `name` already, before it was interrupted perhaps."""
        with contextlib.suppress(ArtefactError):
            return bool(_forced()) and self.manifest(name).get("forced") == _forced()
        return False

    def forget(self, name: str) -> None:
        """Delete finished artefact `name`, from the store beside this run, too: the next `make` of it builds."""
        made = self.manifest(name)
        if shared := self._shared_path(name, made):
            shutil.rmtree(shared, ignore_errors=True)
        self._manifest_path(name).unlink()
        if "/" not in name:
            shutil.rmtree(self.path_of(name))
        for file in made["files"] if "/" in name else ():
            (self.path_of(name).parent / file).unlink(missing_ok=True)

    def require(self, name: str) -> Path:
        """Path of artefact `name`; raises ArtefactError where it is missing or a file of it is damaged."""
        self.manifest(name)
        if damaged := self._damaged(name):
            raise ArtefactError(
                f"{damaged}. Run notebooks/{_maker(name)}.ipynb again (run {self.name!r}): it redoes {name!r}."
            )
        return self.path_of(name)

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of artefact `name`; raises ArtefactError where there is none."""
        path = self._manifest_path(name)
        try:
            made = json.loads(path.read_text())
        except FileNotFoundError:
            raise ArtefactError(
                f"Run {self.name!r} has no {name!r} yet ({path} is missing). Run notebooks/{_maker(name)}.ipynb "
                f"first, with the same `run` parameter."
            ) from None
        except ValueError:
            made = None
        if not isinstance(made, dict) or not {"settings", "inputs", "files", "record", "finished"} <= made.keys():
            raise ArtefactError(
                f"{path} is damaged (not a manifest). Run notebooks/{_maker(name)}.ipynb again "
                f"(run {self.name!r}): it redoes {name!r}."
            )
        return made

    def record(self, name: str) -> dict[str, Any]:
        """The numbers that the stage kept about artefact `name`."""
        return self.manifest(name)["record"]

    def has(self, name: str) -> bool:
        """Whether artefact `name` is finished."""
        return self._manifest_path(name).is_file()

    def names(self, folder: str) -> list[str]:
        """Names of the finished file artefacts under `folder`, sorted: `names("embeddings")` -> ["embeddings/csft"]."""
        base = self.path / folder
        found = (p.relative_to(self.path) for p in sorted(base.rglob("*.json")))
        return [p.with_suffix("").as_posix() for p in found if not any(part.startswith(".") for part in p.parts)]

    def artefacts(self) -> list[str]:
        """Names of all finished artefacts, folders first."""
        folders = [p.parent.name for p in sorted(self.path.glob("[!.]*/manifest.json"))]
        return [*folders, *self.names("embeddings"), *self.names("evaluation")]

    def digest(self, name: str) -> str:
        """Content hash of artefact `name`: of its files' hashes, so a redone stage with equal files changes nothing."""
        self.require(name)
        return self._digest_of(name)

    def changed_inputs(self, name: str) -> list[str]:
        """Names of the artefacts that `name` was made from and that are not what the run holds now. Reads manifests alone."""
        inputs = self.manifest(name)["inputs"]
        return [i for i, digest in inputs.items() if not self.has(i) or self._digest_of(i) != digest]

    def path_of(self, name: str) -> Path:
        """Folder of a folder artefact; path without suffix of a file artefact."""
        return self.path / name

    def about(self) -> dict[str, Any]:
        """The contents of run.json: what was asked for, where and with what the run was last made, its stages and their cost."""
        path = self.path / "run.json"
        known = json.loads(path.read_text()) if path.is_file() else provenance()
        stages = known.get("stages", {})
        seeds = {name: s["settings"]["seed"] for name, s in stages.items() if "seed" in s["settings"]}
        parts = {"asked": {}, "notebooks": {}, **known, "seeds": seeds, "stages": stages, "measured": meter.MEANING}
        return {"name": self.name, **{k: v for k, v in parts.items() if k != "name"}}

    def note(self, part: str, value: dict[str, Any]) -> None:
        """Keep `value` in run.json: as `asked`, or added to `notebooks` or `stages`; the provenance becomes this process's."""
        with self._writing("run.json"), alone(self.path / ".run.lock"):  # two kernels may write at the same time
            about = {**self.about(), **provenance()}
            about[part] = value if part == "asked" else {**about[part], **value}
            write_json(self.path / "run.json", about)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _manifest_path(self, name: str) -> Path:
        return self.path / f"{name}.json" if "/" in name else self.path / name / "manifest.json"

    def _digest_of(self, name: str) -> str:
        return hashlib.sha256(json.dumps(self.manifest(name)["files"], sort_keys=True).encode()).hexdigest()

    def _key(self, settings: dict[str, Any], inputs: Sequence[str], aside: Collection[str]) -> dict[str, Any]:
        key = {"settings": settings, "inputs": {i: self.digest(i) for i in inputs}}
        return json.loads(json.dumps(key | ({"aside": sorted(aside)} if aside else {}), default=plain))

    def _stale(self, name: str, key: dict[str, Any]) -> str:
        """Why the artefact has to be made, as a phrase; empty where it can be reused."""
        try:
            made = self.manifest(name)
        except ArtefactError:
            return "making"
        asked, made = _counted(key, key), _counted(made, key)
        changed = [
            f"{part}.{k}"
            for part in asked
            for k in sorted({*asked[part], *made[part]})
            if asked[part].get(k) != made[part].get(k)
        ]
        if changed:
            return f"redoing, changed: {', '.join(changed)}"
        if damaged := self._damaged(name):
            return f"redoing, {damaged}"
        return ""

    def _damaged(self, name: str) -> str:
        base = self._manifest_path(name).parent
        for file, digest in self.manifest(name)["files"].items():
            if not (base / file).is_file():
                return f"{base / file} is missing"
            if file_digest(base / file) != digest:
                return f"{base / file} is damaged (its hash is not the manifest's)"
        return ""

    def _partial(self, name: str, key: dict[str, Any], force: bool) -> Path:
        """The working folder of `name`, kept from an interrupted make of the same key; if forced, of this forced series."""
        target = self.path / name
        partial = target.with_name(f".{target.name}.partial")
        mark = partial / ".key.json"
        begun = json.loads(mark.read_text() or "null") if mark.is_file() else None
        fresh = force and not (begun and _forced() and begun.get("forced") == _forced())
        if fresh or not begun or _counted(begun, key) != _counted(key, key):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write_json(mark, key | {"forced": _forced()})
        return partial

    def _finish(self, name: str, partial: Path, key: dict[str, Any], record: dict[str, Any]) -> None:
        """Turn the working folder into the artefact; the manifest comes last."""
        _check_record(name, record)
        (partial / ".key.json").unlink()
        files = {p.relative_to(partial).as_posix(): file_digest(p) for p in sorted(partial.rglob("*")) if p.is_file()}
        made = {"artefact": name, **key, "files": files, "record": record, "finished": _now()}
        self._settle(name, partial, made | ({"forced": _forced()} if _forced() else {}))

    def _settle(self, name: str, folder: Path, manifest: dict[str, Any]) -> None:
        """Move the files in `folder` to where artefact `name` is, and write its manifest last."""
        target = self.path / name
        if "/" in name:
            self._manifest_path(name).unlink(missing_ok=True)
            for file in manifest["files"]:
                (target.parent / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(folder / file, target.parent / file)
            shutil.rmtree(folder)  # folders that a build left empty
            write_json(self._manifest_path(name), manifest)
            return
        write_json(folder / "manifest.json", manifest)
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            os.replace(target, old)
        os.replace(folder, target)
        shutil.rmtree(old, ignore_errors=True)

    def _lock_path(self, name: str) -> Path:
        return self.path_of(name).with_name(f".{name.split('/')[-1]}.lock")

    def _shared_path(self, name: str, key: dict[str, Any]) -> Path | None:
        """Where the store beside this run keeps such an artefact (a run of its own); None without a store."""
        store = self.path.parent / STORE
        if not store.is_dir():
            return None
        return store / hashlib.sha256(json.dumps([name, _counted(key, key)], sort_keys=True).encode()).hexdigest()[:32]

    @contextlib.contextmanager
    def _shared(self, name: str, key: dict[str, Any], busy: str) -> Iterator[Path | None]:
        """The artefact's place in the store, held alone: of two runs that need it, one makes it and the other waits."""
        path = self._shared_path(name, key)
        if path is None:
            yield None
            return
        with alone(path.with_name(f".{path.name}.lock"), busy):
            yield path

    def _fetch(self, shared: Path, name: str) -> bool:
        """Take `name` from its place in the store, sound; whether it was there."""
        if not shared.is_dir():
            return False
        try:
            other = Run(shared.name, shared.parent)
            other.require(name)
            self.take(other, name)
        except ArtefactError:
            return False
        return True

    def _note_stage(self, name: str, settings: dict[str, Any], cost: dict[str, Any]) -> None:
        made_by = {"git": _git(), "finished": _now()}
        self.note("stages", {name: {"settings": settings, **cost, **made_by}})

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Turn an error that says that the disk is full or closed into one that says what to do."""
        try:
            yield
        except ArtefactError:
            raise
        except Exception as error:
            if why := cannot_write(error, self.path):
                raise ArtefactError(f"{what} of run {self.name!r} could not be written: {why}") from error
            raise


def provenance() -> dict[str, Any]:
    """Package versions, git commit and dirtiness, machine: what a reader needs to repeat a run.

    Looked at once a process: that is when the code was imported that makes the numbers.
    """
    return json.loads(json.dumps(_provenance()))


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
        "gpus": meter.gpus(),
    }
    return {"versions": versions, "git": _git(), "machine": machine}


def show_record(name: str, values: dict[str, Any]) -> None:
    """Keep numbers in the executed notebook: shown as text, stored under a MIME type that `read_records` finds."""
    from IPython.display import display

    text = "  ".join(f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())
    kept = json.loads(json.dumps({"name": name, "values": values}, default=plain))
    display({RECORD_MIME: kept, "text/plain": f"recorded {name}: {text}"}, raw=True)


def read_records(notebook: Path) -> dict[str, dict[str, Any]]:
    """The records of an executed notebook by name."""
    cells = json.loads(Path(notebook).read_text())["cells"]
    outputs = (o.get("data", {}).get(RECORD_MIME) for c in cells for o in c.get("outputs", []))
    return {o["name"]: o["values"] for o in outputs if o}


@contextlib.contextmanager
def one_paragraph_errors() -> Iterator[None]:
    """Turn the kit's own errors into one paragraph on stderr and exit code 2."""
    try:
        yield
    except BrokenPipeError:  # whoever read our output has seen enough
        raise
    except (ArtefactError, ValueError, OSError) as error:
        print(f"llm2rec: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _counted(made: dict[str, Any], key: dict[str, Any]) -> dict[str, Any]:
    """The settings and inputs of `made` (a key or a manifest) that count: all but those that `key` keeps aside."""
    aside = key.get("aside", ())
    return {"settings": {k: v for k, v in made["settings"].items() if k not in aside}, "inputs": made["inputs"]}


def _check_record(name: str, record: dict[str, Any]) -> None:
    """Raise ValueError for a record that cannot be kept: better before its files are moved than after."""
    try:
        json.dumps(record, default=plain, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"The record of {name!r} cannot be kept as JSON: {error}. It takes finite numbers, text, "
            f"lists and dicts; found {record!r:.300}."
        ) from None


def _forced() -> str:
    return os.environ.get(FORCED, "")


def _maker(name: str) -> str:
    return MADE_BY.get(name.split("/")[0], "01_data_prep")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@cache
def _git() -> dict[str, Any] | None:
    try:

        def git(*words: str) -> str:
            return subprocess.run(
                ["git", *words], cwd=project_root(), capture_output=True, text=True, check=True
            ).stdout.strip()

        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
