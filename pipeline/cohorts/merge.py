"""Two branches become one: three-way merges of the files in which every cohort leaves a trace.

``data.dvc`` is one pointer at one manifest, ``params.yaml`` has lists, ``dvc.lock`` a block a stage: git would see a conflict
wherever two people added a cohort each. ``edgealign cohort share`` sets these drivers up in a clone.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.cohorts.store import COHORT_LISTS, UNTOLD, edit_lists
from pipeline.project import Project
from stages.atomic import write_text
from stages.errors import EdgealignError

TAKE = "edgealign.take"
COHORT = "cohort "
PROOFS = "erasures/"

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
    """``data.dvc``: the manifests of data/, a cohort at a time; proofs of erasure from both sides.

    git's setting ``edgealign.take`` (ours or theirs) says whose a cohort becomes that both sides changed. Raises
    EdgealignError where a manifest is not to be had.
    """
    from dvc.repo import Repo

    take = _take(project)
    documents = [_document(path) for path in (ancestor, ours, theirs)]
    pointers = [document.get("outs", [{}])[0] for document in documents]
    with Repo(str(project.root)) as repo:
        found = [_manifest(repo, pointer) for pointer in pointers]
        for pointer, tree in list(zip(pointers, found, strict=True))[1:]:
            if tree is None:
                raise EdgealignError(_missing(project, pointer))
        if found[0] is None:  # as after `dvc gc`: nobody can say any more what was taken out
            tell(
                "data.dvc: the state from which the branches parted is neither in DVC's cache nor in a remote. What either "
                "branch has stays; `edgealign cohort list` shows whether a cohort is there that was removed."
            )
            pointers[0] = {}
        trees: list[Manifest] = [tree or {} for tree in found]
        groups = [_by_cohort(tree) for tree in trees]
        merged, conflicts = three_way(*groups)
        if conflicts and take is None:
            for name in conflicts:
                tell(_in_conflict(name, trees))
            return False
        taken = groups[1] if take == "ours" else groups[2]
        for name in conflicts:
            tell(f"data.dvc: {name} is as {take} has it")
            merged[name] = taken.get(name, {})  # none: that side took it out
        files = {path: md5 for group in merged.values() for path, md5 in group.items()} | _proofs(trees)
        md5 = _keep(repo, files)
        size = _size(repo, pointers, trees, files)
    out = {key: value for key, value in pointers[1].items() if key != "size"}
    out |= {"md5": md5} | ({} if size is None else {"size": size}) | {"nfiles": len(files)}
    first = [key for key in ("md5", "size", "nfiles") if key in out]  # as `dvc add` orders them
    content = documents[1] | {"outs": [{key: out[key] for key in dict.fromkeys([*first, *out])}]}
    _write_yaml(ours, content)
    return True


def _take(project: Project) -> str | None:
    """git's setting edgealign.take; None where there is none."""
    done = subprocess.run(
        ["git", "config", "--get", TAKE], cwd=project.root, capture_output=True, text=True, check=False
    )
    take = done.stdout.strip() or None
    if take not in (None, "ours", "theirs"):
        raise EdgealignError(f"git's setting {TAKE} is {take!r}: needed ours or theirs, or none.")
    return take


def _document(path: Path) -> dict[str, Any]:
    """A ``.dvc`` file that points at one folder; {} for an empty file (there was none before the branches parted)."""
    from dvc.utils.serialize import ParseError, load_yaml

    try:
        content = load_yaml(str(path))
        if content and not str(content["outs"][0]["md5"]).endswith(".dir"):
            raise ValueError("its output is no folder")
        return dict(content or {})
    except (OSError, ParseError, ValueError, KeyError, IndexError, TypeError) as error:
        raise EdgealignError(
            f"{path}: not a pointer at data/ ({error!r}). Take one side's: `git checkout --ours data.dvc`."
        ) from error


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """As DVC writes: YAML 1.2, in which ``yes`` and ``1e5`` are not what another writer makes of them."""
    from dvc.utils.serialize import dumps_yaml

    write_text(path, dumps_yaml(dict(content)))


def _manifest(repo: Any, pointer: Mapping[str, Any]) -> Manifest | None:
    """{path: md5} of a pointer's folder, fetched where only a remote has it; None where nothing has it."""
    if not pointer:
        return {}
    oid = str(pointer["md5"])
    cache = repo.cache.local
    if not cache.exists(oid) and not _fetch(repo, oid):
        return None
    with cache.fs.open(cache.oid_to_path(oid), "r") as file:
        return {entry["relpath"]: entry["md5"] for entry in json.load(file)}


