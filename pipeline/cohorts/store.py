"""Cohorts on disk: published whole or not at all, described by ``cohort.yaml``, listed in ``params.yaml``."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.project import Project
from pipeline.settings import params_path
from stages.atomic import fsync_folder, sha256_file, write_bytes, write_text
from stages.errors import EdgealignError, InputError
from stages.shards import ShardItem, write_shards

COHORT_FILE = "cohort.yaml"


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
    made_by: str  # "edgealign cohort add" or "edgealign cohort demo"
    created_from: str  # SHA-256 of what went in
    utterances: int = 0
    seconds: float = 0.0
    users: dict[str, UserRecord] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)  # file name: SHA-256


def read_cohort(folder: Path) -> CohortRecord:
    """Read ``cohort.yaml``. Raises InputError where it is missing or not what ``publish`` writes."""
    path = folder / COHORT_FILE
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
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
def workspace(project: Project, name: str) -> Iterator[Path]:
    """A temporary folder on the project's own file system but outside data/, removed at the end."""
    parent = project.private / "incoming"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def build(folder: Path, record: CohortRecord, items: Iterable[ShardItem], names: dict[str, str]) -> CohortRecord:
    """Write shards and ``cohort.yaml`` into ``folder``; ``names`` gives each user's name as the source has it."""
    users: dict[str, UserRecord] = {}

    def counted() -> Iterator[ShardItem]:
        for item in items:
            user = users.setdefault(item.user, UserRecord(names.get(item.user, item.user)))
            user.utterances += 1
            user.untranscribed += item.text is None
            user.seconds += item.duration_s
            yield item

    shards = write_shards(counted(), folder)
    full = CohortRecord(
        name=record.name,
        language=record.language,
        consent=record.consent,
        made_by=record.made_by,
        created_from=record.created_from,
        utterances=sum(user.utterances for user in users.values()),
        seconds=round(sum(user.seconds for user in users.values()), 3),
        users={name: users[name] for name in sorted(users)},
        shards={path.name: sha256_file(path) for path in shards},
    )
    for user in users.values():
        user.seconds = round(user.seconds, 3)
    write_text(folder / COHORT_FILE, yaml.safe_dump(asdict(full), sort_keys=False, allow_unicode=True, width=120))
    return full


def publish(built: Path, target: Path) -> None:
    """Move a built cohort into place; a cohort that was there before is put back where that fails."""
    for path in built.iterdir():
        path.chmod(0o644)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    built.chmod(0o755)
    target.parent.mkdir(parents=True, exist_ok=True)
    retired = built.with_name(built.name + ".old")
    if target.exists():
        target.rename(retired)
    try:
        built.rename(target)
    except OSError:
        with suppress(OSError):
            retired.rename(target)
        raise
    fsync_folder(target.parent)


def list_in_params(project: Project, name: str, base: bool, personal: bool) -> list[str]:
    """Add a cohort to params.yaml's lists, keeping comments and layout; returns the lists that it was added to."""
    from ruamel.yaml import YAML

    path = params_path(project.root)
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 4096  # never re-wrap a line
    content = editor.load(path.read_text(encoding="utf-8"))
    wanted = {"cohorts": True, "base_cohorts": base, "personal_cohorts": personal}
    changed = [key for key, add in wanted.items() if add and name not in content[key]]
    for key in changed:
        content[key].append(name)
    if changed:
        buffer = io.BytesIO()
        editor.dump(content, buffer)
        write_bytes(path, buffer.getvalue())
    return changed


def track_with_dvc(project: Project, say: Callable[[str], None]) -> None:
    """Record data/ in data.dvc where the project uses DVC. Raises EdgealignError with DVC's own words."""
    if not (project.root / ".dvc").is_dir():
        return
    say("dvc add data")
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "add", "--quiet", "data"],
        cwd=project.root,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise EdgealignError(
            f"The cohort is in place, but `dvc add data` failed: {done.stderr.strip() or done.stdout.strip()}\n"
            "Mend the cause and run `dvc add data`."
        )
