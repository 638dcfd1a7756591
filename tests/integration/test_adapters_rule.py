"""The rule of promotion over a project's own files: what is wrong with one adapter, or with what judged it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.project import Project
from pipeline.tracking.promotion import broken, candidates
from stages.atomic import sha256_file, write_json
from tests.helpers_adapters import another_base, judge_guard, relabel, set_params, withhold

pytestmark = pytest.mark.integration


def drop(path: Path) -> None:
    path.unlink()


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    write_json(path, content)


def first(project: Project, kind: str) -> str:
    """An utterance of ann that trained or is held out."""
    record = json.loads((project.adapters("home") / "ann" / "adapter.json").read_text())
    return str(record[f"{kind}_utterances"][0])


def swap(project: Project) -> None:
    """Bob's adapter in ann's place, hashes and all."""
    target = project.adapters("home") / "ann"
    shutil.rmtree(target)
    shutil.copytree(project.adapters("home") / "bob", target)


def mark(project: Project) -> None:
    digest = sha256_file(project.adapters("home") / "ann" / "adapter.safetensors")
    write_json(
        project.root / "data" / "erasures" / "e-1.json",
        {"recordings": {}, "retrain": [{"sha256": digest, "kind": "personal"}]},
    )


FAULTS: dict[str, tuple[Callable[[Project], Any], dict[str, list[str]]]] = {
    "weights gone": (
        lambda p: drop(p.adapters("home") / "ann" / "adapter.safetensors"),
        {"ann": ["weights"], "bob": []},
    ),
    "weights changed": (
        lambda p: (p.adapters("home") / "ann" / "adapter.safetensors").write_bytes(b"other"),
        {"ann": ["weights"], "bob": []},
    ),
    "record cut off": (
        lambda p: (p.adapters("home") / "ann" / "adapter.json").write_text('{"kind": "pers'),
        {"ann": ["record"], "bob": []},
    ),
    "record of another form": (
        lambda p: (p.adapters("home") / "ann" / "adapter.json").write_text("[]"),
        {"ann": ["record"], "bob": []},
    ),
    "another user's adapter": (swap, {"ann": ["record"], "bob": []}),
    "another base": (another_base, {"ann": ["base"], "bob": ["base"]}),
    "no base": (lambda p: shutil.rmtree(p.base_adapter), {"ann": ["base"], "bob": ["base"]}),
    "no evaluation": (lambda p: drop(p.evaluation("home")), {"ann": ["judged"], "bob": ["judged"]}),
    "evaluation cut off": (
        lambda p: p.evaluation("home").write_text('{"users": {"ann"'),
        {"ann": ["judged"], "bob": ["judged"]},
    ),
    "not in the evaluation": (
        lambda p: edit(p.evaluation("home"), lambda found: found["users"].pop("ann")),
        {"ann": ["judged"], "bob": []},
    ),
    "evaluation of an older adapter": (
        lambda p: edit(p.evaluation("home"), lambda found: found["users"]["ann"].update(adapter_sha256="0" * 64)),
        {"ann": ["judged"], "bob": []},
    ),
    "worse on other people": (lambda p: judge_guard(p, 0.21), {"ann": ["guard"], "bob": ["guard"]}),
    "no worse than the tolerance": (lambda p: judge_guard(p, 0.2), {"ann": [], "bob": []}),
    "another tolerance": (
        lambda p: [judge_guard(p, 0.24), set_params(p, promotion={"guard_tolerance": 0.15})],
        {"ann": [], "bob": []},
    ),
    "a held-out text corrected": (
        lambda p: relabel(p, first(p, "held_out"), text="echo alpha"),
        {"ann": ["judged"], "bob": []},
    ),
    "a held-out label taken back": (
        lambda p: relabel(p, first(p, "held_out"), accepted=False),
        {"ann": ["judged"], "bob": []},
    ),
    "a training label taken back": (
        lambda p: relabel(p, first(p, "train"), accepted=False, text=None, reason="no consent: it is withheld"),
        {"ann": ["consent"], "bob": []},
    ),
    "consent taken back, labels not made again": (
        lambda p: withhold(p, first(p, "train")),
        {"ann": ["consent"], "bob": []},
    ),
    "no labels": (lambda p: drop(p.second_labels("home")), {"ann": ["labels"], "bob": ["labels"]}),
    "no recordings": (lambda p: shutil.rmtree(p.cohort("home")), {"ann": ["consent"], "bob": ["consent"]}),
    "a person erased from whom it learned": (mark, {"ann": ["erasure"], "bob": []}),
    "nothing": (lambda p: None, {"ann": [], "bob": []}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_breaks_its_condition_and_no_other_adapters(untracked: Project, fault: str) -> None:
    spoil, expected = FAULTS[fault]
    spoil(untracked)
    found = {one.user: list(broken(one, None)) for one in candidates(untracked, "home")}
    assert {user: found[user] for user in expected} == expected
