"""Two branches become one: three-way merges of the files in which every cohort leaves a trace.

``data.dvc`` is one pointer at one manifest, ``params.yaml`` has lists, ``dvc.lock`` a block a stage: git would see a conflict
wherever two people added a cohort each. ``edgealign cohort share`` sets these drivers up in a clone.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.cohorts.store import COHORT_LISTS, UNTOLD, edit_lists
from pipeline.project import Project
from stages.atomic import write_text
from stages.errors import EdgealignError

Manifest = dict[str, str]
"""{path below data/: md5}."""


def merge_driver(project: Project, kind: str, ancestor: Path, ours: Path, theirs: Path) -> bool:
    """Merge one file as git asks a driver to: the result goes to ``ours``; False leaves a conflict to the person.

    ``kind`` is data, params or lock. What is in conflict is told on standard error, and ``ours`` is never half written.
    """
    drivers: dict[str, Callable[..., bool]] = {"data": merge_data, "params": merge_params, "lock": merge_lock}
    return drivers[kind](project, ancestor, ours, theirs, lambda line: print(line, file=sys.stderr))


def three_way(
    ancestor: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> tuple[dict, list[str]]:
    """Merge mappings key by key: the side that changed a key counts. Returns the merged one and the keys in conflict.

    A key in conflict is left out of the merged one.
    """
    merged, conflicts = {}, []
    missing = object()
    for key in dict.fromkeys([*ours, *theirs]):
        base, mine, other = (side.get(key, missing) for side in (ancestor, ours, theirs))
        if mine == other or other == base:
            taken = mine
        elif mine == base:
            taken = other
        else:
            conflicts.append(key)
            continue
        if taken is not missing:
            merged[key] = taken
    return merged, conflicts


def merge_data(project: Project, ancestor: Path, ours: Path, theirs: Path, tell: Callable[[str], None]) -> bool:
    """``data.dvc``: the manifests of data/, a cohort at a time; proofs of erasure from both sides."""
    from dvc.repo import Repo

    pointers = [_pointer(path) for path in (ancestor, ours, theirs)]
    with Repo(str(project.root)) as repo:
        trees = [_manifest(repo, pointer) for pointer in pointers]
        groups = [_by_cohort(tree) for tree in trees]
        merged, conflicts = three_way(*groups)
        if conflicts:
            for name in conflicts:
                tell(
                    f"data.dvc: both branches changed {name}. Keep one side's (`git checkout --ours data.dvc` or `--theirs`, "
                    f"then `dvc checkout data.dvc`), and bring the other's recordings in again with `edgealign cohort append`."
                )
            return False
        files = {path: md5 for group in merged.values() for path, md5 in group.items()}
        md5 = _keep(repo, files)
    content = yaml.safe_load(ours.read_text(encoding="utf-8"))
    out = content["outs"][0]
    size = _size(pointers, trees)
    out |= {"md5": md5, "nfiles": len(files)} | ({"size": size} if size is not None else {})
    if size is None:
        out.pop("size", None)
    write_text(ours, yaml.safe_dump(content, sort_keys=False))
    return True


def _pointer(path: Path) -> dict[str, Any]:
    """The output that a ``.dvc`` file points at; empty for an empty file (there was none before the branches parted)."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return dict(content["outs"][0]) if content else {}
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise EdgealignError(
            f"{path}: not a .dvc file ({error}). Take one side's: `git checkout --ours data.dvc`."
        ) from error


def _manifest(repo: Any, pointer: Mapping[str, Any]) -> Manifest:
    """{path: md5} of a pointer's folder; its manifest is fetched where only the remote has it."""
    if not pointer:
        return {}
    oid = str(pointer["md5"])
    cache = repo.cache.local
    if not cache.exists(oid):
        _fetch(repo, oid)
    with cache.fs.open(cache.oid_to_path(oid), "r") as file:
        return {entry["relpath"]: entry["md5"] for entry in json.load(file)}


def _fetch(repo: Any, oid: str) -> None:
    """Copy one object from a remote to the cache. Raises EdgealignError where no remote has it."""
    from dvc.exceptions import DvcException

    for name in repo.config["remote"]:
        try:
            remote = repo.cloud.get_remote_odb(name)
            if remote.exists(oid):
                with remote.fs.open(remote.oid_to_path(oid), "rb") as file:
                    repo.cache.local.add_bytes(oid, file.read())
                return
        except (DvcException, OSError) as error:
            raise EdgealignError(f"DVC remote {name}: {error}. Mend the cause and merge again.") from error
    raise EdgealignError(
        f"The manifest {oid} of data/ is neither in DVC's cache nor in a remote. Ask whoever made that branch to "
        "`dvc push`, then merge again."
    )


