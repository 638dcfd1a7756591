"""DVC's object stores, old versions included: cache and remotes, through DVC's own file systems (a folder and S3 alike)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from pipeline.project import Project
from stages.errors import EdgealignError

_OURS = re.compile(r"^(?:files/[^/]+/|runs/|[0-9a-f]{2}/)")
"""What DVC writes below a cache or a remote: objects, run cache, objects of DVC 2; halves of broken transfers among them."""

_OBJECT = re.compile(r"(?:^|/)([0-9a-f]{2})/([0-9a-f]{30}(?:\.dir)?)$")


@dataclass(frozen=True)
class Stored:
    """One file of a store."""

    path: str
    """Below the store's root."""
    oid: str
    """Object id, with ``.dir`` for a manifest; the path where the file is no object (a half transfer)."""


@dataclass
class Store:
    """A DVC cache or remote."""

    name: str
    """``cache``, or the remote's name."""
    fs: Any
    root: str
    local: bool
    files: list[Stored] = field(default_factory=list)

    def look(self) -> None:
        """Find out what it holds. Raises EdgealignError where it cannot be reached."""
        try:
            found = list(self.fs.find(self.root)) if self.fs.exists(self.root) else []
        except Exception as error:  # whatever a file system's library raises
            raise self.trouble(error) from error
        below = len(self.root.rstrip("/")) + 1
        paths = sorted(path[below:] for path in found)
        self.files = [Stored(path, object_id(path)) for path in paths if _OURS.match(path)]

    def open(self, path: str) -> IO[bytes]:
        """A file of the store, for reading. Raises OSError."""
        return cast(IO[bytes], self.fs.open(self.fs.join(self.root, path), "rb"))

    def delete(self, paths: list[str]) -> None:
        """Delete files; those that are gone already are passed over. Raises EdgealignError where the store refuses."""
        for path in paths:
            try:
                self.fs.remove(self.fs.join(self.root, path))
            except FileNotFoundError:
                continue
            except Exception as error:
                raise self.trouble(error) from error

    def trouble(self, error: Exception) -> EdgealignError:
        """A store's failure as one message."""
        return EdgealignError(
            f"DVC {'cache' if self.name == 'cache' else 'remote ' + self.name}: {error}. "
            "Mend the cause (network, credentials, rights) and run the command again: it goes on from here."
        )


def object_id(path: str) -> str:
    """The object id of a file in a store; its path where it is no object."""
    found = _OBJECT.search(path)
    return "".join(found.groups()) if found else path


@contextmanager
def open_repo(project: Project) -> Iterator[Any]:
    """DVC's own view of the project; None where the project does not use DVC."""
    if not (project.root / ".dvc").is_dir():
        yield None
        return
    from dvc.repo import Repo

    with Repo(str(project.root)) as repo:
        yield repo


def stores_of(repo: Any) -> list[Store]:
    """The cache and every remote, not listed yet. Raises EdgealignError for a remote that keeps versions of its own."""
    stores = []
    cache = repo.cache.legacy  # its path is the cache's own folder
    if cache is not None:
        stores.append(Store("cache", cache.fs, str(cache.path), True))
    for name in repo.config["remote"]:
        remote = repo.cloud.get_remote(name)
        if remote.worktree or remote.fs.version_aware:
            raise EdgealignError(
                f"DVC remote {name}: it keeps every version of its files by itself (version_aware or worktree), and nothing "
                "can be erased there from here. Delete the user's files and their versions with the provider's own tools, "
                f"take the remote out (`dvc remote remove {name}`) and run the command again."
            )
        stores.append(Store(name, remote.fs, str(remote.path), remote.fs.protocol == "local"))
    return stores


def busy(project: Project) -> None:
    """Raises EdgealignError while a DVC command works on the project: it would write anew what is being erased."""
    import json

    import psutil

    path = project.root / ".dvc" / "tmp" / "rwlock"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    writers = list((content.get("write") or {}).values())
    readers = [item for items in (content.get("read") or {}).values() for item in items]
    for item in writers + readers:
        if psutil.pid_exists(item.get("pid", -1)):
            raise EdgealignError(
                f"DVC is at work on this project (process {item['pid']}: {item.get('cmd')}). Wait for it to end, or stop it, "
                "and run the command again."
            )


def site_cache(repo: Any) -> Path:
    """DVC's notes about this project outside of it: paths with users' names, and hashes. DVC makes them again."""
    return Path(repo.site_cache_dir)
