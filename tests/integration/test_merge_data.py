"""Three-way merges of data.dvc, against what `dvc add` makes of the folder that should come out."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from helpers_cohorts import make_project

from pipeline.cohorts.merge import merge_data
from pipeline.project import Project
from stages.errors import EdgealignError

pytestmark = pytest.mark.integration

HOUSE = {"cohorts/house/cohort.yaml": "house", "cohorts/house/shard-00000.tar": "house, first"}
HOUSE_2 = {"cohorts/house-2/cohort.yaml": "house two"}  # sorts between house's folder and house's files
AWAY = {"cohorts/away/cohort.yaml": "away", "cohorts/away/shard-00000.tar": "away, first recording"}
WORK = {"cohorts/office/cohort.yaml": "office", "cohorts/office/shard-00000.tar": "office"}
HOUSE_MORE = {**HOUSE, "cohorts/house/cohort.yaml": "house and more", "cohorts/house/shard-00001.tar": "house, second"}
HOUSE_LESS = {**HOUSE, "cohorts/house/cohort.yaml": "house without one", "cohorts/house/shard-00000.tar": "house"}
PROOF = {"erasures/e1.json": "{}"}

Files = Mapping[str, str]


class Desk:
    """A DVC project in which data/ is put to any state, and states are merged."""

    def __init__(self, folder: Path) -> None:
        self.project: Project = make_project(folder)
        subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
        self.repo = Repo.init(str(folder))
        (folder / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
        self.said: list[str] = []

    def add(self, files: Files) -> str:
        """data.dvc as `dvc add` writes it for these files."""
        root = self.project.root
        shutil.rmtree(root / "data", ignore_errors=True)
        for name, content in files.items():
            path = root / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        self.repo.add(str(root / "data"))
        return (root / "data.dvc").read_text(encoding="utf-8")

    def merge(self, *pointers: str) -> tuple[bool, str]:
        """Whether it merged, and what ours is afterwards."""
        paths = [self.project.root / name for name in ("O", "A", "B")]
        for path, pointer in zip(paths, pointers, strict=True):
            path.write_text(pointer, encoding="utf-8")
        done = merge_data(self.project, *paths, self.said.append)
        return done, paths[1].read_text(encoding="utf-8")

    def path_of(self, oid: str, store: Path | None = None) -> Path:
        return (store or self.project.root / ".dvc" / "cache") / "files" / "md5" / oid[:2] / oid[2:]

    def take(self, side: str) -> None:
        subprocess.run(["git", "config", "edgealign.take", side], cwd=self.project.root, check=True)

    def to_remote(self, name: str, pointer: str) -> Path:
        """Move a pointer's manifest to a remote; its path there."""
        with self.repo.config.edit() as config:
            config["remote"][name] = {"url": str(self.project.root.parent / name)}
        there = self.path_of(oid_of(pointer), self.project.root.parent / name)
        there.parent.mkdir(parents=True)
        shutil.move(self.path_of(oid_of(pointer)), there)
        return there


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "project")
    yield desk
    desk.repo.close()


def oid_of(pointer: str) -> str:
    return str(yaml.safe_load(pointer)["outs"][0]["md5"])


def md5(content: str) -> str:
    return hashlib.md5(content.encode()).hexdigest()


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        pytest.param(HOUSE, HOUSE | AWAY, HOUSE | WORK, HOUSE | AWAY | WORK, id="a cohort each"),
        pytest.param(
            HOUSE, HOUSE | HOUSE_2, HOUSE | WORK, HOUSE | HOUSE_2 | WORK, id="names that sort into one another"
        ),
        pytest.param(HOUSE | AWAY, HOUSE, HOUSE_MORE | AWAY, HOUSE_MORE, id="one removes, one appends to another"),
        pytest.param(HOUSE, HOUSE_LESS | PROOF, HOUSE | AWAY, HOUSE_LESS | AWAY | PROOF, id="one erases, one adds"),
        pytest.param(
            HOUSE, HOUSE_MORE | AWAY, HOUSE_MORE | WORK, HOUSE_MORE | AWAY | WORK, id="both had the same change"
        ),
        pytest.param(HOUSE | AWAY, HOUSE, HOUSE, HOUSE, id="both removed the same one"),
        pytest.param(HOUSE | PROOF, HOUSE, HOUSE | PROOF, HOUSE | PROOF, id="a proof that one side lost"),
    ],
)
def test_the_pointer_is_what_dvc_add_makes_of_both(
    desk: Desk, base: Files, ours: Files, theirs: Files, merged: Files
) -> None:
    done, pointer = desk.merge(*map(desk.add, (base, ours, theirs)))
    assert done
    assert pointer == desk.add(merged)


def test_branches_that_both_began_data_merge(desk: Desk) -> None:
    ours, theirs = map(desk.add, (AWAY, WORK))
    assert desk.merge("", ours, theirs) == (True, desk.add(AWAY | WORK))


