"""Where a device keeps what it needs: whose it is, the frozen models, the base, general utterances, and the user's own.

``device.json`` (whose, and which models), ``general.safetensors`` (utterances of other people, with their consent),
``<cohort>/<user>/shelf`` and ``<cohort>/<user>/replay`` (the user's: folders 0700, files 0600).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from jetson_agent.outbox import Outbox
from jetson_agent.replay import ReplayBuffer
from jetson_agent.settings import LearnSettings, RolloutSettings, read_settings
from jetson_agent.shelf import Event, Shelf
from stages.atomic import write_private
from stages.errors import InputError, SettingsError
from stages.word_list import WordList

if TYPE_CHECKING:
    from stages.examples import LabelledUtterance

VARIABLE = "EDGEALIGN_AGENT_HOME"
GENERAL = 120
"""Utterances of other people that a device keeps: half to learn with, half to judge by, of different speakers."""


EARLIER = 2
"""Bases that can be gone back to."""

FORGET_WAIT_S = 60.0
"""How long ``forget`` waits for an update or a roll-out under way."""


@dataclass(frozen=True)
class Device:
    """Whose device this is and what it runs."""

    cohort: str
    user: str
    encoder: Path
    llm: Path
    base: Path
    padding_s: float
    shelf: str = "shelf"  # the user's adapters for this base
    earlier: tuple[tuple[Path, str], ...] = ()  # bases before it with their shelves, newest first
    language: str = "en"  # of what the user says; that of every device that was set up before this was told


@dataclass(frozen=True)
class Home:
    """The agent's folder on one device."""

    folder: Path

    @classmethod
    def open(cls, folder: Path | None = None) -> Home:
        """The given folder, else that of EDGEALIGN_AGENT_HOME, else one in the user's data folder."""
        if folder is None and os.environ.get(VARIABLE):
            folder = Path(os.environ[VARIABLE])
        if folder is None:
            from platformdirs import user_data_path

            folder = user_data_path("edgealign-agent")
        return cls(Path(folder))

    @property
    def device(self) -> Device:
        """Raises InputError where the device is not set up."""
        path = self.folder / "device.json"
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            encoder, llm, base = (Path(told[name]) for name in ("encoder", "llm", "base"))
            earlier = tuple((Path(base), str(shelf)) for base, shelf in told.get("earlier", ()))
            padding_s, shelf = float(told["padding_s"]), str(told.get("shelf", "shelf"))
            language = str(told.get("language", "en"))
            return Device(told["cohort"], told["user"], encoder, llm, base, padding_s, shelf, earlier, language)
        except FileNotFoundError:
            raise InputError(
                f"{path}: not there. Set the device up: `edgealign-agent setup --project FOLDER --cohort NAME --user NAME`."
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not readable ({error!r}). Run `edgealign-agent setup` again.") from error

    @property
    def others(self) -> Path:
        """Utterances of other people, see ``general``."""
        return self.folder / "general.safetensors"

    @property
    def own(self) -> Path:
        """The user's folder."""
        return self.folder / self.device.cohort / self.device.user

    @property
    def words(self) -> WordList:
        """Names and other words that are listened for in the user's recordings."""
        return WordList(self.own / "words.json", self.device.user)

    @property
    def shelf(self) -> Shelf:
        return self.in_use()[1]

    def in_use(self) -> tuple[Device, Shelf]:
        """The device with the shelf of its base, both of one moment: a roll-out may change them together."""
        device = self.device
        return device, Shelf(self.folder / device.cohort / device.user / device.shelf)

    def shelves(self) -> list[Shelf]:
        """The user's shelves of all bases that were ever in use here."""
        return [Shelf(path) for path in sorted(self.own.glob("shelf*")) if path.is_dir()]

    def history(self) -> list[Event]:
        """What happened on all of the user's shelves, oldest first."""
        return sorted((event for shelf in self.shelves() for event in shelf.history()), key=lambda event: event.when)

    def use_base(self, base: Path, shelf: str) -> None:
        """Put a base with its shelf in use; what was in use can be gone back to (``leave_base``). One write."""
        now = self.device
        self._write_device(
            replace(now, base=base, shelf=shelf, earlier=((now.base, now.shelf), *now.earlier)[:EARLIER])
        )

    def leave_base(self) -> None:
        """Go back to the base before, with its shelf. Raises InputError where there is none."""
        now = self.device
        if not now.earlier:
            raise InputError(f"{now.base}: is the base that this device was set up with, there is none before it")
        (base, shelf), *earlier = now.earlier
        self._write_device(replace(now, base=base, shelf=shelf, earlier=tuple(earlier)))

    @property
    def replay(self) -> ReplayBuffer:
        settings = self.settings
        return ReplayBuffer(self.own / "replay", settings.items, settings.bytes)

    @property
    def settings(self) -> LearnSettings:
        return read_settings(self.folder / "learn.json", LearnSettings)

    @property
    def rollout(self) -> RolloutSettings:
        return read_settings(self.folder / "rollout.json", RolloutSettings)

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.own / "outbox")

    def outboxes(self) -> list[Outbox]:
        """Everybody's on this device: what an earlier user's updates came to may still wait."""
        return [Outbox(path) for path in sorted(self.folder.glob("*/*/outbox"))]

    def changing(self) -> Any:
        """The lock of whatever judges or changes the adapter in use: one at a time. Raises InputError: nobody is set up."""
        _ = self.device  # before a lock makes the folder
        return self._lock(".adapt.lock")

    @contextmanager
    def keeping(self, cohort: str, user: str) -> Iterator[bool]:
        """Whether the device is set up for a person whose folder is there; it stays so as long as the block is short.

        What is remembered within the block where that is true goes with the person when they are forgotten.
        """
        with self._lock(".keep.lock"):
            yield self._is_of(user, cohort) and (self.folder / cohort / user).is_dir()

    def _lock(self, name: str, timeout_s: float = -1) -> Any:
        """A lock beside the users' folders: whoever waits for one inside would make a deleted folder again."""
        from filelock import FileLock

        return FileLock(str(self.folder / name), timeout=timeout_s)

    def set_up(self, device: Device, general: list[LabelledUtterance]) -> None:
        """Write whose device this is, and the utterances of other people; the user's own folder stays as it is."""
        for name in (device.cohort, device.user):
            if not name or Path(name).name != name or name in (".", ".."):
                raise InputError(f"{name!r}: no name of a cohort or a user")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = self.folder / device.cohort / device.user
        own.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._write_general(general)
        self._write_device(device)

    def _write_device(self, device: Device) -> None:
        content = json.dumps(asdict(device), indent=2, default=str) + "\n"
        write_private(self.folder / "device.json", content.encode())

    def setup(self, project: Path, cohort: str, user: str, server: str | None = None) -> Device:
        """Set the device up from a project whose ``dvc repro`` is done. Raises InputError where parts of it are missing.

        Where the project holds a personal adapter of the user, it is the first version on an empty shelf. The device follows
        the registry at ``server``, else the project's own server; what stands in rollout.json already stays but for that.
        """
        project = project.resolve()
        base = project / "artifacts" / "adapters" / "base"
        models = project / "models"
        for path in (base / "adapter.json", models / "encoder" / "identity.json", models / "llm" / "identity.json"):
            if not path.is_file():
                raise InputError(f"{path}: not there. Run `dvc repro` in {project} first.")
        import yaml

        told = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
        padding_s = float(told["features"]["padding_s"])
        tracking = told.get("tracking") or {}
        guard = (told.get("promotion") or {}).get("guard_tolerance")
        rule = {} if guard is None else {"guard_tolerance": float(guard)}
        self.enrol(server or str(tracking.get("uri") or ""), str(tracking.get("experiment") or "edgealign"), **rule)
        shelf = self._shelf_for(base, self.folder / cohort / user)
        language = language_of(project, cohort, user)
        device = Device(cohort, user, models / "encoder", models / "llm", base, padding_s, shelf, language=language)
        self.set_up(device, [item for item in held_out_of(project) if (item.cohort, item.user) != (cohort, user)])
        personal = project / "artifacts" / "adapters" / cohort / user
        if (personal / "adapter.json").is_file() and not self.shelf.history():
            from stages.alignment.adapter import load_personal

            load_personal(personal, base)  # whole, and made for this base
            self.shelf.take(personal, f"set up from {project.name}", {})
        return device

    def _shelf_for(self, base: Path, own: Path) -> str:
        """The name of the user's shelf for a base: adapters for another one stay where they are."""
        from stages.alignment.record import read_record

        version, digest = Shelf(own / "shelf").current(), read_record(base).weights_sha256
        fits = version is None or read_record(version.folder).base_sha256 == digest
        return "shelf" if fits else f"shelf-{digest[:12]}"

    def enrol(self, server: str, experiment: str, **told: Any) -> None:
        """Follow the registry at an address, under a name that tells nobody; without an address nothing changes.

        ``told`` are more of RolloutSettings.

        Raises SettingsError where the address is none.
        """
        if not server or server.startswith("sqlite:"):  # a project's own file is no registry for devices
            return
        device = self.rollout.device or f"device-{secrets.token_hex(4)}"
        told = self.following(server).model_dump() | {"experiment": experiment, "device": device, **told}
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(self.folder / "rollout.json", (json.dumps(told, indent=2) + "\n").encode())

    def following(self, server: str | None = None, alias: str | None = None) -> RolloutSettings:
        """``rollout.json`` with these in place of its own. Raises SettingsError."""
        given = {key: value for key, value in {"server": server, "alias": alias}.items() if value}
        try:
            return RolloutSettings.model_validate(self.rollout.model_dump() | given)
        except ValidationError as error:
            raise SettingsError("; ".join(f"{item['loc'][0]}: {item['msg']}" for item in error.errors())) from error

    def waiting(self) -> dict[str, int]:
        """How much waits to be told to the registry: entries and bytes, and entries that it refused."""
        sizes = [outbox.size() for outbox in self.outboxes()]
        told = {name: sum(getattr(size, name) for size in sizes) for name in ("entries", "bytes")}
        return {**told, "refused": sum(size.aside for size in sizes)}

    def _write_general(self, items: list[LabelledUtterance]) -> None:
        from safetensors.numpy import save

        tensors = {f"{place:06d}": np.ascontiguousarray(item.frames) for place, item in enumerate(items)}
        rows = [[item.cohort, item.user, item.utterance, item.text] for item in items]
        write_private(self.others, save(tensors, {"rows": json.dumps(rows)}))

    def forget(self, user: str, cohort: str | None = None, *, dry_run: bool = False) -> tuple[list[Path], int]:
        """Delete a person: the folders that are (or would be) gone, and how many of the general utterances were theirs.

        ``cohort`` None: the person in every cohort. Raises InputError where an update or a sender goes on for a minute.
        """
        folders = [
            path for path in self.folder.glob(f"*/{user}") if path.is_dir() and cohort in (None, path.parent.name)
        ]
        kept, gone = [], 0
        if (self.others).is_file():
            for item in [*self.general()[0], *self.general()[1]]:
                if item.user == user and cohort in (None, item.cohort):
                    gone += 1
                else:
                    kept.append(item)
        if not dry_run:
            if folders:
                self._delete(folders, user, cohort)
            if gone:
                self._write_general(kept)
        return folders, gone

    def _delete(self, folders: list[Path], user: str, cohort: str | None) -> None:
        from filelock import Timeout

        with ExitStack() as held:
            try:
                held.enter_context(self._lock(".adapt.lock", FORGET_WAIT_S))
            except Timeout:
                raise InputError(
                    f"{self.folder}: an update or a roll-out is under way, which would write into what is deleted. Nothing was "
                    "deleted: try again once it has ended, or end `edgealign-agent serve`, `adapt` or `pull` first."
                ) from None
            for path in folders:
                Outbox(path / "outbox").erase()  # what is being sent this moment would arrive after it was forgotten
            with self._lock(".keep.lock"):
                if self._is_of(user, cohort):  # first: from here on, a service that runs keeps nothing of the person
                    (self.folder / "device.json").unlink()
                for path in folders:
                    shutil.rmtree(path)

    def _is_of(self, user: str, cohort: str | None) -> bool:
        try:
            device = self.device
        except InputError:
            return False
        return device.user == user and cohort in (None, device.cohort)

    def general(self) -> tuple[list[LabelledUtterance], list[LabelledUtterance]]:
        """Utterances of other people to learn with, and of yet others to judge by."""
        from safetensors import safe_open

        from stages.examples import LabelledUtterance

        path = self.others
        if not path.is_file():
            raise InputError(f"{path}: not there. Run `edgealign-agent setup` again.")
        with safe_open(path, "numpy") as file:
            found = [
                LabelledUtterance(name, user, cohort, text, "human", file.get_tensor(f"{place:06d}"), None)
                for place, (cohort, user, name, text) in enumerate(json.loads(file.metadata()["rows"]))
            ]
        people = sorted({(item.cohort, item.user) for item in found})
        judging = set(people[1::2])
        return (
            [item for item in found if (item.cohort, item.user) not in judging],
            [item for item in found if (item.cohort, item.user) in judging],
        )


