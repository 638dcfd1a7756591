"""Fixtures that more than one file of integration tests uses."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster.session import Session, connect
from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.store import create_embedded
from pipeline.tracking.tracker import Tracker
from tests.helpers_adapters import build as build_adapters
from tests.helpers_erasure import World
from tests.helpers_forget import Outcome, build, forget, others, put_back
from tests.helpers_ray import settings_for
from tests.helpers_traces import Traces, traces_of


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty embedded store, made once (MLflow's migrations take seconds)."""
    folder = tmp_path_factory.mktemp("store")
    create_embedded(folder / "mlflow.db", folder / "artifacts")
    return folder / "mlflow.db"


@pytest.fixture
def tracker(tmp_path: Path, fresh_store: Path) -> Tracker:
    """A project with a copy of the empty store."""
    target = tmp_path / ".edgealign" / "mlflow" / "mlflow.db"
    target.parent.mkdir(parents=True)
    target.write_bytes(fresh_store.read_bytes())
    return Tracker(Project(tmp_path), Tracking())


@pytest.fixture(scope="module")
def session_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with nothing in it but a Ray session."""
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def session(session_project: Project) -> Iterator[Session]:
    """The embedded session: a head and one virtual Jetson. All modules of this process share it, each connects anew."""
    with connect(session_project, settings_for()) as connected:
        yield connected


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Traces, Path]:
    """The world as it was built, in a copy; MLflow keeps absolute paths, so it is always put back to the same place."""
    folder = tmp_path_factory.mktemp("forget")
    world = World(folder / "world")
    build(world)
    copy = folder / "saved"
    shutil.copytree(world.folder, copy, symlinks=True)
    return world, traces_of(world.project), copy


@pytest.fixture
def world(saved: tuple[World, Traces, Path], monkeypatch: pytest.MonkeyPatch) -> World:
    """The world with everybody in it."""
    put_back(saved[0], saved[2], monkeypatch)
    return saved[0]


@pytest.fixture(scope="session")
def after(saved: tuple[World, Traces, Path]) -> tuple[dict[str, dict[str, Any]], Outcome, Path]:
    """What the others had before the person was forgotten, what was said, and a copy of the world afterwards."""
    world, _, copy = saved
    with pytest.MonkeyPatch.context() as monkeypatch:
        put_back(world, copy, monkeypatch)
        before, outcome = others(world), forget(world)
    later = copy.with_name("after")
    shutil.copytree(world.folder, later, symlinks=True)
    return before, outcome, later


@pytest.fixture
def forgotten(
    saved: tuple[World, Traces, Path], after: tuple[Any, Any, Path], monkeypatch: pytest.MonkeyPatch
) -> World:
    """The world in which the person was forgotten."""
    put_back(saved[0], after[2], monkeypatch)
    return saved[0]


@pytest.fixture
def traces(saved: tuple[World, Traces, Path]) -> Traces:
    return saved[1]


@pytest.fixture(scope="session")
def adapters_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with three adapters whose runs wait in the spool; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("adapters") / "project"
    build_adapters(folder)
    return folder


@pytest.fixture
def untracked(adapters_project: Path, tmp_path: Path) -> Project:
    """A copy of the project with three adapters, without a store."""
    shutil.copytree(adapters_project, tmp_path / "project")
    return Project(tmp_path / "project")


@pytest.fixture(scope="session")
def trained_device(tmp_path_factory: pytest.TempPathFactory, prepared_models: Any) -> Path:
    """The agent's folder of a device whose base hears a few commands; not to be changed, see ``copy_device``."""
    from tests.helpers_serve import train_device

    folder = tmp_path_factory.mktemp("device")
    return train_device(folder, prepared_models.encoder, prepared_models.llm).folder


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a file system of a size that mount understands ("60m"), so that one can be filled."""
    made: list[Path] = []

    def make(size: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False).returncode:
            pytest.skip("mounting a tmpfs needs root")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)
