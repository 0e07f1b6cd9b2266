"""Downloads: one published file at a time, whole or not at all.

`fetch` streams into a hidden part file, resumes a broken transfer where the server allows it, checks what came (announced
length, a published checksum, every gzip and zip member), moves it to its name and then writes `<name>.download.json`:
address, bytes, sha256, when. A file under its final name is therefore complete, and later calls prove it by the hash.

Built on requests, which papermill brings already: it follows redirects, honours proxies and certificate stores, and
reports a body that ends early; urllib's `read(n)` returns such a body without a word.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import re
import shutil
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from tqdm.auto import tqdm

from llm2rec_kit.data.sources import DOWNLOAD_MANIFEST
from llm2rec_kit.storage import expand_home, hash_file, read_note_or_nothing, write_note, write_whole

CHUNK = 1 << 20  # bytes
TIMEOUT = (20, 60)  # seconds to connect, seconds without a byte
WAIT = 1.0  # seconds before the first retry; doubles each time
RETRIED = (408, 425, 429, 500, 502, 503, 504)
BROKEN = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)


class DownloadError(ValueError):
    """A file that could not be fetched whole; the message names the address, what was found and what to do."""


@dataclass
class _Part:
    """A transfer under way: the part file, and what the server said of the whole (in a file beside it)."""

    url: str
    path: Path
    total: int | None = None
    etag: str = ""
    modified: str = ""

    @property
    def name(self) -> str:
        return self.path.name.strip(".").removesuffix(".part")

    @property
    def have(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def recall(self) -> None:
        """What an earlier call left; a part of another address, or one without a note, is dropped."""
        known = read_note_or_nothing(self.note, "The download begins anew.")
        if known.get("url") == self.url and {"total", "etag", "modified"} <= known.keys() and self.have:
            self.total, self.etag, self.modified = known["total"], known["etag"], known["modified"]
        else:
            self.drop()

    def keep(self, response: requests.Response, total: int | None) -> None:
        self.total, self.etag, self.modified = total, *_validators(response)
        write_note(self.note, {"url": self.url, "total": total, "etag": self.etag, "modified": self.modified})

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.total, self.etag, self.modified = None, "", ""


def fetch(url: str, folder: str | Path, *, name: str | None = None, checksum: str = "", tries: int = 5) -> Path:
    """Download the file at `url` into `folder`, unless it is there whole already; returns its path.

    `name` is the file's name there (default: the last part of the address); `checksum` its published hash as "md5:..." or
    "sha256:...". A transfer that breaks is taken up where it stopped, or from the start where the server cannot do that or
    its file changed; after `tries` in a row that got no farther, DownloadError. What was fetched stays for the next call,
    except where it proved damaged. A file that lies there without a manifest was put there by hand: it is checked against
    `checksum` and otherwise left as it is.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"An address starts with http:// or https://; found {url!r}.")
    name = name or unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    if not name or name != Path(name).name or name.startswith("."):
        raise DownloadError(f"A file's name is one plain name; found {name!r} for {url}. Give another by name=.")
    folder = expand_home(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    with _alone(folder):
        if _there(target, url, checksum):
            return target
        part = _Part(url, folder / f".{name}.part")
        part.recall()
        started = time.perf_counter()
        _transfer(part, tries)
        digest, received = _checked(part, checksum), part.have
        os.replace(part.path, target)
        part.note.unlink(missing_ok=True)
        about = {"url": url, "name": name, "bytes": received, "sha256": digest, "etag": part.etag}
        about |= {"modified": part.modified, "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
        write_note(folder / (name + DOWNLOAD_MANIFEST), about)
    print(f"{name}: fetched, {received / 2**20:.1f} MiB in {time.perf_counter() - started:.0f} s", flush=True)
    return target


def unpack(archive: Path, folder: str | Path, names: list[str]) -> list[Path]:
    """Unpack the files `names` of a zip, wherever in it they lie, into `folder`; those that it lacks are left out.

    Only base names are used, so no path in the archive can lead elsewhere; each file appears whole or not at all.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            base = member.filename.rsplit("/", 1)[-1]
            if member.is_dir() or base not in names or folder / base in made:
                continue
            with write_whole(folder / base) as part, opened.open(member) as source, part.open("wb") as sink:
                shutil.copyfileobj(source, sink, CHUNK)
            made.append(folder / base)
    return made


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time in `folder`; the lock is on the folder itself, so it leaves no file behind."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _there(target: Path, url: str, checksum: str) -> bool:
    """Whether `target` needs no fetching; says so, and says why where it does although a file is there."""
    if not target.is_file():
        return False
    note = target.parent / (target.name + DOWNLOAD_MANIFEST)
    by_hand, whole = not os.path.lexists(note), True
    known = read_note_or_nothing(note, "What it tells of is fetched again.")
    if by_hand:
        _compare(target, "the file that is there already", checksum)
        told = "kept, it was there already (not fetched from here, so not compared with a hash)"
    elif known.get("url") != url:
        told, whole = f"fetching again, the one there came from {known.get('url')}", False
    elif target.stat().st_size != known.get("bytes") or hash_file(target) != known.get("sha256"):
        told, whole = "fetching again, the one there is damaged (its size or sha256 is not its manifest's)", False
    else:
        told = f"reused, fetched {known.get('finished')}"
    print(f"{target.name}: {told}", flush=True)
    return whole


def _transfer(part: _Part, tries: int) -> None:
    """Bring `part` to its full length."""
    failures, farthest = 0, part.have
    troubles: list[str] = []
    bar = tqdm(desc=part.name, unit="B", unit_scale=True, unit_divisor=1024, leave=False, disable=not sys.stderr.isatty())
    with requests.Session() as session, bar:
        while True:
            try:
                trouble = _request(session, part, bar)
                if not trouble:
                    return
            except BROKEN as error:
                trouble = _ended(part) if "IncompleteRead" in repr(error) else _plainly(error)
                if "certificate" in trouble.lower():
                    raise DownloadError(f"{part.url}: no safe connection, {trouble}. {_by_hand(part)}") from None
            except requests.RequestException as error:
                raise DownloadError(f"{part.url}: {_plainly(error)}. {_by_hand(part)}") from None
            failures, farthest = (1, part.have) if part.have > farthest else (failures + 1, farthest)
            troubles = [t for t in troubles if t != trouble] + [trouble]
            if failures >= tries:
                whole = f" of {part.total:,}" if part.total else ""
                raise DownloadError(
                    f"{part.url}: {'; '.join(troubles[-3:])}. Given up after {tries} tries that got no farther, with "
                    f"{part.have:,}{whole} bytes here; call again to go on from there. {_by_hand(part)}"
                )
            time.sleep(WAIT * 2 ** (failures - 1))


def _request(session: requests.Session, part: _Part, bar: tqdm[Any]) -> str:
    """One request for what is missing. Returns what went wrong where another try may help, else nothing."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "llm2rec-kit"}
    if part.have:
        headers["Range"] = f"bytes={part.have}-"
    with session.get(part.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        if status in RETRIED:
            return f"the server answered {status} {response.reason}"
        if status == 416 and part.have and _range(response)[1] == part.have == part.total:
            return ""
        if status == 416 and part.have:
            trouble = f"the server announced {part.total} bytes, and now says that it has {_range(response)[1]}"
            part.drop()
            return trouble
        if status not in (200, 206):
            raise DownloadError(f"{part.url}: the server answered {status} {response.reason}. {_by_hand(part)}")
        coding = response.headers.get("Content-Encoding", "identity")
        if coding != "identity" and not part.name.endswith(".gz"):
            raise DownloadError(f"{part.url}: the server sent the content coding {coding!r}, which was not asked for.")
        said = response.headers.get("Content-Length", "")
        start, total = _range(response) if status == 206 else (0, int(said) if said.isdigit() else None)
        if status == 206 and (start != part.have or not _same_file(part, response, total)):
            part.drop()
            return "the server has another file by now"
        if status == 200:
            part.drop()
        part.keep(response, total)
        bar.total, bar.n = total, part.have
        with part.path.open("ab") as sink:
            # read1: what has come is written at once, so that a cut connection loses nothing that arrived before it
            while chunk := response.raw.read1(CHUNK, decode_content=False):
                sink.write(chunk)
                bar.update(len(chunk))
    return _ended(part) if total is not None and part.have < total else ""


def _ended(part: _Part) -> str:
    announced = f"{part.total:,} announced" if part.total is not None else "an unknown number of"
    return f"the connection ended after {part.have:,} of {announced} bytes"


def _same_file(part: _Part, response: requests.Response, total: int | None) -> bool:
    etag, modified = _validators(response)
    return total == part.total and etag == part.etag and (bool(etag) or modified == part.modified)


def _validators(response: requests.Response) -> tuple[str, str]:
    return response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")


def _range(response: requests.Response) -> tuple[int, int | None]:
    """Start and whole length of a `Content-Range: bytes 5-9/10` (or `bytes */10`, start -1); (-1, None) where it is odd."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if not found:
        return -1, None
    return int(found[1] or -1), int(found[2]) if found[2] != "*" else None


def _checked(part: _Part, checksum: str) -> str:
    """sha256 of the finished part; DownloadError, and the part dropped, where it is not what it should be."""
    try:
        if part.total is not None and part.have != part.total:
            raise DownloadError(f"the server announced {part.total:,} bytes and sent {part.have:,}")
        _compare(part.path, "what was sent", checksum)
        if part.name.endswith(".gz"):
            check_gzip(part.path)
        if part.name.endswith(".zip"):
            _check_zip(part.path)
    except DownloadError as error:
        part.drop()
        raise DownloadError(f"{part.url}: {error}. Nothing was kept. {_by_hand(part)}") from None
    with part.path.open("rb+") as file:
        os.fsync(file.fileno())
    return hash_file(part.path)


def _compare(file: Path, what: str, checksum: str) -> None:
    if checksum:
        kind, _, wanted = checksum.partition(":")
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, kind).hexdigest()
        if found != wanted.lower():
            raise DownloadError(f"{what} has the {kind} {found}, the published file has {wanted} ({file.name})")


def check_gzip(file: Path) -> None:
    """Raise DownloadError where `file` is no whole gzip file: wrong start, damaged data, an end that is missing."""
    member, fresh, first = zlib.decompressobj(wbits=31), True, b""
    with file.open("rb") as opened:
        while data := opened.read(CHUNK):
            first = first or data[:60]
            try:
                while data:
                    member.decompress(data, 16 * CHUNK)  # at most so much at once, whatever the ratio
                    data, fresh = member.unconsumed_tail, False
                    if member.eof:  # several members one after another are one gzip file; zeros may pad the end
                        data, fresh = member.unused_data.lstrip(b"\0"), True
                        member = zlib.decompressobj(wbits=31)
            except zlib.error as error:
                page = " (a web page?)" if first.lstrip()[:1] == b"<" else ""
                raise DownloadError(f"no sound gzip file{page}: {error}; it begins with {first[:16]!r}") from None
    if not first:
        raise DownloadError("no sound gzip file: it is empty")
    if not fresh:
        raise DownloadError("no sound gzip file: it ends early")


def _check_zip(file: Path) -> None:
    try:
        with zipfile.ZipFile(file) as opened:
            if bad := opened.testzip():
                raise DownloadError(f"no sound zip file: its member {bad} is damaged")
    except zipfile.BadZipFile as error:
        raise DownloadError(f"no sound zip file: {error}") from None


def _by_hand(part: _Part) -> str:
    return f"Or fetch it by other means and put it into {part.path.parent} as {part.name}."


def _plainly(error: Exception) -> str:
    """What a chain of library errors says at its root."""
    while error.__context__ is not None and isinstance(error.__context__, Exception):
        error = error.__context__
    return f"{type(error).__name__}: {error}"