def _by_cohort(tree: Manifest) -> dict[str, Manifest]:
    """The files of a manifest by what changes together: a cohort's are one, any other file is one by itself."""
    groups: dict[str, Manifest] = {}
    for path, md5 in tree.items():
        parts = path.split("/")
        name = f"cohort {parts[1]}" if parts[0] == "cohorts" and len(parts) > 2 else path
        groups.setdefault(name, {})[path] = md5
    return groups


def _keep(repo: Any, files: Manifest) -> str:
    """Write a manifest to DVC's cache, as ``dvc add`` would; its object id."""
    from dvc_data.hashfile.tree import Tree

    tree = Tree.from_list([{"relpath": path, "md5": md5} for path, md5 in sorted(files.items())], hash_name="md5")
    tree.digest()
    repo.cache.local.add(tree.path, tree.fs, tree.oid)
    return str(tree.oid)


def _size(pointers: list[dict[str, Any]], trees: list[Manifest]) -> int | None:
    """Bytes of the merged folder: what each side added or took away counts. None where both made the same change."""
    base, mine, other = trees
    both = {path for path in {*base, *mine, *other} if mine.get(path) == other.get(path) != base.get(path)}
    if both or any(pointer and "size" not in pointer for pointer in pointers):
        return None
    before, ours, theirs = (int(pointer.get("size", 0)) for pointer in pointers)
    return ours + theirs - before


def merge_params(project: Project, ancestor: Path, ours: Path, theirs: Path, tell: Callable[[str], None]) -> bool:
    """``params.yaml``: its lists of cohorts name by name, everything else as git merges text."""
    texts = [path.read_text(encoding="utf-8") for path in (ancestor, ours, theirs)]
    contents = [yaml.safe_load(text) or {} for text in texts]
    lists = {key: _merged_names([_names(content, key) for content in contents]) for key in (*COHORT_LISTS, UNTOLD)}

    def take(key: str, names: Any) -> None:
        if list(names) != lists[key]:
            names[:] = lists[key]

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("base", "ours", "theirs")]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(edit_lists(text, take)[0] if text.strip() else text, encoding="utf-8")
        done = subprocess.run(
            [
                "git",
                "merge-file",
                "-p",
                "-L",
                "ours",
                "-L",
                "base",
                "-L",
                "theirs",
                *map(str, (paths[1], paths[0], paths[2])),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode < 0 or done.returncode > 127:
        raise EdgealignError(f"git merge-file: {done.stderr.strip()}")
    write_text(ours, done.stdout)
    if done.returncode:
        tell(
            "params.yaml: the lists of cohorts are merged; a setting was changed on both branches: choose between the marks."
        )
    return done.returncode == 0


def _names(content: Mapping[str, Any], key: str) -> list[str]:
    value: Any = content
    for part in key.split("."):
        value = (value or {}).get(part)
    return list(value or [])


def _merged_names(sides: list[list[str]]) -> list[str]:
    """Names in our order, theirs after them; whoever took a name out has taken it out."""
    base, ours, theirs = sides
    gone = (set(base) - set(ours)) | (set(base) - set(theirs))
    return [name for name in dict.fromkeys([*ours, *theirs]) if name not in gone]


def merge_lock(project: Project, ancestor: Path, ours: Path, theirs: Path, tell: Callable[[str], None]) -> bool:
    """``dvc.lock``: stage by stage; one that differs on both sides is left out, so that ``dvc repro`` runs it again."""
    contents = [yaml.safe_load(path.read_text(encoding="utf-8")) or {} for path in (ancestor, ours, theirs)]
    stages, conflicts = three_way(*(content.get("stages") or {} for content in contents))
    merged = {**contents[2], **contents[1], "stages": stages}
    buffer = io.StringIO()
    yaml.safe_dump(merged, buffer, sort_keys=False, allow_unicode=True)
    write_text(ours, buffer.getvalue())
    if conflicts:
        tell(f"dvc.lock: `dvc repro` will run again what both branches ran: {', '.join(conflicts)}")
    return True
