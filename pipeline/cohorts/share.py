"""Cohorts that several people work on: one DVC remote, and git told how to merge what every cohort touches."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.project import Project
from stages.atomic import write_bytes, write_text
from stages.errors import EdgealignError, InputError

REMOTE = "store"

SHARED = (".dvc/config", ".gitattributes", "data.dvc", "dvc.lock", "params.yaml", "metrics")
"""What git carries of a shared project, beside its code."""

DRIVERS = {"data.dvc": "data", "params.yaml": "params", "dvc.lock": "lock"}
"""Files that git merges with `edgealign cohort merge-driver`, and which kind each is."""

ATTRIBUTES = (
    *(f"{file} merge=edgealign-{kind}" for file, kind in DRIVERS.items()),
    # ours, as in dvc.lock: `dvc repro` writes it anew
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
        # git itself replaces what begins with %
        program = shlex.quote(sys.executable).replace("%", "%%")
        command = f"{program} -m pipeline cohort merge-driver {kind} %O %A %B"
        _run(project, ["git", "config", f"merge.edgealign-{kind}.name", f"edgealign: {kind}"])
        _run(project, ["git", "config", f"merge.edgealign-{kind}.driver", command])
    _run(project, ["git", "config", "merge.edgealign-made.name", "edgealign: made by a stage"])
    _run(project, ["git", "config", "merge.edgealign-made.driver", "true"])
    tell(f"merging is set up in this clone for {', '.join(DRIVERS)}")
    if url is None:
        if not _remotes(project):
            tell("no DVC remote yet: `edgealign cohort share URL` sets one (a folder, or s3://bucket/path)")
        return
    if "://" not in url:
        url = str(_folder(Path(url)))
    with _kept_unless_it_works(project):
        _set_remote(project, url, ["--local"] if local else [])
        _try_out(project)
    where = ".dvc/config.local (of this clone alone)" if local else ".dvc/config"
    tell(f"DVC remote {REMOTE}: {url}, noted in {where}")
    there = " ".join(name for name in SHARED if (project.root / name).exists())
    tell(f"next: dvc push, then git add {there} && git commit && git push")


def _remotes(project: Project) -> dict[str, str]:
    """{name: URL} of the project's DVC remotes."""
    from dvc.repo import Repo

    with Repo(str(project.root)) as repo:
        return {name: str(options["url"]) for name, options in repo.config["remote"].items()}


def _set_remote(project: Project, url: str, local: list[str]) -> None:
    """Note the URL. Options of the remote, such as endpointurl, stay where its kind stays the same."""
    remote = [sys.executable, "-m", "dvc", "remote"]
    old = _remotes(project).get(REMOTE)
    if old is not None and _scheme(old) == _scheme(url):
        _run(project, [*remote, "modify", *local, REMOTE, "url", url])
        _run(project, [*remote, "default", *local, REMOTE])
    else:
        _run(project, [*remote, "add", "--force", "--default", *local, REMOTE, url])


def _scheme(url: str) -> str:
    return url.partition("://")[0] if "://" in url else ""


@contextmanager
def _kept_unless_it_works(project: Project) -> Iterator[None]:
    """Put DVC's settings back as they were where the block raises."""
    paths = [project.root / ".dvc" / name for name in ("config", "config.local")]
    before = {path: path.read_bytes() if path.is_file() else None for path in paths}
    try:
        yield
    except BaseException:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            elif path.read_bytes() != content:
                write_bytes(path, content)
        raise


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
    """A folder that can be a remote, absolute. Raises EdgealignError where there can be none."""
    path = path.expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgealignError(f"{path}: cannot be written ({error.strerror}). Give a folder that can.") from error
    return path


def _try_out(project: Project) -> None:
    """Write something to the remote and take it away. Raises EdgealignError that says what is missing."""
    from dvc.repo import Repo
    from dvc_objects.fs.errors import RemoteMissingDepsError

    with Repo(str(project.root)) as repo:
        url = str(repo.config["remote"][REMOTE]["url"])
        try:
            remote = repo.cloud.get_remote_odb(REMOTE)
            probe = remote.fs.join(remote.path, f".edgealign-{uuid.uuid4().hex}")
            if not _scheme(url):
                remote.fs.makedirs(remote.path, exist_ok=True)  # an object store has no folders
            remote.fs.pipe_file(probe, b"edgealign cohort share")
            remote.fs.remove(probe)
        except (ImportError, RemoteMissingDepsError) as error:
            raise EdgealignError(
                f"{url}: DVC needs its extra for this kind of remote: pip install 'dvc[{_scheme(url)}]'; then run the "
                "command again."
            ) from error
        except Exception as error:  # a cloud's own library has its own
            raise EdgealignError(
                f"{url}: cannot be written ({str(error) or type(error).__name__}). Check that it exists, that it is reached "
                "from here, and that your credentials may write there; then run the command again."
            ) from error


def _run(project: Project, command: list[str]) -> str:
    done = subprocess.run(command, cwd=project.root, env={**os.environ}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgealignError(f"{' '.join(command[:4])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()