def _fetch(repo: Any, oid: str) -> bool:
    """Copy a manifest from the first remote that has it to the cache; whether one has it.

    Raises EdgealignError where none that answers has it and one does not answer, or has it damaged.
    """
    troubles = []
    for name in repo.config["remote"]:
        try:
            remote = repo.cloud.get_remote_odb(name)
            path = remote.oid_to_path(oid)
            if not remote.fs.exists(path):
                continue
            with remote.fs.open(path, "rb") as file:
                content = file.read()
        except Exception as error:  # a cloud's own library has its own
            troubles.append(f"DVC remote {name}: {str(error) or type(error).__name__}")
            continue
        if f"{hashlib.md5(content).hexdigest()}.dir" == oid:
            repo.cache.local.add_bytes(oid, content)
            return True
        troubles.append(f"DVC remote {name}: {oid} is damaged there")
    if troubles:
        raise EdgealignError(f"{'; '.join(troubles)}. Mend the cause, then `git merge --abort` and merge again.")
    return False


def _missing(project: Project, pointer: Mapping[str, Any]) -> str:
    """Why a branch's manifest is nowhere, and what to do."""
    from pipeline.cohorts.erasure.tombstones import erased_objects

    oid = str(pointer["md5"])
    erasure = erased_objects(project).get(oid)
    if erasure:
        return (
            f"The manifest {oid} of data/ was deleted with a person's recordings (erasure {erasure}). Take the other branch's "
            "data.dvc, `dvc pull data.dvc`, and bring in again what is missing with `edgealign cohort add`."
        )
    return (
        f"The manifest {oid} of data/ is neither in DVC's cache nor in a remote. Ask whoever made that branch to "
        "`dvc push`, then `git merge --abort` and merge again."
    )


def _in_conflict(name: str, trees: list[Manifest]) -> str:
    """What is in conflict, and how to go on."""
    cohort = name.removeprefix(COHORT)
    erased = [
        side
        for side, tree in (("ours", trees[1]), ("theirs", trees[2]))
        if any(path.startswith(PROOFS) and path not in trees[0] for path in tree)
    ]
    advice = f" A person was erased in {' and '.join(erased)}: take that one." if len(erased) == 1 else ""
    again = f", bring in what it lacks with `edgealign cohort append {cohort} ...`" if name != cohort else ""
    return (
        f"data.dvc: both branches changed {name}. Choose whose stays, ours or theirs; all else of both stays:\n"
        f"  git -c {TAKE}=theirs checkout --merge data.dvc\n"
        f"then `dvc pull data.dvc`{again}, and `git add data.dvc`.{advice}"
    )


def _by_cohort(tree: Manifest) -> dict[str, Manifest]:
    """The files of a manifest by what changes together: a cohort's are one, any other file is one by itself.

    Proofs of erasure are not among them.
    """
    groups: dict[str, Manifest] = {}
    for path, md5 in tree.items():
        parts = path.split("/")
        name = f"{COHORT}{parts[1]}" if parts[0] == "cohorts" and len(parts) > 2 else path
        if not path.startswith(PROOFS):
            groups.setdefault(name, {})[path] = md5
    return groups


def _proofs(trees: list[Manifest]) -> Manifest:
    """Proofs of erasure: every one that any side has. Of one that both changed, both are kept, theirs under another name."""
    base, ours, theirs = ({path: md5 for path, md5 in tree.items() if path.startswith(PROOFS)} for tree in trees)
    merged, conflicts = three_way(base, ours, theirs)
    for path in conflicts:
        here = [side[path] for side in (ours, theirs) if path in side]
        merged[path] = here[0]
        if len(here) > 1:
            stem, dot, suffix = path.rpartition(".")
            merged[f"{stem}-{here[1][:8]}{dot}{suffix}"] = here[1]
    return {**base, **merged}


def _keep(repo: Any, files: Manifest) -> str:
    """Write a manifest to DVC's cache, as ``dvc add`` would; its object id."""
    from dvc_data.hashfile.tree import Tree

    tree = Tree.from_list([{"relpath": path, "md5": md5} for path, md5 in sorted(files.items())], hash_name="md5")
    tree.digest()
    repo.cache.local.add(tree.path, tree.fs, tree.oid)
    return str(tree.oid)


