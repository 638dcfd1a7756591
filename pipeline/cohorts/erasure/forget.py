"""``edgealign cohort forget``: one person out of everything that edgealign keeps, and the proof that it is so.

Plan, erase, verify. Every step can be done again; a kill at any moment leaves a state file by which the same command goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cohorts.erasure.state import Erasure, unfinished
from pipeline.cohorts.erasure.survey import STATE, Finds, resolve, survey
from pipeline.cohorts.store import claim, read_cohort
from pipeline.project import Project
from pipeline.settings import Settings, load_settings
from stages.errors import EdgealignError, InputError

SHOWN = 12  # places that are told of each kind; with --dry-run all


@dataclass
class ErasureResult:
    """What an erasure did."""

    erasure: str | None = None
    """Its id; None where nothing was erased (a dry run, or a refusal)."""
    found: list[str] = field(default_factory=list)
    """Where the person was found before."""
    left: list[str] = field(default_factory=list)
    """Where the person was found afterwards: empty, or the erasure is not complete."""
    waits: list[str] = field(default_factory=list)
    """What others have to do."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left in anything that edgealign keeps here."""
        return not self.left


@dataclass
class _View:
    """Everything that an erasure works on, opened once."""

    project: Project
    settings: Settings
    repo: Any
    stores: list[Any]
    tracking: list[Any]


def forget_user(
    project: Project,
    user: str,
    *,
    cohort: str | None = None,
    dry_run: bool = False,
    confirm: Callable[[str], bool] = lambda question: False,
    tell: Callable[[str], None] = print,
) -> ErasureResult:
    """Erase a user from every cohort (or one), and from all that was made of the recordings; ``confirm`` is asked first.

    ``user`` is the slug or what the source calls the user. With ``dry_run`` only the plan is told. Raises InputError where
    nobody is called so, and EdgealignError where something cannot be reached; the same command then goes on.
    """
    from pipeline.cohorts.erasure.stores import busy
    from pipeline.cohorts.erasure.versions import check_data

    for name in ("dvc", "alembic", "mlflow"):  # their own words about each file
        logging.getLogger(name).setLevel(logging.WARNING)
    settings = load_settings(project.root)
    busy(project)
    begun = next((item for item in unfinished(project) if item.is_about(user) and item.only == cohort), None)
    with _lock(project), _open(project, settings) as view:
        tell("searching the workspace, DVC's cache and remotes, and MLflow")
        erasure = begun or _begin(view, user, cohort)
        if begun:
            tell(f"erasure {begun.id} was begun on {begun.date} and not finished: it goes on")
        finds, runs = _search(view, erasure)
        places = finds.places() + [place for store, found in runs for place in found.places(store.label)]
        _tell_plan(erasure, finds, places, dry_run, tell)
        if dry_run:
            tell("dry run: nothing was erased")
            return ErasureResult(None, places)
        if finds.foreign:
            raise InputError(
                f"{finds.foreign[0]}: DVC tracks it, and edgealign did not write it. Delete the user's part there yourself, "
                "`dvc add` it again, and run the command again."
            )
        if not begun and view.repo is not None:
            check_data(view.repo)
        if not begun and not confirm(f"Erase {user} from all of these? This cannot be undone."):
            tell("nothing was erased")
            return ErasureResult(None, places)
        _note_before(view, erasure, finds)
        with _claimed(erasure):
            _erase(view, erasure, finds, runs, tell)
            left = _finish(view, erasure, tell)
    waits = erasure.waits
    _tell_result(erasure, left, waits, tell)
    return ErasureResult(erasure.proven or erasure.id, places, left, waits)


@contextmanager
def _lock(project: Project) -> Iterator[None]:
    from filelock import FileLock, Timeout

    folder = project.private / STATE
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise EdgealignError("another `edgealign cohort forget` is at work here: wait for it to end.") from None


@contextmanager
def _open(project: Project, settings: Settings) -> Iterator[_View]:
    from pipeline.cohorts.erasure.stores import open_repo, stores_of
    from pipeline.cohorts.erasure.tracking import open_stores

    with open_repo(project) as repo:
        stores = stores_of(repo) if repo is not None else []
        for store in stores:
            store.look()
        yield _View(project, settings, repo, stores, open_stores(project, settings))


@contextmanager
def _claimed(erasure: Erasure) -> Iterator[None]:
    """Keep `cohort add`, `append` and `remove` away from the cohorts."""
    with ExitStack() as stack:
        for cohort in sorted(erasure.before):
            stack.enter_context(claim(erasure.project, cohort))
        yield


