"""A Hugging Face hub on this machine: what huggingface_hub asks of one, over HTTP.

Repositories have commits, branches and tags; large files go by Git LFS and come by redirect, as
from the hub's own storage. `fail` breaks what comes next.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_test-token"
LARGE = (".safetensors", ".bin", ".parquet", ".pt", ".zip", ".gz")  # what .gitattributes has


@dataclass
class Repo:
    """`commits` are files by path, by commit; `refs` are the commits of branches and tags."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        text = repr((sorted(self.commits), sorted(files)))
        oid = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.commits[oid] = files
        self.refs[branch] = oid
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.refs.get(revision, revision)]


@dataclass
class Hub:
    """`repos` by "models/OWNER/NAME" and "datasets/OWNER/NAME"; `asked` is what came in."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fail: dict[str, int] = field(default_factory=dict)
    """Status to answer requests with, by a part of "METHOD path"; -1 drops the connection."""

    def add(self, name: str, files: dict[str, bytes], **how: bool) -> Repo:
        repo = self.repos[name] = Repo(**how)
        repo.commit(files)
        return repo

    def add_folder(self, name: str, folder: Path, **how: bool) -> Repo:
        files = {
            str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
        }
        return self.add(name, files, **how)


def blob_id(content: bytes) -> str:
    head = b"blob %d\0" % len(content)
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()


class Answer(Exception):
    def __init__(self, status: int, body: Any = b"", **headers: str) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def missing(code: str) -> Answer:
    return Answer(404, {"error": code}, X_Error_Code=code)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(size)
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(self._chunks())
        self.route = unquote(urlsplit(self.path).path)
        line = f"{self.command} {self.route}"
        self.hub.asked.append(line)
        try:
            for part, status in self.hub.fail.items():
                if part in line:
                    if status < 0:
                        self.close_connection = True
                        return
                    raise Answer(status, {"error": "planted"})
            answer = self._find()
        except Answer as raised:
            answer = raised
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    @property
    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _find(self) -> Answer:
        route = self.route
        if route == "/api/validate-yaml":
            return validate(json.loads(self.body)["content"])
        if route == "/api/repos/create":
            return self._create(json.loads(self.body))
        if match := re.match(r"/storage/([0-9a-f]{64})$", route):
            return self._storage(match[1])
        if match := re.match(
            r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(\w[\w-]*)(?:/(.+))?)?$", route
        ):
            kind, name, verb, rest = match.groups()
            repo = self._repo(f"{kind}/{name}")
            return getattr(self, f"_{(verb or 'revision').replace('-', '_')}")(
                repo, f"{name}", rest or "main"
            )
        if match := re.match(r"/(datasets/)?([^/]+/[^/]+?)\.git/info/lfs/objects/batch$", route):
            self._repo(f"models/{match[2]}", write=True)
            return self._batch(json.loads(self.body)["objects"])
        if match := re.match(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", route):
            repo = self._repo(f"{(match[1] or 'models/')}{match[2]}")
            return self._resolve(repo, match[3], match[4])
        raise Answer(404, {"error": f"no such route {route}"})

    def _repo(self, key: str, *, write: bool = False) -> Repo:
        repo = self.hub.repos.get(key)
        if repo is None or (repo.private and not self.known):
            # The hub does not tell strangers which of the two it is.
            raise (
                missing("RepoNotFound")
                if self.known
                else Answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            )
        if repo.gated and not self.known:
            raise Answer(401, {"error": "gated"}, X_Error_Code="GatedRepo")
        if (write or self.command in ("POST", "PUT")) and not self.known:
            raise Answer(403, {"error": "You need a token that may write"})
        return repo

    def _revision(self, repo: Repo, name: str, revision: str) -> Answer:
        oid = self._oid(repo, revision)
        siblings = [{"rfilename": path} for path in repo.commits[oid]]
        return Answer(
            200, {"id": name, "sha": oid, "siblings": siblings, "private": False, "tags": []}
        )

    def _oid(self, repo: Repo, revision: str) -> str:
        oid = repo.refs.get(revision, revision)
        if oid not in repo.commits:
            raise missing("RevisionNotFound")
        return oid

    def _tree(self, repo: Repo, _: str, revision: str) -> Answer:
        files = repo.commits[self._oid(repo, revision)]
        return Answer(200, [entry(path, content) for path, content in files.items()])

    def _refs(self, repo: Repo, *_: str) -> Answer:
        refs = [{"name": n, "ref": n, "targetCommit": o} for n, o in repo.refs.items()]
        tags = [one for one in refs if one["name"] != "main"]
        branches = [one for one in refs if one["name"] == "main"]
        return Answer(200, {"branches": branches, "tags": tags, "converts": []})

    def _resolve(self, repo: Repo, revision: str, path: str) -> Answer:
        oid = self._oid(repo, revision)
        if path not in repo.commits[oid]:
            raise missing("EntryNotFound")
        content = repo.commits[oid][path]
        about = {"X_Repo_Commit": oid}
        if path.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            self.hub.blobs[digest] = content
            # Another host, which gets no token.
            where = f"{self.hub.url.replace('127.0.0.1', 'localhost')}/storage/{digest}"
            linked = {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": str(len(content))}
            return Answer(302, b"", Location=where, **linked, **about)
        return Answer(200, content, ETag=f'"{blob_id(content)}"', **about)

    def _create(self, asked: dict[str, Any]) -> Answer:
        if not self.known:
            raise Answer(401, {"error": "Invalid username or password."})
        name = f"{asked['organization']}/{asked['name']}"
        if f"models/{name}" in self.hub.repos:
            raise Answer(409, {"error": "You already created it", "url": f"{self.hub.url}/{name}"})
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        attributes = {".gitattributes": b"*.safetensors filter=lfs\n"}
        self.hub.add(f"models/{name}", attributes, private=private)
        return Answer(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def _preupload(self, repo: Repo, _: str, revision: str) -> Answer:
        there = repo.files(revision)

        def about(path: str) -> dict[str, Any]:
            mode = "lfs" if path.endswith(LARGE) else "regular"
            oid = None
            if path in there:
                large = hashlib.sha256(there[path]).hexdigest()
                oid = large if mode == "lfs" else blob_id(there[path])
            return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

        return Answer(200, {"files": [about(f["path"]) for f in json.loads(self.body)["files"]]})

    def _batch(self, objects: list[dict[str, Any]]) -> Answer:
        def action(one: dict[str, Any]) -> dict[str, Any]:
            if one["oid"] in self.hub.blobs:
                return one
            upload = {"href": f"{self.hub.url}/storage/{one['oid']}"}
            return {**one, "actions": {"upload": upload}}

        return Answer(200, {"transfer": "basic", "objects": [action(one) for one in objects]})

    def _storage(self, digest: str) -> Answer:
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != digest:
                raise Answer(400, {"error": "wrong digest"})
            self.hub.blobs[digest] = self.body
        return Answer(200, self.hub.blobs[digest], ETag=f'"{digest}"')

    def _commit(self, repo: Repo, name: str, branch: str) -> Answer:
        files = dict(repo.files(branch))
        for line in self.body.splitlines():
            one = json.loads(line)
            about = one["value"]
            if (
                one["key"] == "header"
                and about.get("parentCommit", repo.refs[branch]) != repo.refs[branch]
            ):
                raise Answer(412, {"error": "A commit has happened since."})
            if one["key"] == "file":
                files[about["path"]] = base64.b64decode(about["content"])
            elif one["key"] == "lfsFile":
                files[about["path"]] = self.hub.blobs[about["oid"]]
            elif one["key"] == "deletedFile":
                del files[about["path"]]
        oid = repo.commit(files, branch)
        return Answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def _tag(self, repo: Repo, _: str, revision: str) -> Answer:
        tag = json.loads(self.body)["tag"]
        if tag in repo.refs:
            raise Answer(409, {"error": "Tag reference exists already"})
        repo.refs[tag] = self._oid(repo, revision)
        return Answer(200, {})


def entry(path: str, content: bytes) -> dict[str, Any]:
    about = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
    if path.endswith(LARGE):
        digest = hashlib.sha256(content).hexdigest()
        about["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
    return about


# Values that the hub takes for a card's fields (huggingface.co/docs/hub/model-cards).
_LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "other", "unknown")


def validate(content: str) -> Answer:
    """As the hub validates the head of a card, as far as cards of ours go."""
    head = re.match(r"---\n(.*?\n)---\n", content, re.DOTALL)
    found = yaml.safe_load(head[1]) if head else None
    wrong = []
    if not isinstance(found, dict):
        wrong.append("empty or missing yaml metadata in repo card")
    else:
        if found.get("license") not in _LICENSES:
            wrong.append('"license" must be one of the known ones')
        if found.get("license") == "other" and not found.get("license_name"):
            wrong.append('"license_name" is required with license "other"')
        for name in ("datasets", "base_model", "language", "tags"):
            values = found.get(name, [])
            values = values if isinstance(values, list) else [values]
            if not all(isinstance(one, str) and one for one in values):
                wrong.append(f'"{name}" must be text or a list of texts')
        for one in found.get("datasets", ()):
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", one):
                wrong.append(f'"datasets" has {one!r}, which is no name')
        for model in found.get("model-index", ()):
            for result in model["results"]:
                if not {"type", "name"} <= result["dataset"].keys():
                    wrong.append('"model-index[0].results[0].dataset" needs type and name')
                for metric in result["metrics"]:
                    if not isinstance(metric.get("value"), int | float):
                        wrong.append("metrics need a value")
    errors = [{"message": one} for one in wrong]
    return Answer(400 if wrong else 200, {"errors": errors, "warnings": []})


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
