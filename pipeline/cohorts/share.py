"""Cohorts that several people work on: one DVC remote, and git told how to merge what every cohort touches."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from pipeline.project import Project
from stages.atomic import write_text
from stages.errors import EdgealignError, InputError

REMOTE = "store"

DRIVERS = {"data.dvc": "data", "params.yaml": "params", "dvc.lock": "lock"}
"""Files that git merges with `edgealign cohort merge-driver`, and which kind each is."""

ATTRIBUTES = (
    *(f"{file} merge=edgealign-{kind}" for file, kind in DRIVERS.items()),
    # ours, whichever that is: dvc.lock then lacks the stage that wrote it, and `dvc repro` writes it anew
    "metrics/*.json merge=edgealign-made",
    ".gitignore merge=union",  # DVC adds a line for everything that it keeps
)


def share(
    project: Project, url: str | None = None, *, local: bool = False, tell: Callable[[str], None] = print
) -> None:
    """Make ``url`` (a folder, or s3://..., gs://..., ssh://...) the project's DVC remote, and set up merging in this clone.

    Without a url only the merging is set up: what a second engineer does once after `git clone`. With ``local`` the remote
    is noted in .dvc/config.local, which git does not carry. Raises InputError where there is no git or no DVC, and
    EdgealignError where the remote cannot be written.
    """
    _need_repositories(project)
    _attributes(project, tell)
    for kind in DRIVERS.values():
        command = f'"{sys.executable}" -m pipeline cohort merge-driver {kind} %O %A %B'
        _run(project, ["git", "config", f"merge.edgealign-{kind}.name", f"edgealign: {kind}"])
        _run(project, ["git", "config", f"merge.edgealign-{kind}.driver", command])
    _run(project, ["git", "config", "merge.edgealign-made.name", "edgealign: made by a stage"])
    _run(project, ["git", "config", "merge.edgealign-made.driver", "true"])
    tell(f"merging is set up in this clone for {', '.join(DRIVERS)}")
    if url is None:
        return
    if "://" not in url:
        url = str(_folder(Path(url)))
    dvc = [sys.executable, "-m", "dvc"]
    _run(project, [*dvc, "remote", "add", "--force", "--default", *(["--local"] if local else []), REMOTE, url])
    _try_out(project)
    where = ".dvc/config.local (of this clone alone)" if local else ".dvc/config"
    tell(f"DVC remote {REMOTE}: {url}, noted in {where}")
    tell(
        "next: git add .dvc/config .gitattributes data.dvc dvc.lock params.yaml metrics && git commit, dvc push, git push"
    )


def _need_repositories(project: Project) -> None:
    if not (project.root / ".dvc").is_dir():
        raise InputError(f"{project.root}: no DVC project. Run `dvc init` there first.")
    try:
        _run(project, ["git", "rev-parse", "--git-dir"])
    except EdgealignError as error:
        raise InputError(f"{project.root}: no git repository. Run `git init` there first.") from error


def _attributes(project: Project, tell: Callable[[str], None]) -> None:
    """Name the drivers in .gitattributes; lines that are there stay."""
    path = project.root / ".gitattributes"
    there = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    missing = [line for line in ATTRIBUTES if line not in there]
    if missing:
        write_text(path, "\n".join([*there, *missing]) + "\n")
        tell(".gitattributes: git is told to merge data.dvc, params.yaml and dvc.lock with edgealign; commit it")


def _folder(path: Path) -> Path:
    """A folder that can be a remote, absolute. Raises EdgealignError where it cannot be written."""
    path = path.expanduser().resolve()
    probe = path / f".edgealign-{uuid.uuid4().hex}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EdgealignError(f"{path}: cannot be written ({error.strerror}). Give a folder that can.") from error
    return path


def _try_out(project: Project) -> None:
    """Reach the remote once. Raises EdgealignError that says what is missing."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with Repo(str(project.root)) as repo:
        try:
            remote = repo.cloud.get_remote_odb(REMOTE)
            remote.fs.exists(remote.path)
        except (DvcException, OSError, ImportError) as error:
            scheme = str(repo.config["remote"][REMOTE]["url"]).split("://")[0]
            raise EdgealignError(
                f"DVC remote {REMOTE} cannot be reached: {error}. For S3 and the like DVC needs its extra: "
                f"pip install 'dvc[{scheme}]'; then run the command again."
            ) from error


def _run(project: Project, command: list[str]) -> str:
    done = subprocess.run(command, cwd=project.root, env={**os.environ}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgealignError(f"{' '.join(command[:4])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()
