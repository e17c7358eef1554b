"""The parts of the Hugging Face Hub's HTTP API that fetching and sharing a folder need, on this machine."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.pretrained.servers import running

GOOD_TOKEN = "hf_writeToken"


@dataclass
class Repository:
    """Commits by their hash, each with its files, and the branches that point to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        key = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        before = self.commits.get(self.branches.get(branch, ""), {})
        self.commits[key] = {**before, **files}
        self.branches[branch] = key
        return key

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """Repositories by name; ``requests`` logs what was asked for."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    address: str = ""


@contextlib.contextmanager
def serving_hub() -> Iterator[Hub]:
    """Serve until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

        def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _json(self, value: object) -> None:
            self._answer(200, json.dumps(value).encode(), Content_Type="application/json")

        def _refuse(self, status: int, code: str = "") -> None:
            self._answer(status, json.dumps({"error": code}).encode(), **({"X_Error_Code": code} if code else {}))

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            if self.headers.get("Authorization") == "Bearer hf_revoked":
                return self._refuse(401)
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                return self._describe("/".join(parts[2:4]), parts[4:])
            repository = hub.repositories.get("/".join(parts[:2]))
            if repository is None or len(parts) < 5 or parts[2] != "resolve":
                return self._refuse(401 if repository is None else 404, "RepoNotFound")
            commit = repository.resolve(parts[3])
            if commit is None:
                return self._refuse(404, "RevisionNotFound")
            body = repository.commits[commit].get("/".join(parts[4:]))
            if body is None:
                return self._refuse(404, "EntryNotFound")
            return self._answer(200, body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=commit)

        def _describe(self, name: str, rest: list[str]) -> None:
            repository = hub.repositories.get(name)
            if repository is None:
                return self._refuse(401, "RepoNotFound")
            commit = repository.resolve("main" if len(rest) < 2 else rest[1])
            if commit is None:
                return self._refuse(404, "RevisionNotFound")
            files = repository.commits[commit]
            if rest[:1] == ["tree"]:
                return self._json(
                    [
                        {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                        for path, body in files.items()
                    ]
                )
            listed = [{"rfilename": path} for path in files]
            return self._json({"_id": name, "id": name, "sha": commit, "siblings": listed, "private": False, "tags": []})

        def do_POST(self) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"POST {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != f"Bearer {GOOD_TOKEN}":
                return self._refuse(401)
            parts = path.strip("/").split("/")
            if parts == ["api", "repos", "create"]:
                asked = json.loads(body)
                name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
                hub.repositories.setdefault(name, Repository()).commit({".gitattributes": b""})
                return self._json({"url": f"{hub.address}/{name}", "name": name})
            if parts == ["api", "validate-yaml"]:
                return self._json({"errors": [], "warnings": []})
            repository = hub.repositories["/".join(parts[2:4])]
            branch = parts[5] if len(parts) > 5 else "main"
            if parts[4] == "branch":
                repository.branches.setdefault(branch, repository.branches["main"])
                return self._json({})
            if parts[4] == "preupload":
                asked = json.loads(body)["files"]
                return self._json(
                    {
                        "files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked],
                    }
                )
            lines = [json.loads(line) for line in body.splitlines()]
            files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
            key = repository.commit(files, branch)
            return self._json(
                {"success": True, "commitOid": key, "commitUrl": f"{hub.address}/{'/'.join(parts[2:4])}/commit/{key}"}
            )

    with running(Handler) as hub.address:
        yield hub
