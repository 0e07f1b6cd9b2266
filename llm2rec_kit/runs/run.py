"""The folder of a run and its artefacts: made, reused, shared, checked."""

from __future__ import annotations

import contextlib
import datetime
import difflib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from llm2rec_kit import storage
from llm2rec_kit.runs import info, manifest, store, working_folder
from llm2rec_kit.runs.errors import ArtefactError, advise, find_maker
from llm2rec_kit.runs.info import collect_provenance
from llm2rec_kit.runs.places import check_name, find_outputs, is_no_name
from llm2rec_kit.runs.series import find_forced
from llm2rec_kit.settings.ranges import show_value
from llm2rec_kit.storage import as_plain, clear, expand_home, explain_write_error, hold_lock, write_json


def find(name: str, outputs: str | Path = "") -> Run:
    """Find the run of this name under `outputs`, or in the folder that `name` leads to; ValueError where there is none."""
    base = find_outputs(outputs)
    for folder in (base / name, expand_home(name).resolve()):
        if any(os.path.lexists(folder / note) for note in (info.FILE, "corpus/manifest.json")):
            return Run(folder.name, folder.parent)
    runs = sorted(folder.parent.name for folder in base.glob(f"*/{info.FILE}"))
    near = difflib.get_close_matches(name, runs, n=1)
    advice = f"Did you mean {near[0]!r}?" if near else "Make one with `llm2rec reproduce`."
    raise ValueError(f"There is no run {show_value(name)} in {base}. {advice}")


def find_begun(name: str, outputs: str | Path = "") -> Run | None:
    """Find the run of this name under `outputs`; None, and no folder made as `Run` does, where there is no folder of it."""
    return Run(name, outputs) if (find_outputs(outputs) / name).is_dir() else None


