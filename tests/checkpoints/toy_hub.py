"""A server on the loopback that speaks as much of the Hub's API as uploading and downloading models takes."""

import base64
import hashlib
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class ToyHub:
    """What it holds and how it behaves.

    Attributes:
        files: by repository and name.
        private: repositories made so.
        calls: method and path of every request.
        answer: status of every answer, where it is to fail; by the first part of the path that is in it.
        delay: seconds before every answer.
        cut: the next download of weights breaks off after so many bytes.
        spoil: whether the ends of weights are damaged on their way.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: list[str] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    answer: dict[str, int] = field(default_factory=dict)
    delay: float = 0.0
    cut: int = 0
    spoil: bool = False
    blobs: dict[str, bytes] = field(default_factory=dict)
    address: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ToyHub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer("HEAD")

    def do_GET(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def do_PUT(self):
        self._answer("PUT")

    def _answer(self, method):
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.calls.append((method, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(hub.delay)
        for part, status in hub.answer.items():
            if part in path:
                code = {401: "RepoNotFound", 404: "RepoNotFound"}.get(status, "")
                return self._send(status, b'{"error": "no"}', {"X-Error-Code": code} if code else {})
        if "/resolve/" in path:
            return self._file(method, path)
        return self._api(method, path, body)

    def _file(self, method, path):
        repo, _, name = path[1:].partition("/resolve/")
        name = name.split("/", 1)[1]
        content = self.hub.files.get(repo, {}).get(name)
        if content is None:
            code = "EntryNotFound" if repo in self.hub.files else "RepoNotFound"
            return self._send(404, b"", {"X-Error-Code": code})
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        status, start = 200, 0
        if method == "GET" and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.hub.spoil and name.endswith(".safetensors"):
            content = content[:-64] + b"\xff" * 64
        cut, self.hub.cut = (
            (self.hub.cut, 0) if name.endswith(".safetensors") and method == "GET" else (0, self.hub.cut)
        )
        return self._send(status, content[start:], headers, cut=cut)

    def _api(self, method, path, body):
        hub = self.hub
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted.get('organization') or 'owner'}/{wanted['name']}"
            hub.files.setdefault(repo, {})
            hub.private += [repo] if wanted.get("private") or wanted.get("visibility") == "private" else []
            return self._json({"url": f"{hub.address}/{repo}"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if "/preupload/" in path:
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": _mode(name), "shouldIgnore": False, "oid": None} for name in names]
            return self._json({"files": modes})
        if path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            urls = [{**one, "actions": {"upload": {"href": f"{hub.address}/blobs/{one['oid']}"}}} for one in wanted]
            return self._json({"transfer": "basic", "objects": urls})
        if path.startswith("/blobs/") and method == "PUT":
            hub.blobs[path.removeprefix("/blobs/")] = body
            return self._send(200, b"", {})
        if "/revision/" in path:
            repo = path.removeprefix("/api/models/").partition("/revision/")[0]
            return self._json({"id": repo, "sha": COMMIT, "xetEnabled": False, "siblings": []})
        if "/commit/" in path:
            return self._commit(path.removeprefix("/api/models/").partition("/commit/")[0], body)
        return self._send(404, b"{}", {})

    def _commit(self, repo, body):
        files = self.hub.files.setdefault(repo, {})
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        url = f"{self.hub.address}/{repo}/commit/{COMMIT}"
        return self._json({"success": True, "commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})

    def _json(self, value):
        return self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status, content, headers, cut=0):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: cut or None])
        if cut:
            self.close_connection = True


def _mode(name):
    return "lfs" if name.endswith(".safetensors") else "regular"


@contextmanager
def serve():
    """Serve an empty hub until the block ends."""
    hub = ToyHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads, server.block_on_close = True, False  # the client keeps connections open
    server.handle_error = lambda *_: None  # a client that hangs up is part of the tests
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
