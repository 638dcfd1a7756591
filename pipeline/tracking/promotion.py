"""The rule by which a personal adapter becomes its user's champion, and what it reads. Knows nothing of MLflow.

All conditions must hold; docs/compare.md says them for people. Raise RULE_VERSION with any change: each promotion records
under which rule it was made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.project import Project
from stages.errors import EdgealignError, InputError
from stages.registered import RETRAIN

if TYPE_CHECKING:
    from stages.alignment.record import AdapterRecord

RULE_VERSION = 2
T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Figures:
    """Error rates on held-out utterances; compared by words, and by characters where the words tie."""

    wer: float
    cer: float

    def __str__(self) -> str:
        return f"WER {self.wer:.4f} (CER {self.cer:.4f})"


@dataclass(frozen=True)
class Candidate:
    """A personal adapter and all that the rule asks about it. Empty or None: not known."""

    cohort: str
    user: str
    adapter_bytes: int = 0
    file_sha256: str = ""  # of adapter.safetensors as it lies there
    record_sha256: str = ""  # what adapter.json says of it
    base_sha256: str = ""  # the base that it changes
    base_now_sha256: str = ""  # the base that lies in artifacts/adapters/base
    judged_sha256: str = ""  # the adapter that the evaluation judged
    judged_held_out_sha256: str = ""  # the held-out utterances and texts that judged it
    held_out_sha256: str = ""  # the same, as the labels are now
    test_utterances: int = 0
    figures: Figures | None = None
    base_figures: Figures | None = None
    guard: Figures | None = None  # of the adapter on utterances of other people
    base_guard: Figures | None = None
    guard_utterances: int = 0
    guard_tolerance: float = 0.0  # how much higher than the base's its guard WER may be
    learned: int = 0  # utterances that trained
    unlabelled: int = 0  # of them, without an accepted label now
    withheld: int = 0  # of them, not in the cohort now, or without consent
    erasure: str = ""  # the erasure of a person from whom it learned
    trained_git_commit: str = "unknown"
    trained_data_md5: str = "unknown"
    unread: Mapping[str, str] = field(default_factory=dict)
    """{condition: why what it asks for cannot be read}."""

    @property
    def name(self) -> str:
        return f"{self.cohort}/{self.user}"


@dataclass(frozen=True)
class Champion:
    """The registered version that bears the alias ``champion``."""

    version: str
    adapter_sha256: str
    figures: Figures | None  # as they were when it was promoted; None where it carries none
    retrain: str = ""  # the erasure after which it is to be replaced


def champion_of(version: str, tags: Mapping[str, str]) -> Champion:
    """The champion that a version with these tags is."""
    return Champion(version, tags.get("adapter_sha256", ""), _figures(tags), tags.get(RETRAIN, ""))


def broken(candidate: Candidate, champion: Champion | None) -> dict[str, str]:
    """{condition: why, with its figures} of every condition that does not hold; empty: the rule takes the adapter."""
    found = dict(candidate.unread)
    for name, (check, needs) in CONDITIONS.items():
        if name not in found and found.keys().isdisjoint(needs):
            reason = check(candidate, champion)
            if reason:
                found[name] = reason
    return found


def is_champion(candidate: Candidate, champion: Champion | None) -> bool:
    """Whether the registered champion is this very adapter."""
    return champion is not None and bool(candidate.file_sha256) and champion.adapter_sha256 == candidate.file_sha256


def _weights(one: Candidate, champion: Champion | None) -> str:
    if not one.file_sha256:
        return "adapter.safetensors is not there: `dvc repro` or `dvc pull`"
    if one.file_sha256 != one.record_sha256:
        return f"the weights' hash is {one.file_sha256[:12]}, adapter.json says {one.record_sha256[:12]}: `dvc repro`"
    return ""


def _base(one: Candidate, champion: Champion | None) -> str:
    if one.base_sha256 != one.base_now_sha256:
        return f"made for the base {one.base_sha256[:12]}, the base is {one.base_now_sha256[:12]} now: `dvc repro`"
    return ""


def _judged(one: Candidate, champion: Champion | None) -> str:
    if not one.judged_sha256 or one.figures is None or one.base_figures is None or one.test_utterances < 1:
        return f"no figures on held-out utterances: `dvc repro evaluate@{one.cohort}`"
    if one.judged_sha256 != one.record_sha256:
        return (
            f"the evaluation judged the adapter {one.judged_sha256[:12]}, this is {one.record_sha256[:12]}: "
            f"`dvc repro evaluate@{one.cohort}`"
        )
    if not one.judged_held_out_sha256:
        return f"judged by an older edgealign: `dvc repro --force --single-item evaluate@{one.cohort}`"
    if one.judged_held_out_sha256 != one.held_out_sha256:
        return "the labels of its held-out utterances have changed since they judged it: `dvc repro`"
    return ""


def _better(one: Candidate, champion: Champion | None) -> str:
    assert one.figures is not None and one.base_figures is not None  # "judged" holds
    if one.figures < one.base_figures:
        return ""
    return f"{one.figures} is not better than the base's {one.base_figures}"


def _guard(one: Candidate, champion: Champion | None) -> str:
    if one.guard is None or one.base_guard is None or one.guard_utterances < 1:
        return (
            "no figures on the guard, the utterances of other people that the base holds out (base.dev_users, "
            f"evaluate.guard_utterances in params.yaml): `dvc repro evaluate@{one.cohort}`"
        )
    if one.guard.wer <= one.base_guard.wer + one.guard_tolerance:
        return ""
    return (
        f"on {one.guard_utterances} utterances of other people {one.guard} is more than {one.guard_tolerance:g} above the "
        f"base's {one.base_guard} (promotion.guard_tolerance in params.yaml)"
    )


def _champion(one: Candidate, champion: Champion | None) -> str:
    if champion is None or champion.retrain or is_champion(one, champion):
        return ""
    if champion.figures is None:
        return f"the champion (version {champion.version}) carries no figures: take its alias away in MLflow"
    assert one.figures is not None  # "judged" holds
    if one.figures <= champion.figures:
        return ""
    return f"{one.figures} is worse than the {champion.figures} of the champion (version {champion.version})"


def _consent(one: Candidate, champion: Champion | None) -> str:
    if one.learned and not one.unlabelled and not one.withheld:
        return ""
    return (
        f"of the {one.learned} utterances that trained, {one.unlabelled} have no accepted label now and {one.withheld} are "
        "gone or without consent: `dvc repro`"
    )


def _erasure(one: Candidate, champion: Champion | None) -> str:
    return f"learned from a person who was erased since (erasure {one.erasure}): `dvc repro`" if one.erasure else ""


Check = Callable[[Candidate, "Champion | None"], str]
CONDITIONS: dict[str, tuple[Check, set[str]]] = {
    "weights": (_weights, {"record"}),
    "base": (_base, {"record"}),
    "judged": (_judged, {"record", "labels"}),
    "better": (_better, {"record", "labels", "judged"}),
    "guard": (_guard, {"record", "labels", "judged"}),
    "champion": (_champion, {"record", "labels", "judged"}),
    "consent": (_consent, {"record", "labels"}),
    "erasure": (_erasure, {"record"}),
}
"""Each with the conditions that must hold before it can be asked: figures of another adapter or of other texts tell nothing."""


class _Unread(dict[str, str]):
    """What cannot be read breaks its condition and nothing else: the other adapters go on."""

    def read(self, condition: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except EdgealignError as error:
            self[condition] = str(error)
            return None


def candidates(project: Project, cohort: str) -> list[Candidate]:
    """Every personal adapter of a cohort, by user. Changes nothing; what cannot be read stands in ``unread``."""
    from pipeline.cohorts.erasure.tombstones import adapters_to_retrain
    from pipeline.settings import load_settings
    from stages.alignment.record import read_record

    folders = [path for path in project.adapters(cohort).glob("[!.]*") if path.is_dir()]
    if not folders:
        return []
    unread = _Unread()
    base_now = unread.read("base", lambda: read_record(project.base_adapter).weights_sha256) or ""
    judged = unread.read("judged", lambda: read_evaluation(project.evaluation(cohort))) or {}
    labels = unread.read("labels", lambda: _labels(project.second_labels(cohort))) or {}
    granted = unread.read("consent", lambda: _granted(project.cohort(cohort))) or set()
    erased = unread.read("erasure", lambda: adapters_to_retrain(project)) or {}
    tolerance = load_settings(project.root).promotion.guard_tolerance
    return [_candidate(path, base_now, judged, labels, granted, erased, unread, tolerance) for path in sorted(folders)]


def _candidate(
    folder: Path,
    base_now: str,
    judged: Mapping[str, Any],
    labels: Mapping[tuple[str, str], str],
    granted: set[tuple[str, str]],
    erased: Mapping[str, str],
    unread: Mapping[str, str],
    guard_tolerance: float,
) -> Candidate:
    from stages.alignment.splits import held_out_digest
    from stages.atomic import sha256_file

    cohort, user, weights = folder.parent.name, folder.name, folder / "adapter.safetensors"
    mine = _Unread(unread)
    record = mine.read("record", lambda: _record(folder))
    if record is None:
        return Candidate(cohort, user, unread=mine)
    entry = judged.get(user) or {}
    guard: dict[str, Any] = entry["guard"] if isinstance(entry.get("guard"), dict) else {}
    there = weights.is_file()
    trained = [(user, name) for name in record.train_utterances]
    return Candidate(
        cohort,
        user,
        adapter_bytes=weights.stat().st_size if there else 0,
        file_sha256=sha256_file(weights) if there else "",
        record_sha256=record.weights_sha256,
        base_sha256=record.base_sha256 or "",
        base_now_sha256=base_now,
        judged_sha256=entry.get("adapter_sha256", ""),
        judged_held_out_sha256=entry.get("held_out_sha256", ""),
        held_out_sha256=held_out_digest((name, labels.get((user, name), "")) for name in record.held_out_utterances),
        test_utterances=entry.get("test_utterances", 0),
        figures=_figures(entry.get("personal")),
        base_figures=_figures(entry.get("base")),
        guard=_figures(guard.get("personal")),
        base_guard=_figures(guard.get("base")),
        guard_utterances=guard.get("utterances") or 0,
        guard_tolerance=guard_tolerance,
        learned=len(trained),
        unlabelled=sum(key not in labels for key in trained),
        withheld=sum(key not in granted for key in trained),
        erasure=erased.get(record.weights_sha256, "") or erased.get(record.base_sha256 or "", ""),
        trained_git_commit=record.git_commit or "unknown",
        trained_data_md5=record.data_md5 or "unknown",
        unread=mine,
    )


def _record(folder: Path) -> AdapterRecord:
    """The record of a personal adapter that lies where its user's does."""
    from stages.alignment.record import read_record

    try:
        record = read_record(folder)
        found = (record.kind, record.cohort, record.user)
        names = [*record.train_utterances, *record.held_out_utterances]
    except (TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'adapter.json'}: no adapter's record ({error}): `dvc repro`") from error
    if found != ("personal", folder.parent.name, folder.name) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{folder / 'adapter.json'}: of a {found[0]} adapter of {found[1]}/{found[2]}: `dvc repro`")
    return record


