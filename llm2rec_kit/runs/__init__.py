"""A run: one folder under `outputs/` where the notebooks meet.

Notebooks hand each other files, never variables. What a notebook makes is an *artefact*: either a folder
(`corpus`, with `corpus/manifest.json`) or a few files with one stem (`embeddings/raw`: `raw.npy` and, as its manifest,
`raw.json`). The manifest is written last: settings, content hashes of the artefacts it was made from, hashes of its own
files, the record (the numbers worth keeping) and a hash over all of that. So an artefact either is complete or does not
exist, a stage whose settings and inputs did not change is reused, and a damaged file or manifest is named. A setting may be kept `aside`: it is written
down, but a change of it changes no result, so it makes nothing stale and throws no checkpoint away.

Where the outputs folder holds a `.store`, its runs share what they make: an artefact is looked up there by its name, settings and
inputs' hashes before it is built, and linked into the run. A grid has one.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from llm2rec_kit import storage
from llm2rec_kit.runs import info, manifest, meter
from llm2rec_kit.runs.info import provenance
from llm2rec_kit.runs.places import project_root
from llm2rec_kit.settings.ranges import clipped, shown
from llm2rec_kit.settings.stage import check_kind
from llm2rec_kit.storage import alone, cannot_write, clear, expanded, file_digest, plain, write_json

RECORD_MIME = "application/vnd.llm2rec.record+json"
UNSEEN = "<!-- a record: its numbers are in this output's own MIME type -->"
STORE = ".store"  # in an outputs folder: what its runs share
FORCED = "LLM2REC_FORCED"  # in the environment of a forced series: its name, which what it makes carries
SERIES = "LLM2REC_SERIES"  # in the environment of a kernel that runs a notebook of a series: what changed may be replaced
LONGEST_NAME = 200  # bytes of a run's name: file systems take 255, and names are made of it
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


class ArtefactError(RuntimeError):
    """An artefact is missing or damaged (the message says which notebook makes it), or cannot be written (and why)."""


def outputs_folder(outputs: str | Path = "") -> Path:
    """Where runs live: `outputs`, or the outputs/ that `project_root` has; SettingsError for what is neither text nor a path."""
    if not isinstance(outputs, Path):
        check_kind("outputs", str, outputs)
    return expanded(outputs) if outputs else project_root() / "outputs"


def check_name(name: str) -> None:
    """Raise ValueError for what cannot be a run's name."""
    check_kind("run", str, name)
    plain_one = name and name == Path(name).name and not name.startswith(".") and name.isprintable()
    if not plain_one or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise ValueError(f"A run's name is one plain folder name of at most {LONGEST_NAME} bytes; found {shown(name)}.")


def find(name: str, outputs: str | Path = "") -> Run:
    """The run of this name under `outputs`, or in the folder that `name` leads to; ValueError where there is none."""
    base = outputs_folder(outputs)
    for folder in (base / name, expanded(name).resolve()):
        if any(os.path.lexists(folder / note) for note in (info.FILE, "corpus/manifest.json")):
            return Run(folder.name, folder.parent)
    raise ValueError(f"There is no run {shown(name)} in {base}. Make one with `llm2rec reproduce`.")