class Run:
    """The folder `outputs/<name>/` and what is in it.

    `before_replacing`, where somebody sets it, is called with the name of a finished artefact that is about to be replaced,
    not forced, and {setting: (has, asked)} of the settings that changed; it may raise.
    """

    before_replacing: Callable[[str, dict[str, tuple[Any, Any]]], None] | None = None

    def __init__(self, name: str, outputs: str | Path = "") -> None:
        """Open the run, making its folder if need be; `outputs` defaults to the project's `outputs/`."""
        check_name(name)
        self.name = name
        self.path = find_outputs(outputs) / name
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

        With `force` it is made anew; in a forced series (`reproduce --force`) once, however often that is interrupted.
        `build` writes its files into `folder` and returns the record. The folder outlives an interruption, so checkpoints
        there can resume; it is emptied when settings or inputs changed, and goes with an error that comes before any file.
        Settings named in `aside` change no result: they are kept and not compared. A file artefact (`embeddings/raw`) names
        its files after its stem (`raw.npy`). Unless `quiet`, prints what it does and why. `spent` is what it took elsewhere to
        make the content that `build` only writes, for run.json: seconds, or a cost of `meter.measure`.
        """
        busy = "" if quiet else f"{name}: another process is making it; waiting until it has finished or died"
        for folder in self.path_of(name).relative_to(self.path).parents:
            if os.path.lexists(at := self.path / folder) and not at.is_dir():
                raise ArtefactError(f"{at} is no folder, so {name!r} cannot be kept in it. Move it away and run again.")
        lock = self.path_of(name).with_name(f".{name.split('/')[-1]}.lock")
        with self._writing(repr(name)), hold_lock(lock, busy):
            key, force = self._key(settings, inputs, aside), force and not self.made_by_this_force(name)
            why = "redoing, forced" if force else self._stale(name, key)
            if not why:
                _tell(name, f"reused, nothing changed since {self.manifest(name)['finished']}", quiet)
                return self.path_of(name)
            if not force:
                self._ask(name, key)
            with store.hold(self, name, key, busy) as shared:
                if shared and not force and self._fetch(shared, name):
                    _tell(name, "taken from the store, made by another run with the same settings and inputs", quiet)
                    return self.path_of(name)
                folder, built = working_folder.open_at(self.path_of(name), name, key, force=force)
                _tell(name, f"{why}; all was built when it was interrupted" if built else why, quiet)
                built = built or working_folder.build_in(folder, name, build, spent)
                self._finish(name, folder, key, built["record"])
                self._note_stage(name, key["settings"], built["cost"])
                if shared:
                    if not shared.is_dir():
                        clear(shared)
                    Run(shared.name, shared.parent).link_from(self, name)
        return self.path_of(name)

    def link_from(self, other: Run, name: str) -> None:
        """Link finished artefact `name` of another run, and its cost, into this one (copy it where the file system has no
        links). Links are safe: an artefact is never written in place, only replaced."""
        made, source = other.manifest(name), other.manifest_path(name).parent
        folder = self.path_of(name).with_name(f".{name.split('/')[-1]}.taken")
        clear(folder)
        folder.mkdir(parents=True)
        for file in made["files"]:
            if why := storage.find_fault(source / file):
                raise ArtefactError(f"{source / file} {why}. {advise(other, name)}")
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source / file, folder / file)
            except OSError:
                shutil.copy2(source / file, folder / file)
        self._settle(name, folder, made)
        with other._writing(info.FILE):
            stage = info.read_stage(other, name)
        if stage:
            self.write_info("stages", {name: stage})

    def reuse_from(
        self,
        other: Run,
        name: str,
        *,
        settings: dict[str, Any],
        inputs: Sequence[str] = (),
        aside: Collection[str] = (),
    ) -> bool:
        """Take `name` from another run where it was made there with the same settings and inputs; returns whether it was."""
        if not other.has(name):
            return False
        key = self._key(settings, inputs, aside)
        if other._stale(name, key):
            return False
        if self._stale(name, key):
            self.link_from(other, name)
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
        """Tell whether `make` with these arguments would build rather than reuse or take it from a shared store."""
        key = self._key(settings, inputs, aside)
        force = force and not self.made_by_this_force(name)
        if force or not self._stale(name, key):
            return force
        self._ask(name, key)
        shared = store.place(self, name, key)
        return not (shared and self._fetch(shared, name))

    def made_by_this_force(self, name: str) -> bool:
        """Tell whether the forced series that is under way has made `name` already, perhaps before it was interrupted."""
        with contextlib.suppress(ArtefactError):
            return bool(find_forced()) and self.manifest(name).get("forced") == find_forced()
        return False

    def forget(self, name: str) -> None:
        """Delete artefact `name` (of a damaged one, what is known to be its own), also from the store: the next `make`
        builds."""
        try:
            made = self.manifest(name)
        except ArtefactError:
            made = {"files": {}}
        if "settings" in made and (shared := store.place(self, name, made)):
            shutil.rmtree(shared, ignore_errors=True)
        clear(self.manifest_path(name))
        if "/" not in name:
            clear(self.path_of(name))
        for file in made["files"] if "/" in name else ():
            if (place := manifest.place(self.path_of(name).parent, file)).is_symlink() or not place.is_dir():
                place.unlink(missing_ok=True)

    def require(self, name: str, *, gone: bool = False) -> Path:
        """Return the path of artefact `name`; ArtefactError where it is missing, or its manifest or a file of it is damaged.

        With `gone`, files may have been deleted: whoever wants its record alone needs none of them.
        """
        made = self.manifest(name)
        if damaged := manifest.find_damage(self.manifest_path(name).parent, made, gone=gone):
            raise ArtefactError(f"{damaged}. {advise(self, name)}")
        self._check_strays(name, made)
        return self.path_of(name)

    def file(self, name: str, file: str) -> Path | None:
        """Return the path of one file of artefact `name`, checked; None where there is no such file. Raises as `require`."""
        made, folder = self.manifest(name), self.manifest_path(name).parent
        if file not in made["files"]:
            return None
        if damaged := manifest.find_damage_of_file(folder, made, file):
            raise ArtefactError(f"{damaged}. {advise(self, name)}")
        return folder / file

    def manifest(self, name: str) -> dict[str, Any]:
        """Read the manifest of artefact `name`; ArtefactError where there is none or it is damaged."""
        path = self.manifest_path(name)
        try:
            return manifest.read(path, name)
        except FileNotFoundError:
            raise ArtefactError(
                f"Run {self.name!r} has no {name!r} yet ({path} is missing). Run notebooks/{find_maker(name)}.ipynb "
                f"first, with the same `run` parameter."
            ) from None
        except ValueError as error:
            raise ArtefactError(f"{error} {advise(self, name)}") from None

    def manifest_path(self, name: str) -> Path:
        """Return where the manifest of artefact `name` is."""
        path = self.path_of(name)
        return path.with_name(f"{path.name}.json") if "/" in name else path / manifest.FOLDER_NOTE

    def record(self, name: str) -> dict[str, Any]:
        """Return the numbers that the stage kept about artefact `name`."""
        record: dict[str, Any] = self.manifest(name)["record"]
        return record

    def has(self, name: str) -> bool:
        """Tell whether artefact `name` is finished: whether something is where its manifest would be, damaged or not. False
        for what no artefact can be called, such as a model's folder elsewhere."""
        with contextlib.suppress(ArtefactError):
            return os.path.lexists(self.manifest_path(name))
        return False

    def names(self, folder: str) -> list[str]:
        """List the finished file artefacts under `folder`, sorted: `names("embeddings")` -> ["embeddings/csft"]."""
        found: list[Path] = []
        for place, folders, files in os.walk(self.path / folder):  # passes over what another process takes away meanwhile
            folders[:] = [f for f in folders if not is_no_name(f)]
            found += [Path(place, f) for f in (*folders, *files) if f.endswith(".json") and not is_no_name(f)]
        return [p.relative_to(self.path).with_suffix("").as_posix() for p in sorted(found)]

    def artefacts(self) -> list[str]:
        """List all finished artefacts by name, folders first."""
        found = (p.name for p in sorted(self.path.iterdir()) if os.path.lexists(p / manifest.FOLDER_NOTE))
        return [*(name for name in found if not is_no_name(name)), *self.names("embeddings"), *self.names("evaluation")]

    def digest(self, name: str) -> str:
        """Return the content hash of artefact `name`: of its files' hashes, so that equal files made anew have the same."""
        self.require(name)
        return manifest.hash_content(self.manifest(name))

    def changed_inputs(self, name: str) -> list[str]:
        """List the artefacts that `name` was made from and that are not what the run holds now. Reads manifests alone."""
        inputs = self.manifest(name)["inputs"]
        return [i for i, digest in inputs.items() if not self.has(i) or manifest.hash_content(self.manifest(i)) != digest]

    def path_of(self, name: str) -> Path:
        """Return a folder artefact's folder, or a file artefact's path without suffix; ArtefactError for what is outside."""
        try:
            path = storage.require_inside(self.path, name)
        except ValueError as error:
            raise ArtefactError(f"{error} Artefacts of run {self.name!r} are all within its folder.") from None
        if path == self.path or any(map(is_no_name, Path(name).parts)):
            raise ArtefactError(
                f"An artefact's name has no part that begins with a dot or ends in {storage.DAMAGED}; found {name!r}."
            )
        return path

    def read_info(self) -> dict[str, Any]:
        """Read run.json: what was asked for, where and with what the run was last made, its stages and their cost."""
        with self._writing(info.FILE):
            return info.read(self)

    def write_info(self, part: str, value: dict[str, Any]) -> None:
        """Keep `value` in run.json: as `asked`, or added to `notebooks` or `stages`; with this process's provenance."""
        with self._writing(info.FILE):
            info.write(self, part, value, collect_provenance())

    # -- inside -------------------------------------------------------------------------------------------------------

    def _key(self, settings: dict[str, Any], inputs: Sequence[str], aside: Collection[str]) -> dict[str, Any]:
        key = {"settings": settings, "inputs": {i: self.digest(i) for i in inputs}}
        kept: dict[str, Any] = json.loads(json.dumps(key | ({"aside": sorted(aside)} if aside else {}), default=as_plain))
        return kept

    def _stale(self, name: str, key: dict[str, Any]) -> str:
        """Why the artefact has to be made, as a phrase; empty where it can be reused."""
        try:
            found = manifest.read(self.manifest_path(name), name)
        except FileNotFoundError:
            return "making"
        except ValueError as error:
            return f"redoing, {str(error).rstrip('.')}"
        asked, made = manifest.select_counted(key, key), manifest.select_counted(found, key)
        changed = [
            f"{part}.{k}"
            for part in asked
            for k in sorted({*asked[part], *made[part]})
            if asked[part].get(k) != made[part].get(k)
        ]
        if changed:
            return f"redoing, changed: {', '.join(changed)}"
        if damaged := manifest.find_damage(self.manifest_path(name).parent, found):
            return f"redoing, {damaged}"
        self._check_strays(name, found)
        return ""

    def _ask(self, name: str, key: dict[str, Any]) -> None:
        """Let `before_replacing` refuse, where `name` is there, its manifest sound, with other settings than `key`."""
        if self.before_replacing is None or not self.has(name):
            return
        try:
            found = manifest.read(self.manifest_path(name), name)
        except ValueError:
            return
        made, asked = manifest.select_counted(found, key)["settings"], manifest.select_counted(key, key)["settings"]
        if changed := {k: (made.get(k), asked.get(k)) for k in {**asked, **made} if asked.get(k) != made.get(k)}:
            self.before_replacing(name, changed)

    def _check_strays(self, name: str, made: dict[str, Any]) -> None:
        """Raise ArtefactError for a file in a folder artefact that is none of its own: that is no reason to make it
        again."""
        if "/" not in name and (path := manifest.find_stray(self.path_of(name), made)):
            raise ArtefactError(
                f"{path} is none of the files of {name!r}, and what reads the folder might take it for one. Move it out of "
                "the folder, or delete it, and run again."
            )

    def _finish(self, name: str, folder: Path, key: dict[str, Any], record: dict[str, Any]) -> None:
        """Turn the working folder into the artefact; the manifest comes last."""
        files = working_folder.hash_files(folder)
        made = {"artefact": name, **key, "files": files, "record": record, "finished": _now()}
        self._settle(name, folder, storage.seal(made | ({"forced": find_forced()} if find_forced() else {})))

    def _settle(self, name: str, folder: Path, made: dict[str, Any]) -> None:
        """Move the files in `folder` to where artefact `name` is, its manifest, sealed already, last. What can fail for want
        of space, writing the manifest, comes before any file is moved."""
        target, path = self.path_of(name), self.manifest_path(name)
        write_json(folder / manifest.FOLDER_NOTE, made)
        if "/" in name:
            _make_room(path)
            path.unlink(missing_ok=True)
            for file in made["files"]:
                place = manifest.place(target.parent, file)
                _make_room(place)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(folder / file, place)
            os.replace(folder / manifest.FOLDER_NOTE, path)
            shutil.rmtree(folder)
            return
        (folder / working_folder.KEY_NOTE).unlink(missing_ok=True)
        old = target.with_name(f".{target.name}.old")
        clear(old)
        _make_room(target, folder=True)
        if os.path.lexists(target):
            os.replace(target, old)
        os.replace(folder, target)
        clear(old)

    def _fetch(self, shared: Path, name: str) -> bool:
        """Take `name` from its place in the store, sound; whether it was there."""
        if not shared.is_dir():
            return False
        try:
            other = Run(shared.name, shared.parent)
            other.require(name)
            self.link_from(other, name)
        except ArtefactError:
            return False
        return True

    def _note_stage(self, name: str, settings: dict[str, Any], cost: dict[str, Any]) -> None:
        made_by = {"git": info.read_git(), "finished": _now(), storage.SEAL: self.manifest(name).get(storage.SEAL)}
        self.write_info("stages", {name: {"settings": settings, **cost, **made_by}})

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Turn an error that says that the disk is full or closed into one that says what to do."""
        try:
            yield
        except ArtefactError:
            raise
        except Exception as error:
            if why := explain_write_error(error, self.path):
                raise ArtefactError(f"{what} of run {self.name!r} could not be written: {why}") from error
            raise


def _tell(name: str, what: str, quiet: bool) -> None:
    """Say what becomes of artefact `name`, unless `quiet`."""
    if not quiet:
        print(f"{name}: {what}", flush=True)


def _make_room(path: Path, *, folder: bool = False) -> None:
    """Put aside, and tell, a folder that stands where a file is to be, or with `folder` whatever stands where one is to
    be."""
    if os.path.lexists(path) and not path.is_symlink() and path.is_dir() != folder:
        wanted = "no folder where one" if folder else "a folder where a file"
        print(f"{path} is {wanted} is to be; it is now {storage.set_aside(path)}.", flush=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