def _size(repo: Any, pointers: list[dict[str, Any]], trees: list[Manifest], files: Manifest) -> int | None:
    """Bytes of the merged folder; None, as DVC has it, where a file's is not known here.

    What each side added or took away counts, so only files that this does not hold for are looked up.
    """
    if any(pointer and "size" not in pointer for pointer in pointers):
        return None
    before, ours, theirs = (int(pointer.get("size", 0)) for pointer in pointers)
    odd: Counter[str] = Counter(files.values())
    odd.update(trees[0].values())
    odd.subtract(Counter(trees[1].values()))
    odd.subtract(Counter(trees[2].values()))
    cache = repo.cache.local
    total = ours + theirs - before
    for md5, times in odd.items():
        if times:
            if not cache.exists(md5):
                return None
            total += times * int(cache.fs.size(cache.oid_to_path(md5)))
    return total


def merge_params(project: Project, ancestor: Path, ours: Path, theirs: Path, tell: Callable[[str], None]) -> bool:
    """``params.yaml``: its lists of cohorts name by name, everything else as git merges text."""
    texts = [path.read_text(encoding="utf-8") for path in (ancestor, ours, theirs)]
    try:
        sides = [_lists(text) for text in texts]
    except (yaml.YAMLError, TypeError, AttributeError, ValueError) as error:
        tell(f"params.yaml: one side cannot be read ({error}), so its lists of cohorts are merged as text.")
    else:
        lists = {key: _merged_names([side[key] for side in sides]) for key in (*COHORT_LISTS, UNTOLD)}
        if any(side != lists for side in sides):
            texts = [_with_lists(text, lists) for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / name for name in ("base", "ours", "theirs")}
        for path, text in zip(paths.values(), texts, strict=True):
            path.write_text(text, encoding="utf-8")
        labels = [word for name in ("ours", "base", "theirs") for word in ("-L", name)]
        places = [str(paths[name]) for name in ("ours", "base", "theirs")]
        done = subprocess.run(
            ["git", "merge-file", "-p", *labels, *places], capture_output=True, text=True, check=False
        )
    if done.returncode < 0 or done.returncode > 127:
        raise EdgealignError(f"git merge-file: {done.stderr.strip()}")
    write_text(ours, done.stdout)
    if done.returncode:
        tell("params.yaml: both branches changed the same lines: choose between the marks.")
    return done.returncode == 0


def _lists(text: str) -> dict[str, list[str]]:
    """The lists of cohorts in a params.yaml. Raises YAMLError, AttributeError or ValueError where they are none."""
    content = yaml.safe_load(text) or {}
    lists = {key: content.get(key) or [] for key in COHORT_LISTS}
    lists[UNTOLD] = (content.get("pseudo_labels") or {}).get("untold_only") or []
    for key, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{key} is not a list of names")
    return lists


def _with_lists(text: str, lists: Mapping[str, list[str]]) -> str:
    """The text with these lists, in the layout that ``edit_lists`` writes even where they were these already.

    Were a text left as it is and another laid out anew, their layouts would differ, and that would count as a change.
    """

    def mark(key: str, names: Any) -> None:
        names.append("")

    def put(key: str, names: Any) -> None:
        names[:] = lists[key]

    return edit_lists(edit_lists(text, mark)[0], put)[0] if text.strip() else text


def _merged_names(sides: list[list[str]]) -> list[str]:
    """Names in our order, theirs after them; whoever took a name out has taken it out."""
    base, ours, theirs = sides
    gone = (set(base) - set(ours)) | (set(base) - set(theirs))
    return [name for name in dict.fromkeys([*ours, *theirs]) if name not in gone]


def merge_lock(project: Project, ancestor: Path, ours: Path, theirs: Path, tell: Callable[[str], None]) -> bool:
    """``dvc.lock``: stage by stage; of one that both sides ran, ours stays.

    Each side's entry is true by itself: with these inputs, this came out. `dvc repro` compares the inputs and runs the stage
    again where they are others now. Were it left out, `dvc pull` would fail for want of its outputs.
    """
    from dvc.utils.serialize import ParseError, load_yaml

    try:
        contents = [load_yaml(str(path)) for path in (ancestor, ours, theirs)]
        sides = [content.get("stages") or {} for content in contents]
        stages, conflicts = three_way(*sides)
    except (OSError, ParseError, AttributeError) as error:
        raise EdgealignError(
            f"dvc.lock: one side cannot be read ({error}). Take the other: `git checkout --ours dvc.lock` or `--theirs`; "
            "`dvc repro` makes up for it."
        ) from error
    stages |= {name: sides[1].get(name) or sides[2][name] for name in conflicts}
    _write_yaml(ours, {**contents[2], **contents[1], "stages": stages})
    if conflicts:
        tell(f"dvc.lock: `dvc repro` will look again at what both branches ran: {', '.join(conflicts)}")
    return True
