"""Where the person is: a search of the workspace, the private folder and DVC's stores. Plan and verification are both this."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.cohorts.erasure.content import (
    ORDER,
    Blob,
    Notes,
    blob_of,
    holds,
    name_others,
    parse_cohort,
    parse_json,
    quarantined,
    read_kind,
)
from pipeline.cohorts.erasure.person import Matcher, Person
from pipeline.cohorts.erasure.stores import Store
from pipeline.project import Project

STATE = "erasures"
"""Folder below ``.edgealign`` that holds the state of an erasure that is not finished; it names the person and goes last."""

TRACKED = ("mlflow", "mlflow-server")
"""Folders below ``.edgealign`` that belong to MLflow; see pipeline.cohorts.erasure.tracking."""


@dataclass
class Finds:
    """Where the person was found."""

    workspace: list[str] = field(default_factory=list)
    """Files of data/, artifacts/, plots/, metrics/ and dvc_plots/, relative to the project."""
    private: list[str] = field(default_factory=list)
    """Files of .edgealign/ and .dvc/tmp/, relative to the project."""
    foreign: list[str] = field(default_factory=list)
    """Files of other DVC-tracked folders, which edgealign did not write and does not change."""
    shipped: list[str] = field(default_factory=list)
    """Folders with what a cluster's driver shipped to this machine."""
    device: list[str] = field(default_factory=list)
    """What `edgealign-agent` keeps of the person on this machine: folders, or the file of others' utterances."""
    objects: dict[str, list[str]] = field(default_factory=dict)
    """{store: paths below its root}."""

    pictures: set[str] = field(default_factory=set)
    """Ids of objects that are here only because they are pictures beside something that names the person."""
    learned_late: bool = False
    """Whether tables told of utterances that no shard has any more: shards were searched before."""

    def places(self) -> list[str]:
        """One line for each place, for people."""
        stores = {"cache": "DVC cache"}
        return [
            *self.workspace,
            *self.private,
            *self.foreign,
            *self.shipped,
            *self.device,
            *(
                f"{stores.get(name, f'DVC remote {name}')}: {path}"
                for name, paths in self.objects.items()
                for path in paths
            ),
        ]


@dataclass
class _Item:
    """A file to search, and what to do when it holds the person."""

    blob: Blob
    found: Callable[[], None]
    kind: str = "other"


def resolve(project: Project, asked: str, cohort: str | None, stores: Iterable[Store]) -> Person:
    """Who is meant: the user's slugs by cohort, from every ``cohort.yaml``, also of old versions in DVC's stores."""
    person = Person(asked)
    names: dict[str, dict[str, set[str]]] = {}  # cohort: {slug: called}
    for blob in [*_described(project), *_old_descriptions(stores)]:
        with blob.open() as file:
            record = parse_cohort(file.read())
        for slug, user in (record or {}).get("users", {}).items():
            called = user.get("name") if isinstance(user, dict) else None
            names.setdefault(record["name"], {}).setdefault(str(slug), set()).add(str(called or slug))  # type: ignore[index]
    for name, users in names.items():
        for slug, called in users.items():
            if asked == slug or asked in called:
                if cohort in (None, name):
                    person.slugs[name] = slug
                    person.called |= called
                else:
                    person.namesakes.add(name)
    matcher = Matcher(person)
    everyone = {form for users in names.values() for slug, called in users.items() for form in (slug, *called)}
    person.others = name_others(matcher, everyone)
    return person


def _described(project: Project) -> Iterator[Blob]:
    for path in sorted((project.root / "data" / "cohorts").glob("*/cohort.yaml")):
        yield blob_of(path)


def _old_descriptions(stores: Iterable[Store]) -> Iterator[Blob]:
    seen: set[str] = set()
    for store in stores:
        for item in store.files:
            if item.oid in seen or item.oid.endswith(".dir"):
                continue
            seen.add(item.oid)
            blob = Blob(item.oid, lambda store=store, path=item.path: store.open(path))  # type: ignore[misc]
            if read_kind(blob) == "cohort":
                yield blob


