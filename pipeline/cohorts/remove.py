"""A cohort leaves the project: its recordings and all that was made of them. DVC's cache keeps the recordings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.cohorts.store import claim, list_of_params, read_cohort, unlist_in_params
from pipeline.project import Project
from stages.errors import InputError


def paths_of(project: Project, name: str) -> list[Path]:
    """Everything in the workspace that belongs to one cohort, its recordings first; only what is there."""
    wanted = [
        project.cohort(name),
        project.features(name),
        project.transcripts(name),
        project.labels(name),
        project.read_outs(name),
        project.second_labels(name),
        project.adapters(name),
        project.evaluation(name),
        project.metrics(name),
        project.private / "quarantine" / f"{name}.csv",
        project.private / "added" / name,
        project.private / "check" / f"{name}.html",
    ]
    return [path for path in wanted if path.exists()]


def remove_cohort(
    project: Project,
    name: str,
    *,
    dry_run: bool = False,
    confirm: Callable[[str], bool] = lambda question: True,
    tell: Callable[[str], None] = print,
) -> bool:
    """Remove a cohort from the workspace and from params.yaml, after ``confirm``; whether that was done.

    Runs, registered adapters and DVC's cache stay: the recordings come back with git and `dvc checkout`. To erase a person,
    use ``forget``. Raises InputError where there is no such cohort.
    """
    paths, lists = paths_of(project, name), list_of_params(project, name)
    if not paths and not lists:
        raise InputError(f"cohort {name}: not there. `edgealign cohort list` shows those that are.")
    tell(f"cohort {name}: these go")
    if project.cohort(name).is_dir():
        try:
            record = read_cohort(project.cohort(name))
            tell(f"  {record.utterances} utterances of {len(record.users)} user(s), {record.seconds / 60:.1f} minutes")
        except InputError as error:
            tell(f"  {error}")
    for path in paths:
        tell(f"  {path.relative_to(project.root)}  ({_size(path) / 1e6:.1f} MB)")
    if lists:
        tell(f"  its name in params.yaml: {', '.join(lists)}")
    if dry_run:
        tell("dry run: nothing was removed")
        return False
    if not confirm(f"Remove cohort {name}?"):
        tell("nothing was removed")
        return False
    with claim(project, name) as scratch:
        unlist_in_params(project, name)  # first: a stage that is started now does not miss its recordings
        for path in paths:
            # out of sight in one step, then deleted: a kill leaves no half cohort behind
            gone = scratch / f"gone-{len(list(scratch.iterdir()))}"
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True) if gone.is_dir() else gone.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
    tell(f"cohort {name}: removed from the workspace. DVC's cache keeps its recordings until `dvc gc`.")
    return True


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