def _begin(view: _View, user: str, cohort: str | None) -> Erasure:
    person = resolve(view.project, user, cohort, view.stores)
    if not person.slugs:
        if cohort is None:
            raise InputError(
                f"user {user!r}: in no cohort of data/, nor in an old version in DVC's cache and remotes. "
                "`edgealign cohort show COHORT` lists its users. Give --cohort to search for what is left of one that is gone."
            )
        person.slugs[cohort] = user
    known = {path.parent.name for path in view.project.cohort("x").parent.glob("*/cohort.yaml")}
    return Erasure.begin(view.project, person, cohort, sorted(known | set(view.settings.cohorts)))


def _search(view: _View, erasure: Erasure) -> tuple[Finds, list[tuple[Any, Any]]]:
    """Everywhere, and again where something was learned after the files had been searched that it may be found in."""
    from pipeline.cohorts.erasure.tracking import look

    outs = [Path(out.fs_path) for out in view.repo.index.outs] if view.repo is not None else []
    person = erasure.person
    while True:
        finds = survey(view.project, person, erasure.cohorts, view.stores, outs)
        known = len(person.adapters) + len(person.bases)
        runs = [(store, look(store, erasure)) for store in view.tracking]
        if not finds.learned_late and known == len(person.adapters) + len(person.bases):
            return finds, runs


def _note_before(view: _View, erasure: Erasure, finds: Finds) -> None:
    """What can only be known before the first change; from here on a kill leaves the state file."""
    from pipeline.cohorts.erasure.data import touched_shards
    from pipeline.cohorts.erasure.proof import proven_before
    from pipeline.cohorts.erasure.versions import current_files

    matcher = erasure.matcher()
    for cohort in erasure.person.slugs:
        folder = view.project.cohort(cohort)
        if cohort not in erasure.before and folder.is_dir():
            record = read_cohort(folder)
            erasure.shards[cohort] = touched_shards(folder, record, matcher)
            erasure.before[cohort] = sorted(record.shards)
    if view.repo is not None and not erasure.current:
        erasure.current = current_files(view.repo)
    if not erasure.counts:
        erasure.proven = proven_before(erasure)
        erasure.count("users' cohorts", len(erasure.person.slugs))
        erasure.count("recordings", len(erasure.person.audio))
        erasure.count("shards", sum(map(len, erasure.shards.values())))
        erasure.count("files of data, artifacts, plots and metrics", len(finds.workspace))
        erasure.count("files of .edgealign", len(finds.private) + len(finds.shipped))
        erasure.count("places of edgealign-agent on this machine", len(finds.device))
        erasure.count("objects in DVC's cache", len(finds.objects.get("cache", [])))
        remote = sum(len(paths) for name, paths in finds.objects.items() if name != "cache")
        erasure.count("objects in DVC remotes", remote)
    erasure.save()


def _erase(
    view: _View, erasure: Erasure, finds: Finds, runs: list[tuple[Any, Any]], tell: Callable[[str], None]
) -> None:
    """All steps, in the order in which nothing is lost: the others' files are safe before the old ones are deleted."""
    from pipeline.cohorts.erasure import versions
    from pipeline.cohorts.erasure.artifacts import erase_artifacts
    from pipeline.cohorts.erasure.data import erase_cohort
    from pipeline.cohorts.erasure.private import erase_private
    from pipeline.cohorts.erasure.proof import write_proof
    from pipeline.cohorts.erasure.tracking import erase

    for cohort in sorted(erasure.before):
        tell(f"cohort {cohort}: rewriting {len(erasure.shards.get(cohort, {}))} shard(s)")
        erase_cohort(erasure, cohort)
    erase_artifacts(erasure, view.settings, finds.workspace)
    erase_private(erasure, view.settings, finds.private, finds.shipped)
    if erasure.proven is None:
        write_proof(erasure, None)
    if view.repo is not None:
        tell("dvc: recording the data without the user")
        versions.record(erasure, view.repo)
        held = [name for name in finds.objects if name != "cache"]
        if held:
            tell(f"dvc: sending the others' files to {', '.join(held)}")
            versions.push(view.repo, view.stores, held)
        tell("dvc: deleting objects")
        live = versions.live_objects(view.repo)
        versions.delete(erasure, view.stores, _without_live(erasure, finds, live))
        deleted = {oid for oids in erasure.objects.values() for oid in oids}
        for stage in versions.unlock_broken(view.repo, deleted):
            tell(f"dvc: {stage} was not here to be rewritten; `dvc repro` makes it again")
    for store, found in runs:
        tell(f"{store.label}: {len(found.runs)} run(s), {len(found.versions)} model version(s)")
        erase(store, erasure, found)
    erasure.counts["MLflow runs"] = len(erasure.runs)
    if not erasure.runs:
        del erasure.counts["MLflow runs"]
    erasure.save()