def test_a_size_that_cannot_be_known_is_left_out(desk: Desk) -> None:
    pointers = [*map(desk.add, (HOUSE, HOUSE_MORE | AWAY, HOUSE_MORE | WORK))]
    whole = yaml.safe_load(desk.add(HOUSE_MORE | AWAY | WORK))["outs"][0]
    desk.add(HOUSE)
    desk.path_of(md5("house, second")).unlink()
    done, pointer = desk.merge(*pointers)
    assert done
    del whole["size"]
    assert yaml.safe_load(pointer)["outs"][0] == whole


def test_of_a_proof_that_both_changed_both_stay(desk: Desk) -> None:
    states = ({**HOUSE, "erasures/e1.json": text} for text in ("{}", '{"a": 1}', '{"b": 2}'))
    done, pointer = desk.merge(*map(desk.add, states))
    other = "erasures/e1-" + md5('{"b": 2}')[:8] + ".json"
    assert done
    assert pointer == desk.add({**HOUSE, "erasures/e1.json": '{"a": 1}', other: '{"b": 2}'})


CONFLICT = (HOUSE, HOUSE_MORE | AWAY, HOUSE_LESS | PROOF | WORK)


def test_a_cohort_that_both_changed_is_told_and_ours_stays_as_it_was(desk: Desk) -> None:
    pointers = [*map(desk.add, CONFLICT)]
    assert desk.merge(*pointers) == (False, pointers[1])
    (said,) = desk.said
    assert "both branches changed cohort house." in said
    assert "git -c edgealign.take=theirs checkout --merge data.dvc" in said
    assert "edgealign cohort append house" in said
    assert "A person was erased in theirs: take that one." in said


@pytest.mark.parametrize(("side", "house"), [("ours", HOUSE_MORE), ("theirs", HOUSE_LESS)])
def test_the_side_that_is_chosen_is_taken_and_nothing_else_is_lost(desk: Desk, side: str, house: Files) -> None:
    pointers = [*map(desk.add, CONFLICT)]
    desk.take(side)
    assert desk.merge(*pointers) == (True, desk.add(house | AWAY | WORK | PROOF))
    assert desk.said == [f"data.dvc: cohort house is as {side} has it"]


def test_a_removed_cohort_that_the_other_changed_is_a_conflict_and_can_be_removed(desk: Desk) -> None:
    pointers = [*map(desk.add, (HOUSE | AWAY, AWAY, HOUSE_MORE | AWAY))]
    assert not desk.merge(*pointers)[0]
    desk.take("ours")
    assert desk.merge(*pointers) == (True, desk.add(AWAY))


def test_a_choice_that_is_none_is_told(desk: Desk) -> None:
    pointers = [*map(desk.add, CONFLICT)]
    desk.take("mine")
    with pytest.raises(EdgealignError, match="needed ours or theirs"):
        desk.merge(*pointers)


def test_without_the_common_state_what_either_has_stays(desk: Desk) -> None:
    base, ours, theirs = map(desk.add, (HOUSE | AWAY, HOUSE | WORK, HOUSE | AWAY | HOUSE_2))
    desk.path_of(oid_of(base)).unlink()
    assert desk.merge(base, ours, theirs) == (True, desk.add(HOUSE | AWAY | HOUSE_2 | WORK))
    assert "edgealign cohort list" in desk.said[0]


def test_a_manifest_comes_from_whichever_remote_has_it(desk: Desk) -> None:
    pointers = [*map(desk.add, (HOUSE, HOUSE | AWAY, HOUSE | WORK))]
    with desk.repo.config.edit() as config:
        config["remote"]["broken"] = {"url": "s3://nobody/there"}  # DVC's extra for it is not installed
    desk.to_remote("store", pointers[2])
    assert desk.merge(*pointers) == (True, desk.add(HOUSE | AWAY | WORK))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(lambda path: path.unlink(), "`dvc push`", id="not pushed"),
        pytest.param(lambda path: path.write_text("[]"), "is damaged there", id="damaged"),
    ],
)
def test_a_manifest_that_is_not_to_be_had_is_told(desk: Desk, spoil: Callable[[Path], object], told: str) -> None:
    pointers = [*map(desk.add, (HOUSE, HOUSE | AWAY, HOUSE | WORK))]
    spoil(desk.to_remote("store", pointers[2]))
    with pytest.raises(EdgealignError, match=told):
        desk.merge(*pointers)
    assert not desk.path_of(oid_of(pointers[2])).exists()  # nothing damaged in the cache
    assert (desk.project.root / "A").read_text(encoding="utf-8") == pointers[1]


def test_a_pointer_that_is_none_is_told(desk: Desk) -> None:
    pointer = desk.add(HOUSE)
    for broken in ("outs: []\n", "outs:\n- md5: 0123\n  path: data\n", "<<<<<<< ours\n"):
        with pytest.raises(EdgealignError, match="not a pointer at data/"):
            desk.merge(pointer, pointer, broken)
