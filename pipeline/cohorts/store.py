"""Cohorts on disk: published whole or not at all, described by ``cohort.yaml``, listed in ``params.yaml``."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from pipeline.cohorts.index import index_row, table_of, write_index
from pipeline.project import Project
from pipeline.settings import params_path
from pipeline.tracking.lineage import data_md5
from stages.atomic import exchange, fsync_folder, sha256_file, write_text
from stages.errors import EdgealignError, InputError
from stages.shards import ShardItem, iter_shard, write_shards

COHORT_FILE = "cohort.yaml"
COHORT_LISTS = ("cohorts", "base_cohorts", "personal_cohorts")
UNTOLD = "pseudo_labels.untold_only"
RETIRED = "retired"


@dataclass
class UserRecord:
    """One user of a cohort. ``name`` is what the transcripts call the user."""

    name: str
    utterances: int = 0
    untranscribed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class CohortRecord:
    """``cohort.yaml``: no clock time and no path, so that the same recordings give the same bytes."""

    name: str
    language: str
    consent: dict[str, Any]
    made_by: str  # "edgealign cohort add", "edgealign cohort demo" or "edgealign cohort speak"
    created_from: str  # SHA-256 of what went in
    utterances: int = 0
    seconds: float = 0.0
    users: dict[str, UserRecord] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)  # file name: SHA-256


def read_cohort(folder: Path) -> CohortRecord:
    """Read ``cohort.yaml``. Raises InputError where it is missing or not what ``publish`` writes."""
    path = folder / COHORT_FILE
    try:
        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
        users = {name: UserRecord(**user) for name, user in content.pop("users").items()}
        return CohortRecord(users=users, **content)
    except FileNotFoundError:
        raise InputError(
            f"{path}: not there. Run `edgealign cohort add {folder.name} ...`, or `dvc pull` where the cohort exists."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: not a cohort's description ({error}). Add the cohort again with --replace."
        ) from error


def is_intact(folder: Path, record: CohortRecord) -> bool:
    """Whether the shards are those that the record names, byte for byte, and no others."""
    present = {path.name for path in folder.glob("shard-*.tar")}
    return present == set(record.shards) and all(
        sha256_file(folder / name) == digest for name, digest in record.shards.items()
    )


@contextmanager
def claim(project: Project, name: str) -> Iterator[Path]:
    """The folder in which a cohort is prepared, on the project's own file system but outside data/, for one process at a time.

    What a kill left there is still there: a command that is run again goes on with it. Raises EdgealignError where another
    process is at work on the same cohort.
    """
    from filelock import FileLock, Timeout

    parent = project.private / "incoming"
    parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(parent / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise EdgealignError(
            f"cohort {name}: another edgealign command is at work on it. Wait for that one to end, then run this again."
        ) from None
    try:
        folder = parent / name
        folder.mkdir(exist_ok=True)
        recover(folder, project.cohort(name))
        yield folder
    finally:
        with suppress(OSError):
            (parent / name).rmdir()  # stays where something is kept in it
        lock.release()


def build(folder: Path, record: CohortRecord, items: Iterable[ShardItem], names: dict[str, str]) -> CohortRecord:
    """Write shards, index and ``cohort.yaml`` into ``folder``; ``names`` gives each user's name as the source has it."""
    shards = {path.name: sha256_file(path) for path in write_shards(items, folder)}
    table = table_of(index_row(item, name) for name in sorted(shards) for item in iter_shard(folder / name))
    write_index(table, folder, 0, shards)
    full = replace(record, shards=shards, **totals(table, names))
    write_record(folder, full)
    return full


def totals(table: pa.Table, names: Mapping[str, str]) -> dict[str, Any]:
    """What an index (schema INDEX) adds up to, as fields of CohortRecord; ``names`` as for ``build``."""
    columns = table.select(["user", "text", "duration_s"]).to_pydict()
    users: dict[str, UserRecord] = {}
    for name, text, seconds in zip(columns["user"], columns["text"], columns["duration_s"], strict=True):
        user = users.setdefault(name, UserRecord(names.get(name, name)))
        user.utterances += 1
        user.untranscribed += text is None
        user.seconds += seconds
    total = round(sum(user.seconds for user in users.values()), 3)
    for user in users.values():
        user.seconds = round(user.seconds, 3)
    return {
        "utterances": table.num_rows,
        "seconds": total,
        "users": {name: users[name] for name in sorted(users)},
    }