def language_of(project: Path, cohort: str, user: str) -> str:
    """The language that a user speaks, by the project's recordings of the user, else the cohort's; unknown where they do not
    tell one: a cohort that is not there, a user of several languages.
    """
    import yaml

    from stages.schema import INDEX, read_table
    from stages.text import UNKNOWN, language_code

    folder, spoken = project / "data" / "cohorts" / cohort, set()
    for path in folder.glob("index-*.parquet"):
        rows = read_table(path, INDEX, ["user", "language"]).to_pylist()
        spoken |= {language_code(row["language"]) for row in rows if row["user"] == user}
    if not spoken and (folder / "cohort.yaml").is_file():
        told = yaml.safe_load((folder / "cohort.yaml").read_text(encoding="utf-8"))
        spoken = {language_code(str(told["language"]))}
    return spoken.pop() if len(spoken) == 1 else UNKNOWN


def held_out_of(project: Path) -> list[LabelledUtterance]:
    """Utterances that a project's base never trained on: human transcripts, consent for the base's use."""
    import pyarrow.parquet as parquet

    from stages.alignment.record import read_record
    from stages.examples import join
    from stages.guard import spread

    record = read_record(project / "artifacts" / "adapters" / "base")
    # the record tells names without cohorts: what has the name of one that trained is left out, too
    names, found = set(record.held_out_utterances) - set(record.train_utterances), []
    import yaml

    cohorts = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))["base_cohorts"]
    for cohort in cohorts:
        labels = parquet.read_table(project / "artifacts" / "labels" / f"{cohort}.parquet")
        for path in sorted((project / "artifacts" / "features" / cohort).glob("*.parquet")):
            joined = join(parquet.read_table(path), labels, "base")
            found += [item for item in joined if item.utterance in names and item.source == "human"]
    return spread(sorted(found, key=lambda item: (item.cohort, item.user, item.utterance)), GENERAL)
