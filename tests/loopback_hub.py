"""A small Hugging Face Hub on the loopback address, which speaks the endpoints of huggingface_hub.

with running_hub(folder) as hub:
    hub.add("someone/run", {"README.md": b"..."})
    huggingface_hub.snapshot_download("someone/run")

Repositories live in memory. Large files are stored as Git LFS, since Xet is switched off, and are
served from another path after a redirect, as on the Hub. `hub.drop_next` closes connections.
"""

import hashlib
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from loopback_hub_server import CHUNK, TOKEN, HubHandler

Files = dict[str, bytes]


@dataclass
class Repository:
    """Files of each commit, and the commits of branches and tags."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, branch: str = "main", title: str = "Commit") -> str:
        content = repr((self.refs.get(branch), len(self.commits), sorted(files.items())))
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha], self.titles[sha], self.refs[branch] = files, title, sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


@dataclass
class Drop:
    """Requests whose connection is closed: their method, path, how much may pass, and how often."""

    method: str
    pattern: str
    after_bytes: int
    times: int


class LoopbackHub:
    """The server's repositories, by kind and name such as ("models", "someone/run")."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[str] = []  # "METHOD /path"
        self.ranges: list[str] = []  # headers of requests for a part of a file
        self.drops: list[Drop] = []
        self.lock = threading.RLock()
        self.endpoint = ""
        self.large_files_endpoint = ""  # another host, as on the Hub, which must see no token

    def add(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        kind: str = "models",
        private: bool = False,
        gated: bool = False,
        branch: str = "main",
    ) -> str:
        """Commit exactly these files to a repository, which may be new, and return the commit."""
        repository = self.repositories.setdefault((kind, name), Repository(private, gated))
        for data in files.values():
            self.large_files[hashlib.sha256(data).hexdigest()] = data
        return repository.commit(dict(files), branch)

    def files(self, name: str, kind: str = "models", revision: str = "main") -> Files:
        repository = self.repositories[kind, name]
        commit = repository.resolve(revision)
        assert commit is not None, (revision, repository.refs)
        return repository.commits[commit]

    def drop_next(self, method: str, pattern: str, *, after_bytes: int = 0, times: int = 1) -> None:
        """Close the connection of the next requests whose path matches, after so many bytes."""
        self.drops.append(Drop(method, pattern, after_bytes, times))

    def take_drop(self, method: str, path: str) -> Drop | None:
        with self.lock:
            for drop in self.drops:
                if drop.times and drop.method == method and re.search(drop.pattern, path):
                    drop.times -= 1
                    return drop
        return None

    def count(self, method: str, pattern: str) -> int:
        """Return how many requests were made whose path matches."""
        return sum(bool(re.match(f"{method} .*{pattern}", each)) for each in self.requests)


@contextmanager
def running_hub(folder: Path, *, token: str | None = TOKEN) -> Iterator[LoopbackHub]:
    """Run a Hub of its own, which huggingface_hub uses within the block, here and in subprocesses.

    Args:
        folder: Folder for the cache of downloads; the user's cache and token are never used.
        token: Token to be signed in with; `None` to be signed out.
    """
    hub = LoopbackHub()
    handler = type("Handler", (HubHandler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # hung up on purpose
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    hub.large_files_endpoint = f"http://localhost:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    home = folder / "huggingface"
    environment = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
    }
    # The variables are read when huggingface_hub is imported, which has happened in this process.
    settings = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_OFFLINE": False,
        # Resuming begins after the last whole chunk.
        "DOWNLOAD_CHUNK_SIZE": CHUNK,
    }
    try:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            # The library uploads files in a way that its HTTP client calls deprecated.
            warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
            for name, value in environment.items():
                patch.setenv(name, value)
            for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
                patch.delenv(variable, raising=False)
            patch.delenv("HF_TOKEN", raising=False)
            if token is not None:
                patch.setenv("HF_TOKEN", token)
            for name, setting in settings.items():
                patch.setattr(constants, name, setting)
            huggingface_hub.HfFileSystem.clear_instance_cache()
            yield hub
    finally:
        huggingface_hub.HfFileSystem.clear_instance_cache()
        server.shutdown()
        server.server_close()