def write_record(folder: Path, record: CohortRecord) -> None:
    """Write ``cohort.yaml``."""
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times faster where libyaml is there
    content = yaml.dump(asdict(record), Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    write_text(folder / COHORT_FILE, content)


def publish(built: Path, target: Path) -> None:
    """Put a built cohort into place in one step: whoever looks sees the old one or the new one, also after a kill.

    ``built`` lies on the same file system; what was at ``target`` is removed.
    """
    for path in built.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    fsync_folder(built)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        built.rename(target)
    elif exchange(built, target):
        shutil.rmtree(built, ignore_errors=True)
    else:  # in two steps; ``recover`` mends what a kill between them leaves
        retired = built.with_name(RETIRED)
        target.rename(retired)
        built.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
    fsync_folder(target.parent)


def recover(folder: Path, target: Path) -> None:
    """Put back a cohort that ``publish`` had moved away when it was killed."""
    retired = folder / RETIRED
    if retired.exists() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        retired.rename(target)
    shutil.rmtree(retired, ignore_errors=True)


def list_in_params(project: Project, name: str, base: bool, personal: bool, untold: bool = False) -> list[str]:
    """Add a cohort to params.yaml's lists, keeping comments and layout; returns the lists that it was added to.

    ``untold``: what has a human transcript there is not transcribed as well, for a cascade's sake.
    """
    wanted = {"cohorts": True, "base_cohorts": base, "personal_cohorts": personal, UNTOLD: untold}
    return _edit_lists(
        project, lambda key, names: names.append(name) if wanted.get(key) and name not in names else None
    )


def unlist_in_params(project: Project, name: str) -> list[str]:
    """Take a cohort out of every list of params.yaml; returns the lists that named it."""
    return _edit_lists(project, lambda key, names: names.remove(name) if name in names else None)


def list_of_params(project: Project, name: str) -> list[str]:
    """The lists of params.yaml that name a cohort."""
    content = yaml.safe_load(params_path(project.root).read_text(encoding="utf-8"))
    lists = {key: content.get(key) for key in COHORT_LISTS}
    lists[UNTOLD] = (content.get("pseudo_labels") or {}).get("untold_only")
    return [key for key, names in lists.items() if name in (names or [])]


def _edit_lists(project: Project, edit: Callable[[str, Any], None]) -> list[str]:
    """``edit_lists`` of params.yaml itself, for one process at a time; returns the keys of the lists that changed."""
    from filelock import FileLock

    path = params_path(project.root)
    project.private.mkdir(parents=True, exist_ok=True)
    with FileLock(project.private / "params.lock"):  # else the later of two writes takes the earlier one's cohort out
        text, changed = edit_lists(path.read_text(encoding="utf-8"), edit)
        if changed:
            write_text(path, text)
    return changed


def edit_lists(text: str, edit: Callable[[str, Any], None]) -> tuple[str, list[str]]:
    """Apply ``edit(key, names)`` to every list of cohorts in the text of a params.yaml, keeping comments and layout.

    Returns the text and the keys of the lists that changed.
    """
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 4096  # never re-wrap a line
    editor.representer.add_representer(  # else `key: null` comes back as `key:`
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    content = editor.load(text)
    lists = {key: content.get(key) for key in COHORT_LISTS}
    lists[UNTOLD] = (content.get("pseudo_labels") or {}).get("untold_only")
    changed = []
    for key, names in lists.items():
        before = list(names or [])
        if names is not None:
            edit(key, names)
        if list(names or []) != before:
            changed.append(key)
            if not before:
                names.fa.set_flow_style()  # on one line, like the others
    if not changed:
        return text, []
    buffer = io.StringIO()
    editor.dump(content, buffer)
    return buffer.getvalue(), changed


def track_with_dvc(project: Project, say: Callable[[str], None], cohorts: Iterable[str] = ()) -> None:
    """Record data/ in data.dvc where the project uses DVC. Raises EdgealignError with DVC's own words.

    With ``cohorts`` only theirs is recorded anew: others may not be here, as after `git pull` without `dvc pull`, and would
    leave data.dvc unnoticed. Where nobody can say what data.dvc pointed at, all of data/ is recorded as it lies here.
    """
    if not (project.root / ".dvc").is_dir():
        return
    targets = [f"data/cohorts/{name}" for name in cohorts] if (project.root / "data.dvc").is_file() else []
    if targets and _points_nowhere(project):
        say("data.dvc points at recordings that are not here and that no remote has: it now records what lies in data/")
        targets = []
    targets = targets or ["data"]
    command = f"dvc add {' '.join(targets)}"
    say(command)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "add", *targets],  # --quiet would keep its errors to itself as well
        cwd=project.root,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise EdgealignError(
            f"The cohort is in place, but `{command}` failed: {done.stderr.strip() or done.stdout.strip()}\n"
            f"Mend the cause and run `{command}`."
        )


def _points_nowhere(project: Project) -> bool:
    """Whether data.dvc's manifest is not in DVC's cache, and there is no remote that could have it: a first clone."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    md5 = data_md5(project.root / "data.dvc")
    try:
        with Repo(str(project.root)) as repo:
            return md5 is not None and not repo.config["remote"] and not repo.cache.local.exists(md5)
    except DvcException:
        return False  # `dvc add` tells what is wrong
