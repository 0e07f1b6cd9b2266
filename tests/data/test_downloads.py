"""Downloads against a loopback server that cuts connections, lies about lengths, ignores Range, changes its file."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llm2rec_kit.data.sources import downloads
from llm2rec_kit.data.sources.downloads import DownloadError, fetch

BODY = bytes(i * 7 % 251 for i in range(300_000))


@dataclass
class Site:
    """What the server does: `body` under `etag`; each request takes the next of `plans`, the last one again and again."""

    body: bytes = BODY
    etag: str = '"one"'
    modified: str = ""
    plans: list[dict] = field(default_factory=lambda: [{}])
    seen: list[str] = field(default_factory=list)
    url: str = ""

    def plan(self) -> dict:
        return self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]


class Handler(BaseHTTPRequestHandler):
    """plan: status, cut (bytes sent before the connection closes), announce (Content-Length), ranges (False: ignored),
    before (called first), headers (more of them)."""

    site: Site

    def log_message(self, *words) -> None:
        pass

    def do_GET(self) -> None:
        site, asked = self.site, self.headers.get("Range", "")
        site.seen.append(asked)
        plan = site.plan()
        if "before" in plan:
            plan["before"](site)
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked and plan.get("ranges", True) else 0
        if start >= len(site.body) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(site.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        rest = site.body[start:]
        self.send_response(plan.get("status", 206 if start else 200))
        length = plan.get("announce", len(rest))
        if length is not None:
            self.send_header("Content-Length", str(length))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(site.body) - 1}/{len(site.body)}")
        for key, value in {"ETag": site.etag, "Last-Modified": site.modified, **plan.get("headers", {})}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(rest[: plan.get("cut", len(rest))])
        self.close_connection = True


@pytest.fixture
def site(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(downloads, "WAIT", 0.0)
    state = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Its", (Handler,), {"site": state}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/set/file.bin"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_arrives_with_a_manifest_and_is_reused(site, tmp_path, capsys):
    path = fetch(site.url, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "file.bin"
    assert path.read_bytes() == BODY
    assert names(path.parent) == ["file.bin", "file.bin.download.json"]
    about = json.loads((path.parent / "file.bin.download.json").read_text())
    assert about["finished"]
    assert {k: about[k] for k in ("url", "name", "bytes", "sha256", "etag")} == {
        "url": site.url,
        "name": "file.bin",
        "bytes": len(BODY),
        "sha256": hashlib.sha256(BODY).hexdigest(),
        "etag": '"one"',
    }
    assert "file.bin: fetched, 0.3 MiB" in capsys.readouterr().out
    assert fetch(site.url, path.parent) == path
    assert site.seen == [""]
    assert capsys.readouterr().out.startswith("file.bin: reused, fetched ")


def test_cut_connections_are_taken_up_where_they_stopped(site, tmp_path):
    site.plans = [{"cut": 100_000}, {"cut": 50_000}, {"cut": 0}, {}]
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert site.seen == ["", "bytes=100000-", "bytes=150000-", "bytes=150000-"]
    assert names(tmp_path) == ["file.bin", "file.bin.download.json"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(site, tmp_path):
    site.plans = [{"cut": 100_000}, {"cut": 0}]
    with pytest.raises(DownloadError, match=r"ended after 100,000 of 300,000 announced bytes\. Given") as error:
        fetch(site.url, tmp_path, tries=3)
    assert "Given up after 3 tries that got no farther, with 100,000 of 300,000 bytes here; call again" in str(error.value)
    assert "put it into" in str(error.value)
    assert names(tmp_path) == [".file.bin.part", ".file.bin.part.json"]
    site.plans = [{}]
    site.seen.clear()
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert site.seen == ["bytes=100000-"]


def test_a_server_that_ignores_range_is_read_from_the_start(site, tmp_path):
    site.plans = [{"cut": 100_000}, {"ranges": False}]
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert site.seen == ["", "bytes=100000-"]


@pytest.mark.parametrize("change", ["etag", "modified", "size"])
def test_a_file_that_changed_meanwhile_is_never_mixed(site, tmp_path, change):
    site.modified = "Mon, 01 Jan 2024 00:00:00 GMT"
    site.etag = '"one"' if change == "etag" else ""
    other = bytes(reversed(BODY)) + (b"more" if change == "size" else b"")

    def swap(site: Site) -> None:
        site.body = other
        site.etag = '"two"' if change == "etag" else ""
        site.modified = "Tue, 02 Jan 2024 00:00:00 GMT" if change == "modified" else site.modified

    site.plans = [{"cut": 100_000}, {"before": swap}, {}]
    assert fetch(site.url, tmp_path).read_bytes() == other
    assert site.seen == ["", "bytes=100000-", ""]


def test_the_part_of_another_address_is_not_used(site, tmp_path):
    site.plans = [{"cut": 100_000}, {"cut": 0}]
    with pytest.raises(DownloadError):
        fetch(site.url, tmp_path, tries=2)
    site.plans, site.body = [{}], BODY[::-1]
    assert fetch(site.url + "?v=2", tmp_path, name="file.bin").read_bytes() == BODY[::-1]
    assert site.seen[-1] == ""


def test_a_part_that_is_whole_needs_no_more_bytes(site, tmp_path):
    fetch(site.url, tmp_path)
    os.replace(tmp_path / "file.bin", tmp_path / ".file.bin.part")
    note = {"url": site.url, "total": len(BODY), "etag": '"one"', "modified": ""}
    (tmp_path / ".file.bin.part.json").write_text(json.dumps(note))
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert site.seen == ["", "bytes=300000-"]


def test_more_announced_than_sent_is_named_and_nothing_takes_the_final_name(site, tmp_path):
    site.plans = [{"announce": len(BODY) + 10, "ranges": False}]
    with pytest.raises(DownloadError, match=r"ended after 300,000 of 300,010 announced bytes\. Given up"):
        fetch(site.url, tmp_path, tries=2)
    site.plans = [{"announce": len(BODY) + 10}]
    with pytest.raises(DownloadError, match=r"announced 300010 bytes, and now says that it has 300000"):
        fetch(site.url, tmp_path, tries=4)
    assert "file.bin" not in names(tmp_path)


def test_less_announced_than_there_is_shows_in_the_gzip(site, tmp_path):
    site.body = gzip.compress(BODY)
    site.plans = [{"announce": len(site.body) - 5}]
    with pytest.raises(DownloadError, match=r"no sound gzip file: it ends early\. Nothing was kept"):
        fetch(site.url, tmp_path, name="file.gz")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (gzip.compress(BODY)[:-8] + b"x" * 8, "no sound gzip file: Error -3"),
        (gzip.compress(BODY)[:-4], "it ends early"),
        (gzip.compress(BODY) + b"junk", "no sound gzip file"),
        (b"<!DOCTYPE html><title>Sign in</title>", r"\(a web page\?\).*begins with b'<!DOCTYPE html>"),
        (b"", "it is empty"),
    ],
)
def test_a_damaged_gzip_is_named_and_not_kept(site, tmp_path, body, message):
    site.body = body
    with pytest.raises(DownloadError, match=message):
        fetch(site.url, tmp_path, name="file.json.gz")
    assert names(tmp_path) == []


def test_sound_gzips_of_several_members_and_high_ratio_pass(site, tmp_path):
    site.body = gzip.compress(b"a") + gzip.compress(b"\0" * 50_000_000) + gzip.compress(b"") + b"\0" * 512
    assert fetch(site.url, tmp_path, name="file.gz").read_bytes() == site.body


def test_a_damaged_zip_is_named_and_members_are_unpacked_by_base_name_only(site, tmp_path):
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as made:
        made.writestr("ml/ratings.dat", "1::2::3")
        made.writestr("../../outside/movies.dat", "1::A::B")
        made.writestr("ml/README", "no")
    site.body = (tmp_path / "made.zip").read_bytes()
    archive = fetch(site.url, tmp_path / "got", name="ml.zip")
    made = downloads.unpack(archive, tmp_path / "got", ["ratings.dat", "movies.dat", "users.dat"])
    assert [p.name for p in made] == ["ratings.dat", "movies.dat"]
    assert names(tmp_path) == ["got", "made.zip"]
    assert (tmp_path / "got" / "movies.dat").read_text() == "1::A::B"
    site.body = site.body.replace(b"1::2::3", b"9::9::9")
    with pytest.raises(DownloadError, match=r"its member ml/ratings\.dat is damaged"):
        fetch(site.url, tmp_path / "bad", name="ml.zip")
    site.body = site.body[:40]
    with pytest.raises(DownloadError, match=r"no sound zip file"):
        fetch(site.url, tmp_path / "bad", name="ml.zip")


def test_a_published_checksum_is_held(site, tmp_path):
    with pytest.raises(DownloadError, match=r"what was sent has the md5 .* the published file has 00"):
        fetch(site.url, tmp_path, checksum="md5:00")
    assert names(tmp_path) == []
    right = "sha256:" + hashlib.sha256(BODY).hexdigest().upper()
    assert fetch(site.url, tmp_path, checksum=right).read_bytes() == BODY


def test_busy_servers_are_asked_again_and_missing_files_are_not(site, tmp_path):
    site.plans = [{"status": 503, "cut": 0}, {"status": 429, "cut": 0}, {}]
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert len(site.seen) == 3
    site.plans = [{"status": 404, "cut": 0}]
    with pytest.raises(DownloadError, match=r"the server answered 404 Not Found\. Or fetch it by other means"):
        fetch(site.url, tmp_path, name="other.bin")
    assert len(site.seen) == 4


def test_a_body_without_a_length_arrives(site, tmp_path):
    site.plans = [{"announce": None}]
    assert fetch(site.url, tmp_path).read_bytes() == BODY


def test_an_unasked_content_coding_is_refused_but_for_gzip_files(site, tmp_path):
    site.body = gzip.compress(BODY)
    site.plans = [{"headers": {"Content-Encoding": "gzip"}}]
    with pytest.raises(DownloadError, match=r"content coding 'gzip'"):
        fetch(site.url, tmp_path)
    assert gzip.decompress(fetch(site.url, tmp_path, name="file.gz").read_bytes()) == BODY


def test_damage_after_the_download_is_found_and_mended(site, tmp_path, capsys):
    path = fetch(site.url, tmp_path)
    path.write_bytes(BODY[:-1] + b"!")
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert "fetching again, the one there is damaged" in capsys.readouterr().out


def test_a_file_put_there_by_hand_is_kept(site, tmp_path, capsys):
    (tmp_path / "file.bin").write_bytes(b"mine")
    assert fetch(site.url, tmp_path).read_bytes() == b"mine"
    assert site.seen == []
    assert "kept, it was there already" in capsys.readouterr().out
    with pytest.raises(DownloadError, match=r"the file that is there already has the md5 .* the published file has 00"):
        fetch(site.url, tmp_path, checksum="md5:00")
    assert (tmp_path / "file.bin").read_bytes() == b"mine"


def test_addresses_and_names_are_checked(tmp_path):
    with pytest.raises(DownloadError, match=r"starts with http:// or https://; found 'file:///etc/hosts'"):
        fetch("file:///etc/hosts", tmp_path)
    for name in ("../up", "a/b", ".hidden", ".."):
        with pytest.raises(DownloadError, match="one plain name"):
            fetch("http://127.0.0.1/x", tmp_path, name=name)
    with pytest.raises(DownloadError, match="one plain name; found ''"):
        fetch("http://127.0.0.1/", tmp_path)


def test_nobody_listening_is_said_plainly(site, tmp_path):
    with pytest.raises(DownloadError, match=r"refused.*Given up after 2 tries"):
        fetch("http://127.0.0.1:1/file.bin", tmp_path, tries=2)


def test_a_killed_download_leaves_no_file_and_goes_on(site, tmp_path):
    """kill -9 in the middle of the transfer: the server sends a third, then kills the client and waits for its end."""
    code = "import sys; from llm2rec_kit.data.sources import downloads as d; d.fetch(sys.argv[1], sys.argv[2])"
    asked, killed = threading.Event(), threading.Event()

    def hold(_: Site) -> None:
        asked.set()
        killed.wait(60)

    # The first answer ends early; the client's second request is held, so the kill comes between the two.
    site.plans = [{"cut": 100_000}, {"before": hold}]
    child = subprocess.Popen([sys.executable, "-c", code, site.url, str(tmp_path)])
    assert asked.wait(60)
    child.kill()
    child.wait()
    killed.set()
    assert names(tmp_path) == [".file.bin.part", ".file.bin.part.json"]
    site.plans = [{}]
    site.seen.clear()
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert site.seen == ["bytes=100000-"]


def test_two_processes_fetch_once(site, tmp_path):
    code = "import sys; from llm2rec_kit.data.sources import downloads as d; d.fetch(sys.argv[1], sys.argv[2])"
    children = [subprocess.Popen([sys.executable, "-c", code, site.url, str(tmp_path)]) for _ in range(2)]
    assert [c.wait() for c in children] == [0, 0]
    assert site.seen == [""]


def test_what_a_download_leaves_beside_the_data_does_not_make_a_corpus_stale(site, tmp_path):
    from llm2rec_kit.data import sources

    fetch(site.url, tmp_path)
    (tmp_path / ".other.part").write_bytes(b"half")
    assert sources.list_files(tmp_path) == [tmp_path / "file.bin"]  # what counts of a source of one's own


@pytest.mark.parametrize("damage", ["", "null", "[]", "{", "folder", "digit"])
def test_what_a_damaged_note_told_of_is_fetched_again(site, tmp_path, capsys, damage):
    path = fetch(site.url, tmp_path)
    note = tmp_path / "file.bin.download.json"
    if damage == "folder":
        note.unlink()
        note.mkdir()
    else:
        note.write_text(note.read_text().replace(f"{len(BODY)}", f"{len(BODY) + 1}") if damage == "digit" else damage)
    capsys.readouterr()
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert f"{note} is" in capsys.readouterr().out
    assert len(site.seen) == 2
    assert fetch(site.url, tmp_path) == path
    assert len(site.seen) == 2