class Run:
    """The folder `outputs/<name>/` and what is in it.

    `before_replacing`, where somebody sets it, is called with the name of a finished artefact that is about to be replaced, not
    forced, and {setting: (has, asked)} of the settings that changed; it may raise.
    """

    before_replacing: Callable[[str, dict[str, tuple[Any, Any]]], None] | None = None

    def __init__(self, name: str, outputs: str | Path = "") -> None:
        """Open the run, making its folder if need be; `outputs` defaults to the project's `outputs/`."""
        check_name(name)
        self.name = name
        self.path = outputs_folder(outputs) / name
        if self.path.exists() and not self.path.is_dir():
            raise ArtefactError(
                f"{self.path} is no folder, so no run can be kept in it. Move it away, or name the run otherwise."
            )
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
        for folder in self.path_of(name).relative_to(self.path).parents:
            if os.path.lexists(at := self.path / folder) and not at.is_dir():
                raise ArtefactError(f"{at} is no folder, so {name!r} cannot be kept in it. Move it away and run again.")
        with self._writing(repr(name)), alone(self._lock_path(name), busy):
            key, force = self._key(settings, inputs, aside), force and not self.redone(name)
            why = "redoing, forced" if force else self._stale(name, key)
            if not why:
                if not quiet:
                    print(f"{name}: reused, nothing changed since {self.manifest(name)['finished']}", flush=True)
                return self.path_of(name)
            if not force:
                self._ask(name, key)
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
                    if not shared.is_dir():
                        clear(shared)
                    Run(shared.name, shared.parent).take(self, name)
        return self.path_of(name)

    def take(self, other: Run, name: str) -> None:
        """Link finished artefact `name` of another run into this one (copy it where the file system has no links).

        What it cost goes with it into run.json. Links are safe: an artefact is never written in place, only replaced.
        """
        made, source = other.manifest(name), other.manifest_path(name).parent
        folder = self.path_of(name).with_name(f".{name.split('/')[-1]}.taken")
        clear(folder)
        folder.mkdir(parents=True)
        for file in made["files"]:
            if why := storage.fault(source / file):
                raise ArtefactError(f"{source / file} {why}. {_again(other, name)}")
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source / file, folder / file)
            except OSError:
                shutil.copy2(source / file, folder / file)
        self._settle(name, folder, made)
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
        self._ask(name, key)
        shared = self._shared_path(name, key)
        return not (shared and self._fetch(shared, name))

    def redone(self, name: str) -> bool:
        """Whether the forced series that is under way has made `name` already, before it was interrupted perhaps."""
        with contextlib.suppress(ArtefactError):
            return bool(_forced()) and self.manifest(name).get("forced") == _forced()
        return False

    def forget(self, name: str) -> None:
        """Delete finished artefact `name`, from the store beside this run, too: the next `make` of it builds.

        Of a damaged one whatever can be told to be its own is deleted.
        """
        try:
            made = self.manifest(name)
        except ArtefactError:
            made = {"files": {}}
        if "settings" in made and (shared := self._shared_path(name, made)):
            shutil.rmtree(shared, ignore_errors=True)
        clear(self.manifest_path(name))
        if "/" not in name:
            clear(self.path_of(name))
        for file in made["files"] if "/" in name else ():
            if (place := manifest.place(self.path_of(name).parent, file)).is_symlink() or not place.is_dir():
                place.unlink(missing_ok=True)

    def require(self, name: str, *, gone: bool = False) -> Path:
        """Path of artefact `name`; raises ArtefactError where it is missing, or its manifest or a file of it is damaged.

        With `gone` files may have been deleted: whoever wants its record alone needs none of them.
        """
        made = self.manifest(name)
        if damaged := manifest.damage(self.manifest_path(name).parent, made, gone=gone):
            raise ArtefactError(f"{damaged}. {_again(self, name)}")
        self._check_strays(name, made)
        return self.path_of(name)

    def file(self, name: str, file: str) -> Path | None:
        """Path of one file of artefact `name`, sound; None where it has no such file. ArtefactError as `require`."""
        made, folder = self.manifest(name), self.manifest_path(name).parent
        if file not in made["files"]:
            return None
        if damaged := manifest.damage_of(folder, made, file):
            raise ArtefactError(f"{damaged}. {_again(self, name)}")
        return folder / file

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of artefact `name`; raises ArtefactError where there is none or it is damaged."""
        path = self.manifest_path(name)
        try:
            return manifest.read(path, name)
        except FileNotFoundError:
            raise ArtefactError(
                f"Run {self.name!r} has no {name!r} yet ({path} is missing). Run notebooks/{_maker(name)}.ipynb "
                f"first, with the same `run` parameter."
            ) from None
        except ValueError as error:
            raise ArtefactError(f"{error} {_again(self, name)}") from None

    def manifest_path(self, name: str) -> Path:
        """Where the manifest of artefact `name` is."""
        path = self.path_of(name)
        return path.with_name(f"{path.name}.json") if "/" in name else path / manifest.FOLDER_NOTE

    def record(self, name: str) -> dict[str, Any]:
        """The numbers that the stage kept about artefact `name`."""
        return self.manifest(name)["record"]

    def has(self, name: str) -> bool:
        """Whether artefact `name` is finished: whether something is where its manifest would be, damaged or not.

        False for what no artefact can be called, such as a model's folder elsewhere.
        """
        with contextlib.suppress(ArtefactError):
            return os.path.lexists(self.manifest_path(name))
        return False

    def names(self, folder: str) -> list[str]:
        """Names of the finished file artefacts under `folder`, sorted: `names("embeddings")` -> ["embeddings/csft"]."""
        base = self.path / folder
        found = (p.relative_to(self.path) for p in sorted(base.rglob("*.json")))
        return [p.with_suffix("").as_posix() for p in found if not any(map(_is_no_name, p.parts))]

    def artefacts(self) -> list[str]:
        """Names of all finished artefacts, folders first."""
        found = (p.name for p in sorted(self.path.iterdir()) if os.path.lexists(p / manifest.FOLDER_NOTE))
        return [*(name for name in found if not _is_no_name(name)), *self.names("embeddings"), *self.names("evaluation")]

    def digest(self, name: str) -> str:
        """Content hash of artefact `name`: of its files' hashes, so a redone stage with equal files changes nothing."""
        self.require(name)
        return self._digest_of(name)

    def changed_inputs(self, name: str) -> list[str]:
        """Names of the artefacts that `name` was made from and that are not what the run holds now. Reads manifests alone."""
        inputs = self.manifest(name)["inputs"]
        return [i for i, digest in inputs.items() if not self.has(i) or self._digest_of(i) != digest]

    def path_of(self, name: str) -> Path:
        """Folder of a folder artefact; path without suffix of a file artefact. ArtefactError for what is not in the run."""
        try:
            path = storage.inside(self.path, name)
        except ValueError as error:
            raise ArtefactError(f"{error} Artefacts of run {self.name!r} are all within its folder.") from None
        if path == self.path or any(map(_is_no_name, Path(name).parts)):
            raise ArtefactError(
                f"An artefact's name has no part that begins with a dot or ends in {storage.DAMAGED}; found {name!r}."
            )
        return path

    def about(self) -> dict[str, Any]:
        """The contents of run.json: what was asked for, where and with what the run was last made, its stages and their cost."""
        with self._writing(info.FILE):
            return info.read(self)

    def note(self, part: str, value: dict[str, Any]) -> None:
        """Keep `value` in run.json: as `asked`, or added to `notebooks` or `stages`; the provenance becomes this process's."""
        with self._writing(info.FILE):
            info.note(self, part, value, provenance())

    # -- inside -------------------------------------------------------------------------------------------------------

    def _digest_of(self, name: str) -> str:
        return hashlib.sha256(json.dumps(self.manifest(name)["files"], sort_keys=True).encode()).hexdigest()

    def _key(self, settings: dict[str, Any], inputs: Sequence[str], aside: Collection[str]) -> dict[str, Any]:
        key = {"settings": settings, "inputs": {i: self.digest(i) for i in inputs}}
        return json.loads(json.dumps(key | ({"aside": sorted(aside)} if aside else {}), default=plain))

    def _stale(self, name: str, key: dict[str, Any]) -> str:
        """Why the artefact has to be made, as a phrase; empty where it can be reused."""
        try:
            found = manifest.read(self.manifest_path(name), name)
        except FileNotFoundError:
            return "making"
        except ValueError as error:
            return f"redoing, {str(error).rstrip('.')}"
        asked, made = _counted(key, key), _counted(found, key)
        changed = [
            f"{part}.{k}"
            for part in asked
            for k in sorted({*asked[part], *made[part]})
            if asked[part].get(k) != made[part].get(k)
        ]
        if changed:
            return f"redoing, changed: {', '.join(changed)}"
        if damaged := manifest.damage(self.manifest_path(name).parent, found):
            return f"redoing, {damaged}"
        self._check_strays(name, found)
        return ""

    def _ask(self, name: str, key: dict[str, Any]) -> None:
        """Let `before_replacing` refuse, where `name` is there, sound as far as its manifest, with other settings than `key`."""
        if self.before_replacing is None or not self.has(name):
            return
        try:
            found = manifest.read(self.manifest_path(name), name)
        except ValueError:
            return
        made, asked = _counted(found, key)["settings"], _counted(key, key)["settings"]
        if changed := {k: (made.get(k), asked.get(k)) for k in {**asked, **made} if asked.get(k) != made.get(k)}:
            self.before_replacing(name, changed)

    def _check_strays(self, name: str, made: dict[str, Any]) -> None:
        """Raise ArtefactError for a file in a folder artefact that is none of its own: that is no reason to make it again."""
        if "/" not in name and (path := manifest.stray(self.path_of(name), made)):
            raise ArtefactError(
                f"{path} is none of the files of {name!r}, and what reads the folder might take it for one. Move it out of "
                "the folder, or delete it, and run again."
            )

    def _partial(self, name: str, key: dict[str, Any], force: bool) -> Path:
        """The working folder of `name`, kept from an interrupted make of the same key; if forced, of this forced series."""
        target = self.path_of(name)
        partial = target.with_name(f".{target.name}.partial")
        mark = partial / ".key.json"
        if partial.is_symlink() or not partial.is_dir():  # what is begun elsewhere is not this run's
            clear(partial)
        begun = storage.note_or_nothing(mark, f"What was begun of {name!r} is not gone on with.")
        same = all(isinstance(begun.get(part), dict) for part in ("settings", "inputs")) and _counted(
            begun, key
        ) == _counted(key, key)
        if not same or (force and not (_forced() and begun.get("forced") == _forced())):
            clear(partial)
            partial.mkdir(parents=True)
            storage.write_note(mark, key | {"forced": _forced()})
        return partial

    def _finish(self, name: str, partial: Path, key: dict[str, Any], record: dict[str, Any]) -> None:
        """Turn the working folder into the artefact; the manifest comes last."""
        _check_record(name, record)
        (partial / ".key.json").unlink()
        files = {p.relative_to(partial).as_posix(): file_digest(p) for p in sorted(partial.rglob("*")) if p.is_file()}
        made = {"artefact": name, **key, "files": files, "record": record, "finished": _now()}
        self._settle(name, partial, storage.sealed(made | ({"forced": _forced()} if _forced() else {})))

    def _settle(self, name: str, folder: Path, made: dict[str, Any]) -> None:
        """Move the files in `folder` to where artefact `name` is, and write its manifest, sealed already, last."""
        target, path = self.path_of(name), self.manifest_path(name)
        if "/" in name:
            _make_room(path)
            path.unlink(missing_ok=True)
            for file in made["files"]:
                place = manifest.place(target.parent, file)
                _make_room(place)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(folder / file, place)
            shutil.rmtree(folder)  # folders that a build left empty
            write_json(path, made)
            return
        write_json(folder / manifest.FOLDER_NOTE, made)
        old = target.with_name(f".{target.name}.old")
        clear(old)
        _make_room(target, folder=True)
        if os.path.lexists(target):
            os.replace(target, old)
        os.replace(folder, target)
        clear(old)

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
        made_by = {"git": info.git(), "finished": _now(), storage.SEAL: self.manifest(name).get(storage.SEAL)}
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


