"""DVC learns of the data without the person, the others' files go to the remotes, the old objects are deleted."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.cohorts.erasure.state import Erasure
from pipeline.cohorts.erasure.stores import Store, site_cache
from pipeline.cohorts.store import track_with_dvc
from stages.errors import EdgealignError, InputError

OWN_INPUTS = frozenset({"base_inputs"})
"""Stages that are to run again after an erasure: this one finds out whether the base's recordings changed."""


def current_files(repo: Any) -> dict[str, dict[str, str]]:
    """{stage: {dependency or output: hash}} of what is up to date by dvc.lock, before anything is changed.

    A stage that was behind stays behind: nothing that was never computed may pass for done.
    """
    found: dict[str, dict[str, str]] = {}
    for stage in repo.index.stages:
        if not is_locked(stage):
            continue
        for item in [*stage.deps, *stage.outs]:
            if is_plain(item) and item.hash_info and item.exists and not item.changed_checksum():
                found.setdefault(name_of(stage), {})[item.def_path] = str(item.hash_info.value)
    return found


def check_data(repo: Any) -> None:
    """Raises InputError where data/ is not what data.dvc says: an erasure would put an old version over a newer one."""
    for stage in repo.index.stages:
        for out in stage.outs if stage.is_data_source else []:
            if out.def_path == "data" and out.hash_info and (not out.exists or out.changed_checksum()):
                raise InputError(
                    "data/ is not what data.dvc says, as after `git pull` or `git checkout` alone. Run `dvc pull` (or, where "
                    "data/ was changed on purpose, `dvc add data`), and this command again."
                )


def is_locked(stage: Any) -> bool:
    """Whether a pipeline's stage has run: dvc.lock knows its outputs."""
    return bool(stage.outs) and stage.is_data_source is False and all(out.hash_info for out in stage.outs)


def name_of(stage: Any) -> str:
    """A stage's name, whatever folder the command is run in."""
    return str(stage.name or stage.path_in_repo)


def is_plain(item: Any) -> bool:
    """Whether a dependency is a file or folder of this disk, no parameter."""
    return item.protocol == "local" and not hasattr(item, "params")


def record(erasure: Erasure, repo: Any) -> None:
    """``dvc add data``, and dvc.lock for the stages whose files were rewritten, so that `dvc repro` computes none of it again.

    Raises EdgealignError with DVC's own words.
    """
    track_with_dvc(erasure.project, lambda text: None)
    unlock_cohorts(erasure)
    repo._reset()
    cohorts = [name for name, shards in erasure.before.items() if _as_expected(erasure, name, shards)]
    with repo.lock:
        for stage in repo.index.stages:
            if is_locked(stage):
                _update(erasure, stage, set(cohorts))
    repo._reset()


def _as_expected(erasure: Erasure, cohort: str, shards: list[str]) -> bool:
    """Whether a cohort holds the shards that it held before, less those that are empty now: nobody added any meanwhile."""
    folder = erasure.project.cohort(cohort)
    there = {path.name for path in folder.glob("shard-*.tar")}
    return set(shards) - set(erasure.shards.get(cohort, {})) <= there <= set(shards)


def _update(erasure: Erasure, stage: Any, cohorts: set[str]) -> None:
    noted = erasure.current.get(name_of(stage), {})

    def ours(item: Any) -> bool:
        """Whether it was up to date before, and differs now by what was erased."""
        as_before = is_plain(item) and str(item.hash_info.value) == noted.get(item.def_path)
        return as_before and item.exists and item.changed_checksum()

    deps = [dep for dep in stage.deps if ours(dep) and _cohort_of(dep.def_path) in (None, *cohorts)]
    outs = [out for out in stage.outs if ours(out)]
    if stage.name in OWN_INPUTS:
        deps = []
    for dep in deps:
        dep.save()
    for out in outs:
        out.save()
        out.commit(relink=False)
    if deps or outs:
        stage.dump(update_pipeline=False)


def _cohort_of(path: str) -> str | None:
    """The cohort whose recordings a path is."""
    parts = path.split("/")
    return parts[2] if parts[:2] == ["data", "cohorts"] and len(parts) > 2 else None


