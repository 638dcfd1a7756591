"""Three-way merges of params.yaml and dvc.lock, and of anything key by key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from helpers_cohorts import ROOT, make_project

from pipeline.cohorts.merge import merge_lock, merge_params, three_way
from pipeline.settings import Settings
from stages.errors import EdgealignError


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged", "conflicts"),
    [
        ({"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}, []),
        ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}, []),
        ({"a": 1}, {"a": 2}, {"a": 2}, {"a": 2}, []),
        ({"a": 1}, {"a": 2}, {"a": 3}, {}, ["a"]),
        ({}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}, []),
        ({}, {"a": 1}, {"a": 2}, {}, ["a"]),
        ({"a": 1}, {}, {"a": 1}, {}, []),
        ({"a": 1}, {"a": 1}, {}, {}, []),
        ({"a": 1}, {}, {"a": 2}, {}, ["a"]),
        ({"a": 1}, {}, {}, {}, []),
    ],
)
def test_the_side_that_changed_a_key_counts(
    base: dict, ours: dict, theirs: dict, merged: dict, conflicts: list
) -> None:
    assert three_way(base, ours, theirs) == (merged, conflicts)


def write(folder: Path, texts: tuple[str, str, str]) -> list[Path]:
    paths = [folder / name for name in ("ancestor", "ours", "theirs")]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def params(cohorts: str, personal: str, density: str = "0.01") -> str:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    for key, value in (("cohorts", cohorts), ("personal_cohorts", personal), ("base_cohorts", "a")):
        text = text.replace(f"\n{key}: [{', '.join(content[key])}]", f"\n{key}: [{value}]")
    return text.replace("untold_only: [base-synthetic]", "untold_only: []").replace(
        "density: 0.01", f"density: {density}"
    )


def test_names_of_both_sides_come_together_and_what_one_took_out_is_out(tmp_path: Path) -> None:
    texts = (params("a, b, c", "b, c"), params("a, b, c, d", "b, c, d"), params("a, c, e", "c, e"))
    ancestor, ours, theirs = write(tmp_path, texts)
    assert merge_params(make_project(tmp_path / "p"), ancestor, ours, theirs, lambda line: None)
    merged = ours.read_text(encoding="utf-8")
    settings = Settings.model_validate(yaml.safe_load(merged))
    assert (settings.cohorts, settings.personal_cohorts) == (["a", "c", "d", "e"], ["c", "d", "e"])
    assert "# every cohort whose features and labels are computed" in merged
    assert "min_hours: null" in merged


def test_settings_changed_on_both_sides_are_marked_and_the_lists_are_merged(tmp_path: Path) -> None:
    texts = (params("a", "a"), params("a, b", "a, b", "0.02"), params("a, c", "a, c", "0.05"))
    ancestor, ours, theirs = write(tmp_path, texts)
    said: list[str] = []
    assert not merge_params(make_project(tmp_path / "p"), ancestor, ours, theirs, said.append)
    merged = ours.read_text(encoding="utf-8")
    assert merged.count("<<<<<<<") == 1
    between = merged[merged.index("<<<<<<<") : merged.index(">>>>>>>")]
    assert "density: 0.02" in between
    assert "density: 0.05" in between
    assert "cohorts: [a, b, c]" in merged
    assert "choose between the marks" in said[0]


def test_of_a_stage_that_both_ran_ours_stays_for_dvc_to_compare(tmp_path: Path) -> None:
    stages = (
        {"features@a": {"md5": 1}, "report": {"md5": 1}},
        {"features@a": {"md5": 1}, "features@b": {"md5": 2}, "report": {"md5": 2}},
        {"features@a": {"md5": 1}, "features@c": {"md5": 3}, "report": {"md5": 3}},
    )
    locks = tuple(yaml.safe_dump({"schema": "2.0", "stages": stage}) for stage in stages)
    ancestor, ours, theirs = write(tmp_path, locks)
    said: list[str] = []
    assert merge_lock(make_project(tmp_path / "p"), ancestor, ours, theirs, said.append)
    merged = yaml.safe_load(ours.read_text(encoding="utf-8"))
    assert merged == {
        "schema": "2.0",
        "stages": {
            "features@a": {"md5": 1},
            "features@b": {"md5": 2},
            "features@c": {"md5": 3},
            "report": {"md5": 2},
        },
    }
    assert "report" in said[0]


def test_a_lock_keeps_what_another_writer_of_yaml_would_change(tmp_path: Path) -> None:
    from dvc.utils.serialize import dumps_yaml, loads_yaml

    stage = {
        "params": {"params.yaml": {"a": "yes", "b": "0o17", "c": 1e-05, "d": None}},
        "md5": "1234e5",
        "nul": "null",
    }
    locks = tuple(
        dumps_yaml({"schema": "2.0", "stages": stages})
        for stages in ({"old": stage}, {"old": stage, "ours": stage}, {"old": stage, "theirs": stage})
    )
    ancestor, ours, theirs = write(tmp_path, locks)
    assert merge_lock(make_project(tmp_path / "p"), ancestor, ours, theirs, lambda line: None)
    assert loads_yaml(ours.read_text(encoding="utf-8"))["stages"] == {"old": stage, "ours": stage, "theirs": stage}


def test_a_lock_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    ancestor, ours, theirs = write(tmp_path, ("", "stages: {a: {}}\n", "stages: [\n"))
    with pytest.raises(EdgealignError, match=r"git checkout --ours dvc\.lock"):
        merge_lock(make_project(tmp_path / "p"), ancestor, ours, theirs, lambda line: None)
    assert ours.read_text(encoding="utf-8") == "stages: {a: {}}\n"


def test_a_layout_that_differs_from_what_is_written_is_no_change(tmp_path: Path) -> None:
    """Theirs has all the names already; left as it is, its odd line would stand against the line below that ours changed."""

    def odd(text: str) -> str:
        changed = text.replace("  method: shira  ", "  method:   shira  ")
        assert changed != text
        return changed

    texts = (odd(params("a", "a")), odd(params("a", "a", "0.02")), odd(params("a, b", "a, b")))
    ancestor, ours, theirs = write(tmp_path, texts)
    assert merge_params(make_project(tmp_path / "p"), ancestor, ours, theirs, lambda line: None)
    settings = Settings.model_validate(yaml.safe_load(ours.read_text(encoding="utf-8")))
    assert (settings.cohorts, settings.personalize.density) == (["a", "b"], 0.02)


@pytest.mark.parametrize("broken", ["cohorts: [a\n", "cohorts: a\n", "- a\n"])
def test_settings_that_cannot_be_read_are_merged_as_text(tmp_path: Path, broken: str) -> None:
    ancestor, ours, theirs = write(tmp_path, (params("a", "a"), params("a, b", "a"), broken))
    said: list[str] = []
    assert not merge_params(make_project(tmp_path / "p"), ancestor, ours, theirs, said.append)
    assert "<<<<<<< ours" in ours.read_text(encoding="utf-8")
    assert "cannot be read" in said[0]