def _without_live(erasure: Erasure, finds: Finds, live: set[str]) -> dict[str, list[str]]:
    """The objects that were found, less those that the data without the person needs and that do not hold the person.

    These are pictures that are the same without the person, and files of a namesake that cannot be told from the person's.
    """
    from pipeline.cohorts.erasure.stores import object_id

    kept = live if erasure.person.namesakes else live & finds.pictures
    return {name: [path for path in paths if object_id(path) not in kept] for name, paths in finds.objects.items()}


def _finish(view: _View, erasure: Erasure, tell: Callable[[str], None]) -> list[str]:
    """Search everything again; the proof with its outcome goes to DVC and the remotes. Where the person is left."""
    from pipeline.cohorts.erasure import versions
    from pipeline.cohorts.erasure.proof import git_mentions, standing_waits, write_proof
    from pipeline.cohorts.erasure.tracking import look

    tell("verifying: searching everything again")
    for store in view.stores:
        store.look()
    outs = [Path(out.fs_path) for out in view.repo.index.outs] if view.repo is not None else []
    finds = survey(view.project, erasure.person, erasure.cohorts, view.stores, outs)
    if view.repo is not None:
        finds.objects = _without_live(erasure, finds, versions.live_objects(view.repo))
    left = finds.places()
    for store in view.tracking:
        left += look(store, erasure, finished=True).places(store.label)
    commits = git_mentions(view.project.root, erasure.matcher())
    waits = {*erasure.waits, *standing_waits(erasure, view.settings)}
    if commits:
        waits.add(
            f"git: {len(commits)} commit(s) hold the name ({', '.join(commits[:5])}{' …' if len(commits) > 5 else ''}). "
            "edgealign does not rewrite history; `git filter-repo --replace-text` does, in every clone."
        )
    erasure.waits = sorted(waits)
    erasure.save()
    searched = {"workspace": True, "dvc_cache": view.repo is not None, "mlflow_stores": len(view.tracking)}
    searched["dvc_remotes"] = max(0, len(view.stores) - 1)
    if erasure.proven is None:
        write_proof(erasure, {"searched": searched, "places_left": len(left)})
    if view.repo is not None:
        versions.record(erasure, view.repo)
        versions.push(view.repo, view.stores, [name for name in erasure.objects if name != "cache"])
        versions.forget_notes(view.repo)
    if not left:
        erasure.path.unlink()
    return left


def _tell_plan(
    erasure: Erasure, finds: Finds, places: list[str], everything: bool, tell: Callable[[str], None]
) -> None:
    person = erasure.person
    who = ", ".join(f"{slug} of {cohort}" for cohort, slug in sorted(person.slugs.items()))
    tell(f"to be forgotten: {who}; {len(person.utterances)} utterance(s), old versions included")
    if person.namesakes:
        tell(f"  stays: the user of the same name in {', '.join(sorted(person.namesakes))}")
    groups = [
        ("data, artifacts, plots, metrics", finds.workspace),
        (".edgealign and DVC's temporary files", [*finds.private, *finds.shipped]),
        ("edgealign-agent on this machine", finds.device),
        ("other folders that DVC tracks", finds.foreign),
        *(
            (f"DVC {'cache' if name == 'cache' else 'remote ' + name}", paths)
            for name, paths in sorted(finds.objects.items())
        ),
    ]
    told = {place for _, group in groups for place in group}
    groups.append(("MLflow", [place for place in places if place not in told and "DVC " not in place[:4]]))
    for title, group in groups:
        if not group:
            continue
        tell(f"{title}: {len(group)}")
        shown = group if everything else [] if title.startswith("DVC ") else group[:SHOWN]
        for place in shown:
            tell(f"  {place}")
        if len(shown) < len(group):
            tell(f"  … and {len(group) - len(shown)} more (--dry-run lists all)")
    if person.bases:
        tell(
            f"base adapter(s) that learned from this user: {len(person.bases)}; other users' adapters on them: "
            f"{len(person.descendants)}. They stay in use and are marked to be retrained (`dvc repro`)."
        )


def _tell_result(erasure: Erasure, left: list[str], waits: list[str], tell: Callable[[str], None]) -> None:
    from pipeline.cohorts.erasure.proof import proof_path

    proof = proof_path(erasure).relative_to(erasure.project.root)
    if left:
        tell(
            f"NOT complete: {len(left)} place(s) still hold the user. Run the command again; what stays, delete by hand:"
        )
        for place in left:
            tell(f"  {place}")
    else:
        tell(f"erased: nothing is left in the workspace, DVC's cache and remotes, and MLflow. Proof: {proof}")
    tell("still to be done by people:")
    for wait in waits:
        tell(f"  - {wait}")
    tell("next: git add data.dvc dvc.lock params.yaml metrics, git commit, git push; then `dvc repro`")
