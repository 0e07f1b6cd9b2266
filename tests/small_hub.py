"""A hub on this machine's loopback address: repositories in memory, and only what huggingface_hub asks to put files into one."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TOKEN = "hf_" + "secret" * 5


@dataclass
class Hub:
    """files {repo: {path: bytes}}, private {repo: bool}; `asked`, what came: (method, path). `writes` False: a token that reads."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    writes: bool = True

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, dict, dict | list]:
        """(status, headers, JSON) of a request."""
        self.asked.append((method, path))
        if token != f"Bearer {TOKEN}":
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, {"error": f"bad {token}"}
        if path == "/api/validate-yaml":
            return 200, {}, {"warnings": [], "errors": []}
        if method == "POST" and not self.writes:
            return 403, {"X-Error-Message": "read only"}, {"error": "read only"}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        repo = "/".join(path.split("/")[3:5])
        if repo not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, {"error": "Repository not found"}
        if "/preupload/" in path:
            asked = [f["path"] for f in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in asked]
            return 200, {}, {"files": files}
        if "/commit/" in path:
            return self._commit(repo, body)
        if "/tree/" in path:
            return 200, {}, [{"type": "file", "path": n, "size": 1, "oid": "0" * 40} for n in self.files[repo]]
        siblings = [{"rfilename": name} for name in self.files[repo]]
        return 200, {}, {"id": repo, "private": self.private[repo], "siblings": siblings, "sha": "0" * 40}

    def _create(self, asked: dict) -> tuple[int, dict, dict]:
        repo = f"{asked['organization']}/{asked['name']}" if "organization" in asked else asked["name"]
        answer = {"url": f"{self.url}/{repo}"}
        if repo in self.files:
            return 409, {}, answer
        self.files[repo] = {".gitattributes": b""}
        self.private[repo] = bool(asked.get("private")) or asked.get("visibility") == "private"
        return 200, {}, answer

    def _commit(self, repo: str, body: bytes) -> tuple[int, dict, dict]:
        for line in body.splitlines():
            one = json.loads(line)
            value = one["value"]
            if one["key"] == "header":
                self.commits.append(value["summary"])
            elif one["key"] == "file":
                self.files[repo][value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "deletedFile":
                del self.files[repo][value["path"]]
            else:
                raise ValueError(one["key"])
        return 200, {}, {"commitUrl": f"{self.url}/{repo}/commit/1", "commitOid": "1" * 40}


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers, within."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = hub.answer(self.command, urlsplit(self.path).path, self.headers.get("Authorization", ""), body)
            status, headers, content = found
            data = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _do

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