def show_record(name: str, values: dict[str, Any]) -> None:
    """Keep numbers in the executed notebook, under a MIME type that `read_records` finds; a page shows nothing of it, a terminal a line."""
    from IPython.display import display

    text = "  ".join(f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())
    kept = storage.sealed({"name": name, "values": values})
    display({RECORD_MIME: kept, "text/html": UNSEEN, "text/plain": f"recorded {name}: {text}"}, raw=True)


def read_records(notebook: Path) -> dict[str, dict[str, Any]]:
    """The records of an executed notebook by name; ValueError that names the notebook where it or a record is damaged."""
    again = "Run the notebook again: it makes nothing anew that is finished."
    try:
        cells = storage.read_json(Path(notebook)).get("cells", [])
        found = [o["data"][RECORD_MIME] for c in cells for o in c.get("outputs", []) if RECORD_MIME in o.get("data", {})]
        sound = all(storage.is_sealed(o) for o in found)
        records = {o["name"]: o["values"] for o in found}
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise ValueError(f"{error} {again}") from None
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{notebook} is damaged: it is no notebook, or its records are none. {again}") from None
    if not sound:
        raise ValueError(f"{notebook} is damaged: a record in it is not what was written (its hash is another). {again}")
    return records


@contextlib.contextmanager
def one_paragraph_errors() -> Iterator[None]:
    """Turn the kit's own errors into one paragraph on stderr and exit code 2."""
    try:
        yield
    except BrokenPipeError:  # whoever read our output has seen enough
        raise
    except (ArtefactError, ValueError, OSError) as error:
        at = getattr(error, "filename", None)  # of the system's errors, whose text repeats the whole name
        print(f"llm2rec: {f'{clipped(str(at))}: {error.strerror}' if at else error}", file=sys.stderr)
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


def _again(run: Run, name: str) -> str:
    """What to do about a damaged artefact."""
    return (
        f"Run notebooks/{_maker(name)}.ipynb again (run {run.name!r}): it redoes {name!r}. What no notebook makes any more, "
        "delete."
    )


def _is_no_name(part: str) -> bool:
    """Whether a file or folder of this name is none of the artefacts: hidden, or put aside."""
    return part.startswith(".") or part.endswith(storage.DAMAGED)


def _make_room(path: Path, *, folder: bool = False) -> None:
    """Put aside, and tell, a folder that stands where a file is to be, or with `folder` whatever stands where one is to be."""
    if os.path.lexists(path) and not path.is_symlink() and path.is_dir() != folder:
        wanted = "no folder where one" if folder else "a folder where a file"
        print(f"{path} is {wanted} is to be; it is now {storage.set_aside(path)}.", flush=True)


def _maker(name: str) -> str:
    return MADE_BY.get(name.split("/")[0], "01_data_prep")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
