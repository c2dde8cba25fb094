"""The endpoints of `loopback_hub`: who asks, and the answers of the Hub."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub, Repository

USER = "someone"
TOKEN = "hf_ofTheLoopbackHub"
# Files of at least this size, or with null bytes, are stored as Git LFS.
LFS_BYTES = 1 << 20
TREE_PAGE = 3
CHUNK = 1 << 14
TIME = "2026-01-01T00:00:00.000Z"


class _RefusalError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


def is_large(data: bytes, size: int) -> bool:
    return size >= LFS_BYTES or b"\0" in data


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _etag(data: bytes) -> str:
    is_lfs = is_large(data[:512], len(data))
    return hashlib.sha256(data).hexdigest() if is_lfs else git_hash(data)


def _entry(path: str, data: bytes, commit: str, *, expand: bool) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(data)}
    entry["oid"] = git_hash(data)
    if is_large(data[:512], len(data)):
        entry["lfs"] = {"oid": _etag(data), "size": len(data), "pointerSize": 134}
    if expand:
        entry["lastCommit"] = {"id": commit, "title": "Commit", "date": TIME}
    return entry


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: "LoopbackHub"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self) -> None:
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {unquote(address.path)}")
        self.drop = self.hub.take_drop(self.command, unquote(address.path))
        body = self._read_body()
        if body is None:
            return
        try:
            self._route(address.path, body)
        except _RefusalError as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._send_json(
                {"error": refusal.message, "errors": [{"message": refusal.message}]},
                status=refusal.status,
                headers={name: value for name, value in headers.items() if value},
            )

    def _read_body(self) -> bytes | None:
        """Return the body of the request; `None` if the connection was closed."""
        limit = self.drop.after_bytes if self.drop and self.command in ("POST", "PUT") else None
        size, parts = int(self.headers.get("Content-Length") or 0), []
        if self.headers.get("Transfer-Encoding") == "chunked":
            while chunk := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(chunk))
                self.rfile.readline()
            self.rfile.readline()
        else:
            parts.append(self.rfile.read(size if limit is None else min(size, limit)))
        if limit is not None:
            self._hang_up()
            return None
        return b"".join(parts)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _route(self, path: str, body: bytes) -> None:
        for method, pattern, answer in ROUTES:
            if self.command in method.split() and (match := re.fullmatch(pattern, path)):
                answer(self, body, **{k: unquote(v or "") for k, v in match.groupdict().items()})
                return
        raise _RefusalError(404, message=f"no such endpoint: {self.command} {path}")

    # Who asks, and for what.

    def _is_signed_in(self) -> bool:
        given = self.headers.get("Authorization")
        if given and given != f"Bearer {TOKEN}":
            raise _RefusalError(401, message="Invalid credentials in Authorization header")
        return given is not None

    def _require_token(self) -> None:
        if not self._is_signed_in():
            raise _RefusalError(401, message="Invalid username or password.")

    def _repository(self, kind: str, name: str, *, for_writing: bool = False) -> "Repository":
        is_signed_in = self._is_signed_in()
        repository = self.hub.repositories.get((kind or "models", name))
        is_owner = is_signed_in and name.split("/")[0] == USER
        if repository is None or (repository.private and not is_owner):
            # Without a token, the Hub does not tell missing from private.
            raise _RefusalError(
                404 if is_signed_in else 401, "RepoNotFound", "Repository not found"
            )
        if repository.gated and not is_owner:
            raise _RefusalError(403, "GatedRepo", "Access to this repository is restricted.")
        if for_writing and not is_owner:
            raise _RefusalError(
                403 if is_signed_in else 401, message="You have no right to write here."
            )
        return repository

    def _commit(self, repository: "Repository", revision: str) -> str:
        commit = repository.resolve(revision or "main")
        if commit is None:
            raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # Answers.

    def _send_json(
        self, content: object, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        data = json.dumps(content).encode()
        self._send(data, {"Content-Type": "application/json", **(headers or {})}, status)

    def _send(self, data: bytes, headers: Mapping[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.drop is not None:
            self.wfile.write(data[: self.drop.after_bytes])
            self.wfile.flush()
            self._hang_up()
            return
        for start in range(0, len(data), CHUNK):
            self.wfile.write(data[start : start + CHUNK])

    def who(self, _: bytes) -> None:
        self._require_token()
        self._send_json({"type": "user", "name": USER, "orgs": [], "auth": {}})

    def create(self, body: bytes) -> None:
        self._require_token()
        asked = json.loads(body)
        owner = asked.get("organization") or USER
        if owner != USER:
            raise _RefusalError(403, message=f"You have no right to create a model under {owner}")
        kind, name = f"{asked.get('type', 'model')}s", f"{owner}/{asked['name']}"
        prefix = "" if kind == "models" else f"{kind}/"
        is_new = (kind, name) not in self.hub.repositories
        if is_new:
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            initial = {".gitattributes": b"*.safetensors filter=lfs\n"}
            self.hub.add(name, initial, kind=kind, private=private)
        address = {"url": f"{self.hub.endpoint}/{prefix}{name}", "name": name}
        self._send_json(address, status=200 if is_new else 409)

    def validate_yaml(self, body: bytes) -> None:
        header = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        try:
            if header is None or not isinstance(yaml.safe_load(header[1]), dict):
                raise _RefusalError(400, message="no YAML header")
        except yaml.YAMLError as error:
            raise _RefusalError(400, message=str(error)) from None
        self._send_json({"errors": [], "warnings": []})

    def info(self, _: bytes, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name)
        commit = self._commit(repository, revision)
        self._send_json(
            {
                "_id": "1",
                "id": name,
                "modelId": name,
                "author": name.split("/")[0],
                "sha": commit,
                "private": repository.private,
                "gated": repository.gated,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "lastModified": TIME,
                "createdAt": TIME,
                "siblings": [{"rfilename": path} for path in repository.commits[commit]],
            }
        )

    def tree(self, _: bytes, kind: str, name: str, revision: str, path: str) -> None:
        repository = self._repository(kind, name)
        commit = self._commit(repository, revision)
        files = repository.commits[commit]
        prefix = f"{path}/" if path else ""
        is_recursive = self.query.get("recursive") == ["true"]
        expand = self.query.get("expand") == ["true"]
        entries: dict[str, dict[str, object]] = {}
        for each in sorted(files):
            if not each.startswith(prefix):
                continue
            parts = each.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if is_recursive else min(len(parts), 2)):
                folder = prefix + "/".join(parts[:depth])
                entries[folder] = {"type": "directory", "path": folder, "oid": "0", "size": 0}
            if len(parts) == 1 or is_recursive:
                entries[each] = _entry(each, files[each], commit, expand=expand)
        if path and not entries:
            raise _RefusalError(404, "EntryNotFound", f"{path} does not exist on {revision}")
        start = int(self.query.get("cursor", ["0"])[0])
        headers = {}
        if start + TREE_PAGE < len(entries):
            address = f"{self.hub.endpoint}{urlsplit(self.path).path}"
            options = f"recursive={is_recursive}&expand={expand}".lower()
            headers["Link"] = f'<{address}?{options}&cursor={start + TREE_PAGE}>; rel="next"'
        page = list(entries.values())[start : start + TREE_PAGE]
        self._send_json(page, headers=headers)

    def paths_info(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name)
        commit = self._commit(repository, revision)
        asked = parse_qs(body.decode())
        files, expand = repository.commits[commit], asked.get("expand") == ["true"]
        found = [
            _entry(path, files[path], commit, expand=expand)
            if path in files
            else {"type": "directory", "path": path, "oid": "0", "size": 0}
            for path in asked["paths"]
            if path in files or any(each.startswith(f"{path}/") for each in files)
        ]
        self._send_json(found)

    def list_refs(self, _: bytes, kind: str, name: str) -> None:
        refs = self._repository(kind, name).refs
        branches = [
            {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commit}
            for branch, commit in refs.items()
        ]
        self._send_json({"branches": branches, "tags": [], "converts": [], "pullRequests": []})

    def list_commits(self, _: bytes, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name)
        self._commit(repository, revision)
        self._send_json(
            [
                {"id": each, "title": title, "message": "", "date": TIME, "authors": []}
                for each, title in reversed(repository.titles.items())
            ]
        )

    def create_branch(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name, for_writing=True)
        if revision in repository.refs:
            raise _RefusalError(409, message=f"Reference already exists: {revision}")
        start = (json.loads(body) if body else {}).get("startingPoint", "main")
        repository.refs[revision] = self._commit(repository, start)
        self._send_json({})

    def preupload(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name, for_writing=True)
        files = repository.commits[self._commit(repository, revision)]
        answers = []
        for each in json.loads(body)["files"]:
            is_lfs = is_large(base64.b64decode(each["sample"]), each["size"])
            answer = {"path": each["path"], "shouldIgnore": False}
            answer["uploadMode"] = "lfs" if is_lfs else "regular"
            if each["path"] in files:
                answer["oid"] = _etag(files[each["path"]])
            answers.append(answer)
        self._send_json({"files": answers})

    def start_uploads(self, body: bytes, kind: str, name: str) -> None:
        self._repository(f"{kind or 'model'}s", name, for_writing=True)
        objects = []
        for each in json.loads(body)["objects"]:
            answer = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.large_files:
                href = f"{self.hub.endpoint}/large-files/{each['oid']}"
                answer["actions"] = {"upload": {"href": href}}
            objects.append(answer)
        self._send_json({"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _RefusalError(400, message="the content does not have this SHA-256")
        self.hub.large_files[oid] = body
        self._send(b"", {})

    def commit(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name, for_writing=True)
        files = dict(repository.commits[self._commit(repository, revision)])
        title = ""
        for line in body.decode().splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                title = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.large_files:
                    raise _RefusalError(400, message=f"{value['path']} was not uploaded")
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise _RefusalError(404, "EntryNotFound", "A file with this name doesn't exist")
            else:
                raise _RefusalError(400, message=f"unknown operation {key}")
        sha = repository.commit(files, revision, title)
        address = f"{self.hub.endpoint}/{name}/commit/{sha}"
        self._send_json({"success": True, "commitOid": sha, "commitUrl": address})

    def resolve(self, _: bytes, kind: str, name: str, revision: str, path: str) -> None:
        repository = self._repository(f"{kind or 'model'}s", name)
        commit = self._commit(repository, revision)
        headers = {"X-Repo-Commit": commit}
        data = repository.commits[commit].get(path)
        if data is None:
            error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self._send(b"", headers | error, 404)
        elif is_large(data[:512], len(data)):
            large = {"X-Linked-Etag": f'"{_etag(data)}"', "X-Linked-Size": str(len(data))}
            location = f"{self.hub.large_files_endpoint}/large-files/{_etag(data)}"
            self._send(b"", headers | large | {"Location": location}, HTTPStatus.FOUND)
        else:
            self._send_file(data, headers | {"ETag": f'"{_etag(data)}"'})

    def download(self, _: bytes, oid: str) -> None:
        if self.headers.get("Authorization"):
            raise _RefusalError(400, message="a token was sent to another host")
        if oid not in self.hub.large_files:
            raise _RefusalError(404, message="no such file")
        self._send_file(self.hub.large_files[oid], {"ETag": f'"{oid}"'})

    def _send_file(self, data: bytes, headers: Mapping[str, str]) -> None:
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if span is None:
            self._send(data, {"Accept-Ranges": "bytes", **headers})
            return
        self.hub.ranges.append(span[0])
        start, end = int(span[1]), min(int(span[2] or len(data) - 1), len(data) - 1)
        if start > end:
            self._send(b"", {"Content-Range": f"bytes */{len(data)}", **headers}, 416)
            return
        where = {"Content-Range": f"bytes {start}-{end}/{len(data)}", **headers}
        self._send(data[start : end + 1], where, HTTPStatus.PARTIAL_CONTENT)


_API = "/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
_PLACE = "/(?:(?P<kind>dataset)s/)?(?P<name>[^/]+/[^/]+)"
_REVISION = "(?P<revision>[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", HubHandler.who),
    ("POST", "/api/repos/create", HubHandler.create),
    ("POST", "/api/validate-yaml", HubHandler.validate_yaml),
    ("GET", f"{_API}(?:/revision/{_REVISION})?", HubHandler.info),
    ("GET", f"{_API}/tree/{_REVISION}(?:/(?P<path>.+))?", HubHandler.tree),
    ("POST", f"{_API}/paths-info/{_REVISION}", HubHandler.paths_info),
    ("GET", f"{_API}/refs", HubHandler.list_refs),
    ("GET", f"{_API}/commits/{_REVISION}", HubHandler.list_commits),
    ("POST", f"{_API}/branch/{_REVISION}", HubHandler.create_branch),
    ("POST", f"{_API}/preupload/{_REVISION}", HubHandler.preupload),
    ("POST", f"{_API}/commit/{_REVISION}", HubHandler.commit),
    ("POST", rf"{_PLACE}\.git/info/lfs/objects/batch", HubHandler.start_uploads),
    ("PUT", "/large-files/(?P<oid>[0-9a-f]{64})", HubHandler.store),
    ("GET HEAD", "/large-files/(?P<oid>[0-9a-f]{64})", HubHandler.download),
    ("GET HEAD", f"{_PLACE}/resolve/{_REVISION}/(?P<path>.+)", HubHandler.resolve),
]