def survey(
    project: Project, person: Person, cohorts: Iterable[str], stores: list[Store], outs: Iterable[Path]
) -> Finds:
    """Search everything but MLflow. ``stores`` are listed; ``outs`` are all paths that DVC tracks in the workspace.

    ``person`` learns the utterances, recordings and adapters that are found. Raises OSError and EdgealignError.
    """
    finds, notes = Finds(), Notes()
    known = set(cohorts) | set(person.slugs) | person.namesakes
    items = list(_workspace(project, known, finds)) + list(_foreign(project, outs, finds))
    items += list(_private(project, known, finds)) + list(_shipped(finds))
    matched: set[str] = set()
    held: dict[str, list[tuple[Store, str]]] = {}  # object id: where it lies
    items += list(_objects(stores, matched, held))
    for item in items:
        item.kind = read_kind(item.blob)
    for kind in ORDER:
        matcher, before = Matcher(person, known), len(person.utterances)
        for item in items:
            if item.kind == kind and holds(item.blob, kind, person, matcher, notes):
                item.found()
        if kind == "table":
            finds.learned_late = len(person.utterances) > before
        if kind == "json":
            learn_adapters(person, Matcher(person, known), notes)
    matcher = Matcher(person, known)
    _by_path(project, matcher, finds)
    kinds = {item.blob.name: item.kind for item in items}
    finds.pictures = _by_manifest(matcher, notes, matched, kinds)
    for oid in matched:
        for store, path in held.get(oid, []):
            finds.objects.setdefault(store.name, []).append(path)
    finds.device = on_this_device(person, dry_run=True)
    for paths in (finds.workspace, finds.private, finds.shipped, *finds.objects.values()):
        paths[:] = sorted(set(paths))
    return finds


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder, hidden ones (halves of atomic writes) too."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file():
            yield path


def _cohort_in(parts: Iterable[str], cohorts: set[str]) -> str | None:
    """The cohort that a path belongs to: the first folder or file that is called like one."""
    return next((name for part in parts if (name := part.partition(".")[0]) in cohorts), None)


def _workspace(project: Project, cohorts: set[str], finds: Finds) -> Iterator[_Item]:
    for top in ("data", "artifacts", "plots", "metrics", project.dvc_plots.name):
        for path in _walk(project.root / top):
            relative = path.relative_to(project.root)
            if relative.parts[:2] == ("data", "erasures"):
                continue
            hint = _cohort_in(relative.parts[2:], cohorts) if top in ("data", "artifacts") else None
            yield _Item(blob_of(path, hint), _adder(finds.workspace, str(relative)))


def _private(project: Project, cohorts: set[str], finds: Finds) -> Iterator[_Item]:
    for folder in (project.private, project.root / ".dvc" / "tmp"):
        for path in _walk(folder):
            relative = path.relative_to(project.root)
            if relative.parts[1] in (STATE, *TRACKED):
                continue
            yield _Item(blob_of(path, _cohort_in(relative.parts[2:], cohorts)), _adder(finds.private, str(relative)))


def _foreign(project: Project, outs: Iterable[Path], finds: Finds) -> Iterator[_Item]:
    ours = [project.root / name for name in ("data", "artifacts", "plots", "metrics", "models")]
    for out in outs:
        if any(out == folder or folder in out.parents for folder in ours):
            continue
        for path in [out] if out.is_file() else _walk(out):
            yield _Item(blob_of(path), _adder(finds.foreign, str(path)))


def on_this_device(person: Person, *, dry_run: bool) -> list[str]:
    """Where the agent's home on this machine holds the person; without ``dry_run`` it does not any more."""
    from jetson_agent.home import Home

    home, found = Home.open(), []
    for cohort, slug in person.slugs.items():
        folders, utterances = home.forget(slug, cohort, dry_run=dry_run)
        found += [str(folder) for folder in folders] + ([str(home.others)] if utterances else [])
    return sorted(set(found))


def _shipped(finds: Finds) -> Iterator[_Item]:
    from platformdirs import user_cache_path

    home = user_cache_path("edgealign") / "shipped"
    for path in _walk(home):
        yield _Item(blob_of(path), _adder(finds.shipped, str(home / path.relative_to(home).parts[0])))