def _figures(errors: Any) -> Figures | None:
    """Figures of one side of an evaluation; None where there are none."""
    try:
        return Figures(float(errors["wer"]), float(errors["cer"]))
    except (KeyError, TypeError, ValueError):
        return None


def read_evaluation(path: Path) -> dict[str, Any]:
    """{user: entry} of what evaluate wrote. Raises InputError where it cannot be read."""
    try:
        users = json.loads(path.read_text(encoding="utf-8"))["users"]
        return {user: entry for user, entry in users.items() if isinstance(entry, dict)}
    except FileNotFoundError:
        raise InputError(f"{path}: not there: `dvc repro evaluate@{path.stem}`") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not readable ({error}). Delete it: `dvc repro evaluate@{path.stem}`") from error


def _labels(path: Path) -> dict[tuple[str, str], str]:
    """{(user, utterance): text} of the accepted labels."""
    from stages.schema import LABELS, read_table

    columns = read_table(path, LABELS, ["user", "utterance", "text", "accepted"]).to_pydict()
    rows = zip(columns["user"], columns["utterance"], columns["text"], columns["accepted"], strict=True)
    return {(user, utterance): text for user, utterance, text, accepted in rows if accepted and text}


def _granted(folder: Path) -> set[tuple[str, str]]:
    """(user, utterance) of everything in the cohort now that its user lets us train on."""
    from pipeline.cohorts.index import read_index

    columns = read_index(folder).select(["user", "utterance", "granted"]).to_pydict()
    rows = zip(columns["user"], columns["utterance"], columns["granted"], strict=True)
    return {(user, utterance) for user, utterance, granted in rows if granted}
