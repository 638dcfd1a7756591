"""Devices that follow a registry: homes on a tiny base that knows six words, adapters for them, and how they are registered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jetson_agent.home import Device, Home
from jetson_agent.replay import Remembered
from jetson_agent.rollout import pull
from stages.examples import LabelledUtterance
from tests.helpers_alignment import spoken

LEARN = {"steps": 40, "learning_rate": 0.02, "density": 0.1, "tolerance": 0.02}
"""For a base of some thousand weights."""


def tiny_models(folder: Path) -> Device:
    """A base and an LLM of six words, and the device of home/ann on them."""
    from pipeline.project import Project
    from tests.helpers_adapters import _write_base, write_llm

    project = Project(folder)
    project.llm.mkdir(parents=True)
    write_llm(project)
    _write_base(project)
    return Device("home", "ann", project.encoder, project.llm, project.base_adapter, 0.5)


def others() -> list[LabelledUtterance]:
    """What four other people said."""
    return [
        LabelledUtterance(
            f"{user}-{item.utterance}",
            user,
            "others",
            item.text,
            "human",
            item.frames.numpy().astype(np.float16),
            None,
        )
        for place, user in enumerate(("dora", "eve", "finn", "gus"))
        for item in spoken(10, seed=50 + place)
    ]


def make_home(folder: Path, device: Device) -> Home:
    """A device that is set up, and follows nothing yet."""
    home = Home.open(folder)
    home.set_up(device, others())
    (home.folder / "learn.json").write_text(json.dumps(LEARN))
    return home


def correct(home: Home, count: int = 30, *, seed: int = 7, text: str | None = None) -> None:
    """What somebody with another voice really said; ``text``: they say it of everything."""
    for item in spoken(count, seed=seed, turn=0.45):
        frames = item.frames.numpy().astype(np.float16)
        home.replay.add(Remembered(f"{seed}-{item.utterance}", None, frames, "", text or item.text, "correction", 0.5))


def tell(home: Home, **settings: Any) -> None:
    """How the device learns."""
    (home.folder / "learn.json").write_text(json.dumps(settings))


def follow(home: Home, server: str, device: str, **settings: Any) -> Home:
    """Let a device follow a registry."""
    told = {"server": server, "device": device, **settings}
    (home.folder / "rollout.json").write_text(json.dumps(told))
    return home


def copies(home: Home, names: Sequence[str]) -> list[Home]:
    """The same device under other names."""
    made = []
    for name in names:
        folder = home.folder.with_name(name)
        shutil.copytree(home.folder, folder)
        told = json.loads((folder / "rollout.json").read_text())
        (folder / "rollout.json").write_text(json.dumps(told | {"device": name}))
        made.append(Home.open(folder))
    return made


def changed(source: Path, target: Path, scale: float, **record: Any) -> Path:
    """An adapter whose change is ``scale`` times as large, with other fields in its record."""
    from stages.alignment.adapter import read_record, read_tensors, save
    from stages.alignment.record import AdapterRecord

    known: AdapterRecord = read_record(source)
    tensors = {
        name: value * np.float16(scale) if name.endswith(".values") else value
        for name, value in read_tensors(source, known).items()
    }
    save(target, tensors, replace(known, **record))
    return target


def publish(uri: str, folder: Path, user: str | None, *, alias: str = "champion", place: Path) -> str:
    """Register an adapter as a stage does, and give its version the alias; the version."""
    from mlflow import MlflowClient
    from pipeline.project import Project
    from pipeline.settings import Tracking
    from pipeline.tracking.tracker import Tracker
    from stages.atomic import sha256_file
    from stages.registered import model_name

    tracker = Tracker(Project(place), Tracking(uri=uri))
    stage = "personalize" if user else "base"
    with tracker.run(stage, cohort="home" if user else None, user=user) as run:
        run.adapter(folder, user or "base")
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    name = model_name("edgealign", "home" if user else None, user)
    digest = sha256_file(folder / "adapter.safetensors")
    [found] = [
        item for item in client.search_model_versions(f"name = '{name}'") if item.tags["adapter_sha256"] == digest
    ]
    if alias:
        client.set_registered_model_alias(name, alias, found.version)
    return str(found.version)


@dataclass
class World:
    """A server, the tiny models, and an adapter that helps whoever speaks as in ``correct``."""

    uri: str
    folder: Path  # of the server
    models: Device
    good: Path
    place: Path  # for the projects that register

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def tags(self, user: str, version: str) -> dict[str, str]:
        return dict(self.client.get_model_version(f"edgealign.home.{user}", version).tags)

    def publish(self, user: str, scale: float = 1.0, *, alias: str = "champion", **record: Any) -> str:
        """Register an adapter of a user: the good one, its change ``scale`` times as large."""
        name = f"{user}-{scale}-{len(list(self.place.iterdir()))}"
        made = changed(self.good, self.place / name, scale, **{"user": user, **record})
        return publish(self.uri, made, user, alias=alias, place=self.place / f"{name}-project")

    def device(self, folder: Path, user: str, name: str = "kitchen-1", **settings: Any) -> Home:
        """A user's device that follows the server; its user has corrected something."""
        home = make_home(folder / name, replace(self.models, user=user))
        correct(home)
        return follow(home, self.uri, name, **settings)


def run(home: Home, **options: Any) -> tuple[bool, str]:
    lines: list[str] = []
    done = pull(home, home.rollout, lines.append, **options)
    return done, "\n".join(lines)


def in_use(home: Home) -> str | None:
    current = home.shelf.current()
    return current.sha256 if current else None