def _objects(stores: list[Store], matched: set[str], held: dict[str, list[tuple[Store, str]]]) -> Iterator[_Item]:
    """Each object once, however many stores hold it; the first store is the cache, which is nearest."""
    manifests = Notes()
    for store in stores:
        for stored in store.files:
            if stored.oid not in held and stored.oid.endswith(".dir"):
                blob = Blob(stored.oid, lambda store=store, path=stored.path: store.open(path))  # type: ignore[misc]
                with blob.open() as file:
                    manifests.take(blob, parse_json(file.read()))
            held.setdefault(stored.oid, []).append((store, stored.path))
    hints, models = _hints(manifests.manifests.values())
    for oid, places in held.items():
        if oid not in models:
            store, path = places[0]
            blob = Blob(oid, lambda store=store, path=path: store.open(path), hints.get(oid))  # type: ignore[misc]
            yield _Item(blob, lambda oid=oid: matched.add(oid))  # type: ignore[misc]


def _hints(manifests: Iterable[dict[str, str]]) -> tuple[dict[str, str], set[str]]:
    """{object: the cohort that it belongs to}, where one manifest of data/ tells; and the objects of frozen models."""
    hints: dict[str, set[str]] = {}
    models: set[str] = set()
    for manifest in manifests:
        names = set(manifest)
        if "identity.json" in names and "config.json" in names:
            models |= set(manifest.values())
        for path, oid in manifest.items():
            parts = path.split("/")
            if parts[0] == "cohorts" and len(parts) == 3:
                hints.setdefault(oid, set()).add(parts[1])
    return {oid: next(iter(names)) for oid, names in hints.items() if len(names) == 1}, models


def _adder(target: list[str], place: str) -> Callable[[], None]:
    return lambda: target.append(place)


def learn_adapters(person: Person, matcher: Matcher, notes: Notes) -> None:
    """Which adapters are the person's, which bases learned from the person, and which adapters stand on those."""
    for record in notes.adapters:
        if matcher.is_user(record.get("user"), record.get("cohort")):
            person.adapters.add(record["weights_sha256"])
        elif record["kind"] == "base" and matcher.in_json(
            [record["train_utterances"], record.get("held_out_utterances")]
        ):
            person.bases.add(record["weights_sha256"])
    for record in notes.adapters:
        if record.get("base_sha256") in person.bases and record["weights_sha256"] not in person.adapters:
            person.descendants.add(record["weights_sha256"])


def _by_path(project: Project, matcher: Matcher, finds: Finds) -> None:
    """Add what holds no name but lies under one: weights in the user's folder, a recording called like an utterance."""
    for top in ("artifacts", "data"):
        for path in _walk(project.root / top):
            parts = path.relative_to(project.root).parts
            cohort = _cohort_in(parts[2:3], matcher.cohorts)
            if cohort and matcher.in_path(parts[3:], cohort):
                finds.workspace.append(str(path.relative_to(project.root)))
    for path in _walk(project.private):
        parts = path.relative_to(project.private).parts
        if parts[0] in (STATE, *TRACKED):
            continue
        if matcher.in_path(parts, prefix=True) or (parts[0] == "quarantine" and _in_quarantine(path, matcher)):
            finds.private.append(str(path.relative_to(project.root)))


def _in_quarantine(path: Path, matcher: Matcher) -> bool:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return any(quarantined(row, matcher, path.stem) for row in csv.reader(file))


def _by_manifest(matcher: Matcher, notes: Notes, matched: set[str], kinds: dict[str, str]) -> set[str]:
    """Add objects that only a manifest connects with the person: the user's weights, and pictures that may show the name.

    Returns the pictures.
    """
    pictures: set[str] = set()
    for oid, manifest in notes.manifests.items():
        mine = {target for path, target in manifest.items() if matcher.in_path(path.split("/"))}
        # an adapters folder does not say of which cohort it is; the adapters in it do
        mine |= {t for p, t in manifest.items() if t in matched and p.split("/")[0] in matcher.slugs}
        matched |= mine
        if mine:
            matched.add(oid)
        if matched & set(manifest.values()):
            pictures |= {target for target in manifest.values() if kinds.get(target) == "picture"}
    matched |= pictures
    return pictures
