"""A small stand-in of the Hugging Face Hub: what its client asks for when a pack is pushed or pulled."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_owner"


@dataclass
class Repository:
    """What the stand-in keeps of a repository.

    Attributes:
        files: name -> content, of the newest commit.
        private: whether it was made so.
        messages: of its commits.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    messages: list[str] = field(default_factory=list)

    @property
    def commit(self) -> str:
        return hashlib.sha1(str(len(self.messages)).encode()).hexdigest()


@dataclass
class StandIn:
    """The state of the stand-in, for tests to look at and to spoil.

    Attributes:
        url: where it answers.
        repositories: name -> repository.
        served: content that downloads get in the place of a file's own.
        refused: method and part of a path -> status code that is answered.
        cut: names of files whose download breaks off in the middle.
        large: bytes that came as large files, by their SHA-256.
        requests: methods and paths that were asked for.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    served: dict[str, bytes] = field(default_factory=dict)
    refused: dict[tuple[str, str], int] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """A stand-in that answers on this machine while the block runs."""
    hub = StandIn()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield hub
        server.shutdown()


def is_large(name: str) -> bool:
    """Whether the Hub takes a file as a large one: by its name, as ``.gitattributes`` has it."""
    return name.endswith(".safetensors")


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._dispatch()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _dispatch(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self._body()
        for (method, part), status in self.hub.refused.items():
            if method == self.command and part in path:
                return self._answer(status, {"error": "refused"})
        if self._token() not in (None, TOKEN):
            return self._fail(401, message="Invalid credentials in Authorization header")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)(?:/([^/]+))?)?", path):
            return self._model(found[1], found[2], found[3], body)
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(body))
        if path.startswith("/large/"):
            return self._large(path.removeprefix("/large/"), body)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(found[1], found[2], found[3])
        self._fail(404, "EntryNotFound")

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _found(self, name: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is not None and repository.private and self._token() is None:
            return None
        return repository

    def _create(self, wanted: dict[str, Any]) -> None:
        if self._token() is None:
            return self._fail(401)
        name = f"{wanted['organization']}/{wanted['name']}"
        self.hub.repositories[name] = Repository(
            {".gitattributes": b"*.safetensors filter=lfs\n"},
            wanted.get("visibility") == "private",
            ["initial commit"],
        )
        self._answer(200, {"url": f"{self.hub.url}/{name}"})

    def _model(self, name: str, what: str | None, revision: str | None, body: bytes) -> None:
        repository = self._found(name)
        if repository is None:
            # The Hub does not tell strangers which repositories there are.
            return self._fail(404 if self._token() else 401, "RepoNotFound")
        if what == "preupload":
            return self._preupload(json.loads(body))
        if what == "commit":
            return self._commit(name, repository, body)
        if revision not in (None, "main", repository.commit):
            return self._fail(404, "RevisionNotFound")
        siblings = [{"rfilename": n, "size": len(c)} for n, c in repository.files.items()]
        about = {"id": name, "sha": repository.commit, "private": repository.private}
        self._answer(200, {**about, "siblings": siblings, "tags": [], "downloads": 0})

    def _preupload(self, wanted: dict[str, Any]) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                "shouldIgnore": False,
            }
            for file in wanted["files"]
        ]
        self._answer(200, {"files": files})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for item in wanted["objects"]:
            upload = {"href": f"{self.hub.url}/large/{item['oid']}"}
            known = {} if item["oid"] not in self.hub.large else {"known": True}
            objects.append({**item, **({} if known else {"actions": {"upload": upload}})})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _large(self, digest: str, body: bytes) -> None:
        if self.command == "PUT":
            assert hashlib.sha256(body).hexdigest() == digest
            self.hub.large[digest] = body
            return self._answer(200, {})
        name = digest.rpartition("/")[2]
        repository = self.hub.repositories[digest.rpartition("/")[0]]
        self._send(200, self.hub.served.get(name, repository.files[name]), name=name)

    def _commit(self, name: str, repository: Repository, body: bytes) -> None:
        if self._token() is None:
            return self._fail(401)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                if value.get("parentCommit") not in (None, repository.commit):
                    return self._fail(412)
                repository.messages.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.large[value["oid"]]
        url = f"{self.hub.url}/{name}/commit/{repository.commit}"
        self._answer(200, {"commitUrl": url, "commitOid": repository.commit})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repository = self._found(name)
        if repository is None:
            return self._fail(404, "RepoNotFound")
        if revision not in ("main", repository.commit):
            return self._fail(404, "RevisionNotFound")
        if file not in repository.files:
            return self._fail(404, "EntryNotFound")
        content = repository.files[file]
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{_digest(content)}"'}
        if is_large(file):  # they lie on another host, and the Hub sends there
            headers["X-Linked-Etag"] = headers.pop("ETag")
            headers["X-Linked-Size"] = str(len(content))
            elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
            headers["Location"] = f"{elsewhere}/large/{name}/{file}"
            return self._send(302, b"", headers)
        self._send(200, self.hub.served.get(file, content), headers, name=file)

    def _fail(self, status: int, code: str | None = None, message: str | None = None) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, b"{}", {k: v for k, v in told.items() if v is not None})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, name: str = ""
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.hub.cut:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
