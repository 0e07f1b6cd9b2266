"""Files that are whole or not there, made by one process at a time, or a plain reason why they cannot be; their hashes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import reprlib
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}
ADVICE = "Give another place with `outputs` (--outputs). What was finished is kept; the same command goes on from there."
LONGEST_NAME = 120  # bytes of a folder name made from data: room for what is put before and after it
DAMAGED = ".damaged"  # the ending of what was found damaged and is kept, out of the way
MISSING = "is missing"
PARTIAL = ".partial"  # the ending, or the name, of a folder that is being written
SEAL = "seal"  # the key of a note that holds the hash of all else in it


def write_json(path: Path, value: Any, *, sort: bool = False) -> None:
    """Write `value` as JSON, as `write_text` writes; with `sort` keys are in order, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=1, default=as_plain, allow_nan=False, sort_keys=sort) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 so that `path` holds either the old text or the whole new one, also after a crash."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either the old bytes or all of the new ones, also after a crash."""
    with write_whole(path) as part:
        part.write_bytes(data)


@contextlib.contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Yield the path of a hidden file to write to; after the block `path` is that file, or as before where it failed.

    The hidden name has the same suffix, by which libraries choose a format. A link stays a link: what it leads to is
    replaced. ValueError where something other than a file is in the way.
    """
    place = check_target(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.stem}.{os.getpid()}.{threading.get_ident()}{place.suffix}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def write_whole_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder to write into; after the block `path` is that folder, or as before where it failed.

    After an error nothing is left of it, folders above it that it made included; what a killed process left goes first.
    A mounted folder cannot be replaced, and the working folder must not be (who stands in it would stand in a deleted one):
    of these the contents are replaced, one after another, once all is written.
    """
    made = [above for above in path.parents if not above.exists()]
    stays = path.is_dir() and (path.is_mount() or path.samefile(Path.cwd()))
    part, old = (path / kind if stays else path.with_name(f".{path.name}{kind}") for kind in (PARTIAL, ".old"))
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        shutil.rmtree(old, ignore_errors=True)
        if stays:
            _replace_contents(path, part)
        else:
            if path.exists():
                os.replace(path, old)
            os.replace(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not path.exists():
            os.replace(old, path)
        for above in made:
            with contextlib.suppress(OSError):
                above.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def is_free(path: Path) -> bool:
    """Tell whether `write_whole_folder` loses nothing at `path`: nothing is there, or an empty folder."""
    return not path.exists() or (path.is_dir() and all(entry.name == PARTIAL for entry in path.iterdir()))


def _replace_contents(path: Path, part: Path) -> None:
    """Put what is in `part`, a folder in `path`, in the place of all else there."""
    for entry in sorted(path.iterdir()):
        if entry != part:
            clear(entry)
    for entry in sorted(part.iterdir()):
        os.replace(entry, path / entry.name)
    part.rmdir()


def check_target(path: str | Path, begins: bytes = b"") -> Path:
    """Return where a file written to `path` would lie: `path`, or what it links to.

    ValueError where that is no regular file, or holds something that does not begin as what is written there does
    (`begins`): the file of titles given as the place of their embeddings would be lost.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return path.resolve() if path.is_symlink() else path
    except OSError as error:  # a loop of links, a file in the place of a folder, a closed folder
        raise ValueError(f"{path} cannot be written to: {error.strerror}. Give another place.") from None
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{path} is {describe_kind(mode)}, and writing there would replace it. Give a file, or a path where nothing is yet."
        )
    with path.open("rb") as file:
        if (start := file.read(len(begins))) and start != begins:
            raise ValueError(
                f"{path} holds something else than what is to be written, which would replace it. Give another path."
            )
    return path.resolve() if path.is_symlink() else path


def read_json(path: Path, kind: type = dict) -> Any:
    """Read the JSON file `path`, which holds a `kind`; ValueError where it is damaged, FileNotFoundError where none is."""
    if why := find_fault(path):
        raise (FileNotFoundError if why == MISSING else ValueError)(f"{path} {why}.")
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:  # gone just now: another process makes it anew
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON ({reprlib.repr(str(error))}).") from None
    if not isinstance(found, kind):
        raise ValueError(f"{path} is damaged: it holds {type(found).__name__} where {kind.__name__} is expected.")
    return found


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """Return `value` as JSON keeps it, with a hash over it under SEAL; ValueError or TypeError where JSON cannot hold it."""
    # Numbers and keys as they are read back.
    kept: dict[str, Any] = json.loads(json.dumps(value, default=as_plain, allow_nan=False))
    return kept | {SEAL: _seal(kept)}


def is_sealed(value: dict[str, Any]) -> bool:
    """Tell whether `value` is as `seal` returned it. What has no seal counts as well: earlier versions wrote none."""
    try:
        return SEAL not in value or value[SEAL] == _seal(value)
    except RecursionError:
        return False


def write_note(path: Path, value: dict[str, Any]) -> None:
    """Write `value` as JSON with its seal, by which `read_note` tells that nothing in it has changed since."""
    write_json(path, seal(value))


def read_note(path: Path) -> dict[str, Any]:
    """Read what `write_note` wrote, its seal included. A note without a seal is of an earlier version, and taken as it is.

    Raises as `read_json`, and ValueError where the note is no longer what was written.
    """
    found: dict[str, Any] = read_json(path)
    if not is_sealed(found):
        raise ValueError(f"{path} is damaged: it is not what was written (its hash is another).")
    return found


def read_note_or_nothing(path: Path, instead: str) -> dict[str, Any]:
    """Read a note as `read_note` does; {} where none is, or a damaged one, which is told, with `instead`, and put away."""
    try:
        return read_note(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        print(f"{error} {instead}", flush=True)
        if path.is_dir():
            set_aside(path)
        else:
            with contextlib.suppress(NotADirectoryError):
                path.unlink()
    return {}


def set_aside(path: Path) -> Path:
    """Rename whatever is at `path` to `<name>.damaged`, in place of an earlier one, and return that path."""
    kept = path.with_name(f"{path.name}{DAMAGED}")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        clear(kept)
        os.replace(path, kept)
    return kept


def clear(path: Path) -> None:
    """Remove what is at `path`, a file, a link or a folder with all that is in it; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def find_fault(path: Path) -> str:
    """Say why `path` is no file that can be opened, as a phrase ("is missing", "is a folder"); empty where it is one."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is a link that leads nowhere" if path.is_symlink() else MISSING
    except OSError as error:  # a loop of links, a file in the place of a folder, a closed folder
        return f"cannot be read: {error.strerror}"
    except ValueError as error:  # a name that no file can have
        return f"cannot be read: {error}"
    return "" if stat.S_ISREG(mode) else f"is {describe_kind(mode)} where a file is expected"


def make_safe_name(name: str) -> str:
    """Return a folder name for `name`, which comes out of data: one part, not hidden, without control characters.

    >>> make_safe_name("Home/Kitchen"), make_safe_name("../up"), make_safe_name(".hidden"), make_safe_name("Toys & Games")
    ('Home_Kitchen', 'up', 'hidden', 'Toys & Games')

    Raises ValueError where nothing is left, or more than file systems take.
    """
    parts = [part for part in re.split(r"[/\\]", name) if part.strip(" .")]
    safe = re.sub(r"[\x00-\x1f\x7f\u0085\u2028\u2029]", " ", "_".join(parts)).strip().lstrip(". ")
    if not safe or len(safe.encode("utf-8", "replace")) > LONGEST_NAME:
        raise ValueError(f"{reprlib.repr(name)} cannot be the name of a folder: give it one of 1 to {LONGEST_NAME} bytes.")
    return safe


def require_inside(base: Path, name: str) -> Path:
    """Return `base / name`; ValueError where that is not in `base`: `name` comes out of a file, which may be another's."""
    odd = not isinstance(name, str) or not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts
    if odd or not _resolved(base / name).is_relative_to(_resolved(base)):
        raise ValueError(f"{reprlib.repr(name)} leads out of {base}, where it was found. Nothing is read or written there.")
    return base / name


@contextlib.contextmanager
def hold_lock(path: Path, busy: str = "") -> Iterator[None]:
    """Let one process or thread at a time run the block; `busy` is printed where this one has to wait.

    A killed holder lets go by itself. The lock's file goes with the last holder, so whoever waited on it must look
    whether the file that he holds is still the one at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if busy:
                    print(busy, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, path):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def hash_file(path: Path) -> str:
    """Compute the sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_file_once(path: Path) -> str:
    """Return `hash_file` of `path`, computed once in this process as long as nothing about the file changes.

    Of a file that changed this second nothing is kept: another change within a clock tick would leave its times as they are.
    """
    now = path.stat()
    if time.time_ns() - now.st_ctime_ns < 1e9:
        return hash_file(path)
    return _digest_of(path, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)


@lru_cache(maxsize=4096)
def _digest_of(path: Path, *state: int) -> str:
    return hash_file(path)


@contextlib.contextmanager
def name_place(to: str | Path, option: str) -> Iterator[None]:
    """Name `to` and the command's `option` in any error of the block that says that the disk of `to` is full or closed."""
    try:
        yield
    except Exception as error:
        if why := explain_write_error(error, Path(to).absolute().parent, f"Give another place with {option}."):
            raise OSError(f"{to} could not be written: {why}") from error
        raise


def explain_write_error(error: BaseException, folder: Path, advice: str = ADVICE) -> str:
    """Say why nothing could be written to `folder` and what to do, where `error` or its cause tells; empty otherwise.

    Libraries that write for us wrap the system's error in their own, so the whole chain is looked at, and its text.
    """
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    said = " ".join(map(str, chain))
    system = [e for e in chain if isinstance(e, OSError)]
    codes = {e.errno for e in system} - REFUSED | {e.errno for e in system if _concerns(e, folder)}
    nothing_left = measure_free_mib(folder) < 1 and not isinstance(error, ValueError)
    if codes & FULL or "No space left on device" in said or nothing_left:
        return f"the disk of {folder} is full ({measure_free_mib(folder):.0f} MiB free). Make room there and run again. Or: {advice}"
    if codes & REFUSED or "Read-only file system" in said:
        why = next((os.strerror(code) for code in sorted(REFUSED & codes)), "Read-only file system")
        return f"{folder} cannot be written to ({why}). {advice}"
    if errno.EFBIG in codes or "File too large" in said:
        return f"a file in {folder} may not grow as large as it must (`ulimit -f`, or the file system's limit). {advice}"
    return ""


def check_writable(folder: Path) -> None:
    """Make `folder` and a file in it, or raise OSError with the reason and what to do."""
    folder = Path(folder)
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0" * 4096)
    except OSError as error:
        raise OSError(f"Nothing can be made: {explain_write_error(error, folder) or error}") from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def measure_free_mib(folder: Path) -> float:
    """Measure the free space where `folder` is or would be, MiB; infinite where that cannot be told."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(find_nearest_folder(folder)).free / 2**20
    return float("inf")


def find_nearest_folder(folder: Path) -> Path:
    """Find `folder`, or the nearest folder above it that exists: where it would be made."""
    at = Path(folder).absolute()
    return next(p for p in (at, *at.parents) if p.exists())


def expand_home(path: str | Path) -> Path:
    """Replace the `~` of `path` by the home that it stands for; ValueError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{reprlib.repr(str(path))} begins with a home that nobody has. Give another path.") from None


def as_plain(value: Any) -> Any:
    """Convert a numpy value or a path to what JSON can hold: the `default` of json.dump. TypeError for anything else."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be kept in a JSON file: {value!r}")


def _concerns(error: OSError, folder: Path) -> bool:
    """Whether the file that the error names is in `folder` or on the way to it."""
    if not isinstance(error.filename, str | os.PathLike):
        return False
    at, base = Path(error.filename).absolute(), Path(folder).absolute()
    return at.is_relative_to(base) or base.is_relative_to(at)


def _seal(value: dict[str, Any]) -> str:
    """The hash over all of a note but its seal."""
    return hashlib.sha256(json.dumps({k: v for k, v in value.items() if k != SEAL}, sort_keys=True).encode()).hexdigest()


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError:  # what Python before 3.13 makes of a loop of links
        raise ValueError(f"{path} is a loop of links.") from None


def describe_kind(mode: int) -> str:
    """Name the kind of what `mode` says is no regular file, for a reader: "a folder", "a named pipe"."""
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the open `file` is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