def push(repo: Any, stores: Iterable[Store], held: Iterable[str]) -> None:
    """Send the others' rewritten files to every remote that held the person. Raises EdgealignError where that fails.

    Before anything is deleted there: a clone must find either version.
    """
    from dvc.exceptions import DvcException

    for store in stores:
        if store.name == "cache" or store.name not in set(held):
            continue
        try:
            repo.push(targets=_targets(repo), remote=store.name)
        except DvcException as error:
            raise store.trouble(error) from error
        except Exception as error:  # a cloud's own library
            raise store.trouble(error) from error


def _targets(repo: Any) -> list[str]:
    """What is here of all that DVC tracks: files that this clone never pulled are not missed."""
    found = []
    for stage in repo.index.stages:
        outs = [out for out in stage.outs if out.use_cache]
        if outs and all(out.exists and out.hash_info and not out.changed_cache() for out in outs):
            found.append(stage.addressing)
    return found


def delete(erasure: Erasure, stores: Iterable[Store], found: dict[str, list[str]]) -> None:
    """Delete what was found in the cache and the remotes, and remember the ids for the proof."""
    for store in stores:
        paths = found.get(store.name, [])
        if not paths:
            continue
        oids = {item.path: item.oid for item in store.files}
        known = set(erasure.objects.get(store.name, []))
        erasure.objects[store.name] = sorted(known | {oids[path] for path in paths if "/" not in oids[path]})
        erasure.save()
        store.delete(paths)
        if not store.local:
            wait = (
                f"DVC remote {store.name}: deleted there. Where the provider keeps old versions or backups of deleted objects, "
                "its operator has to delete these as well."
            )
            erasure.waits = sorted({*erasure.waits, wait})


def unlock_cohorts(erasure: Erasure) -> None:
    """Take cohorts that are gone out of dvc.lock: a cohort may be called like its only user."""
    from dvc.utils.serialize import modify_yaml

    path = erasure.project.root / "dvc.lock"
    gone = [name for name in erasure.before if not erasure.project.cohort(name).is_dir()]
    if gone and path.is_file():
        with modify_yaml(str(path)) as content:
            for stage in list(content.get("stages") or {}):
                if stage.partition("@")[2] in gone:
                    del content["stages"][stage]


def live_objects(repo: Any) -> set[str]:
    """Ids of the objects that data.dvc and dvc.lock point at now."""
    live: set[str] = set()
    for out in repo.index.outs:
        if not out.use_cache or not out.hash_info:
            continue
        live.add(str(out.hash_info.value))
        if out.hash_info.isdir:
            try:
                tree = out.get_obj()
            except Exception:  # not in the cache: its files are not known here
                tree = None
            live |= {str(info.value) for _, _, info in tree} if tree is not None else set()
    return live


def unlock_broken(repo: Any, deleted: set[str]) -> list[str]:
    """Forget in dvc.lock the stages whose recorded outputs are among the deleted objects; their names.

    Their files are not in this workspace, so they could not be rewritten: `dvc repro` makes them again.
    """
    from dvc.dvcfile import ProjectFile

    broken = []
    with repo.lock:
        for stage in list(repo.index.stages):
            if not is_locked(stage) or not isinstance(stage.dvcfile, ProjectFile):
                continue
            if any(out.use_cache and _refers(out, deleted) for out in stage.outs):
                stage.dvcfile._lockfile.remove_stage(stage)
                broken.append(name_of(stage))
    if broken:
        repo._reset()
    return broken


def _refers(out: Any, deleted: set[str]) -> bool:
    if str(out.hash_info.value) in deleted:
        return True
    try:
        tree = out.get_obj() if out.hash_info.isdir else None
    except Exception:
        return False
    return tree is not None and any(str(info.value) in deleted for _, _, info in tree)


def forget_notes(repo: Any) -> None:
    """Delete DVC's own notes about the project: paths and hashes, outside of the project and in .dvc/tmp."""
    repo.close()
    shutil.rmtree(site_cache(repo), ignore_errors=True)
    left = Path(site_cache(repo))
    if left.exists():
        raise EdgealignError(
            f"{left}: DVC's notes could not be deleted. End other DVC commands and run this one again."
        )
