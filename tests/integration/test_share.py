"""Two engineers, two clones, one DVC remote: what one computed the other does not, and their branches merge."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers_cohorts import ROOT, hashes, make_recordings

from pipeline.cohorts.share import ATTRIBUTES
from pipeline.cohorts.store import read_cohort
from pipeline.settings import load_settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

GRAPH = """
stages:
  features:
    matrix: {cohort: "${cohorts}"}
    cmd: >-
      python -c "import pathlib, os; print('ran features ${item.cohort}');
      o = pathlib.Path('artifacts/features/${item.cohort}'); o.mkdir(parents=True, exist_ok=True);
      shards = pathlib.Path('data/cohorts/${item.cohort}').glob('*.tar');
      [(o / (p.stem + '.txt')).write_text(str(p.stat().st_size)) for p in shards]"
    deps: ["data/cohorts/${item.cohort}"]
    outs:
      - artifacts/features/${item.cohort}: {persist: true}
  report:
    cmd: >-
      python -c "import pathlib; print('ran report');
      found = sorted(str(p) for p in pathlib.Path('artifacts/features').rglob('*.txt'));
      pathlib.Path('metrics').mkdir(exist_ok=True);
      pathlib.Path('metrics/summary.json').write_text(str(len(found)));
      pathlib.Path('plots').mkdir(exist_ok=True);
      pathlib.Path('plots/found.csv').write_text(str(found))"
    deps: [artifacts/features]
    params: [cohorts]
    metrics:
      - metrics/summary.json: {cache: false}
    outs: [plots]
"""


class Clone:
    """One engineer's clone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": "user.name",
            "GIT_CONFIG_VALUE_0": "Test",
            "GIT_CONFIG_KEY_1": "user.email",
            "GIT_CONFIG_VALUE_1": "test@example.org",
            "DVC_NO_ANALYTICS": "1",
        }
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"{command}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def git(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("git", *words, check=check)

    def dvc(self, *words: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *words).stdout

    def cohort(self, *words: str) -> str:
        return self.run(sys.executable, "-m", "pipeline", "cohort", *words).stdout

    def repro(self) -> list[str]:
        """`dvc repro`; what was really run, by what it printed."""
        said = self.dvc("repro")
        return sorted(line.removeprefix("ran ") for line in said.splitlines() if line.startswith("ran "))

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", message)

    def path(self, name: str) -> Path:
        return self.folder / "data" / "cohorts" / name

    def add(self, name: str, users: list[str], each: int = 3, first: int = 0) -> None:
        audio = make_recordings(self.folder.parent / f"recordings-{name}", users, each, first=first)
        self.cohort("add", name, "--audio", str(audio))


@pytest.fixture
def first(tmp_path: Path) -> Clone:
    """A project with one cohort, pushed to a folder; its origin is a bare repository."""
    clone = Clone(tmp_path / "first")
    clone.folder.mkdir()
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for key in ("cohorts", "base_cohorts", "personal_cohorts"):
        text = text.replace(f"{key}: [{', '.join(params[key])}]", f"{key}: []")
    text = text.replace("untold_only: [base-synthetic]", "untold_only: []")
    (clone.folder / "params.yaml").write_text(text, encoding="utf-8")
    (clone.folder / "dvc.yaml").write_text(GRAPH, encoding="utf-8")
    (clone.folder / ".gitignore").write_text(".edgealign/\n", encoding="utf-8")
    clone.git("init", "--quiet", "--initial-branch", "main")
    clone.dvc("init", "--quiet")
    clone.add("home", ["ann", "bob"])
    assert clone.repro() == ["features home", "report"]
    said = clone.cohort("share", str(tmp_path / "store"))
    assert "dvc push" in said
    clone.commit("home")
    clone.dvc("push")
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "origin")], check=True)
    clone.git("remote", "add", "origin", str(tmp_path / "origin"))
    clone.git("push", "--quiet", "origin", "main")
    return clone


def cloned(first: Clone, name: str, *, share: bool = True, pull: bool = True) -> Clone:
    other = Clone(first.folder.parent / name)
    first.git("clone", "--quiet", "--branch", "main", str(first.folder.parent / "origin"), str(other.folder))
    if pull:
        other.dvc("pull")
    if share:
        other.cohort("share")
    return other


def both_add(first: Clone, other: Clone) -> None:
    """One adds `away` on main and pushes, the other `work` on a branch."""
    first.add("away", ["cid"])
    assert first.repro() == ["features away", "report"]
    first.commit("away")
    first.dvc("push")
    first.git("push", "--quiet", "origin", "main")
    other.git("checkout", "--quiet", "-b", "work")
    other.add("work", ["dot"])
    assert other.repro() == ["features work", "report"]
    other.commit("work")


def test_a_second_clone_has_everything_and_computes_nothing(first: Clone) -> None:
    other = cloned(first, "second")
    assert hashes(other.path("home")) == hashes(first.path("home"))
    assert other.repro() == []
    assert "up to date" in other.dvc("status")
    assert other.git("status", "--porcelain").stdout == ""  # setting up merging changes nothing that git tracks


def test_two_branches_with_a_cohort_each_merge_and_compute_only_the_report(first: Clone) -> None:
    other = cloned(first, "second")
    both_add(first, other)
    other.git("fetch", "--quiet", "origin")
    # the other's manifest is in the remote alone: the driver has to get it
    merged = other.git("merge", "--no-edit", "origin/main")
    assert "CONFLICT" not in merged.stdout
    for name in ("data.dvc", "params.yaml", "dvc.lock"):
        assert "<<<<" not in (other.folder / name).read_text(encoding="utf-8")
    assert load_settings(other.folder).cohorts == ["home", "work", "away"]
    pointer = yaml.safe_load(other.git("show", "HEAD:data.dvc").stdout)["outs"][0]
    other.dvc("pull")
    assert hashes(other.path("away")) == hashes(first.path("away"))
    assert read_cohort(other.path("work")).users["dot"].utterances == 3
    assert other.repro() == ["report"]
    # the pointer is the one that `dvc add` makes of the same files
    other.dvc("add", "data")
    again = yaml.safe_load((other.folder / "data.dvc").read_text(encoding="utf-8"))["outs"][0]
    assert again == pointer
    text = (other.folder / "params.yaml").read_text(encoding="utf-8")
    assert "# every cohort whose features and labels are computed" in text


def test_a_setting_that_both_changed_is_a_conflict_and_the_lists_are_merged_all_the_same(first: Clone) -> None:
    other = cloned(first, "second")
    for clone, value in ((first, "0.02"), (other, "0.05")):
        path = clone.folder / "params.yaml"
        path.write_text(
            path.read_text(encoding="utf-8").replace("density: 0.01", f"density: {value}"), encoding="utf-8"
        )
    both_add(first, other)
    other.git("fetch", "--quiet", "origin")
    merged = other.git("merge", "--no-edit", "origin/main", check=False)
    assert merged.returncode
    text = (other.folder / "params.yaml").read_text(encoding="utf-8")
    assert text.count("<<<<<<<") == 1
    assert "choose between the marks" in merged.stderr + merged.stdout
    side = text.index("<<<<<<<")
    assert "density" in text[side : text.index(">>>>>>>")]
    assert "cohorts: [home, work, away]" in text


def test_the_same_cohort_changed_on_both_branches_is_a_conflict_that_names_it(first: Clone) -> None:
    other = cloned(first, "second")
    for clone, user, name in ((first, "eve", "away"), (other, "fay", "work")):
        clone.add(name, [name])
        more = make_recordings(clone.folder.parent / f"more-{user}", [user], 2, first=len(user) + ord(user[0]))
        clone.cohort("append", "home", "--audio", str(more))
        clone.commit(user)
    first.dvc("push")
    first.git("push", "--quiet", "origin", "main")
    before = (other.folder / "data.dvc").read_text(encoding="utf-8")
    other.git("fetch", "--quiet", "origin")
    merged = other.git("merge", "--no-edit", "origin/main", check=False)
    assert merged.returncode
    assert "both branches changed cohort home" in merged.stderr + merged.stdout
    assert "UU data.dvc" in other.git("status", "--porcelain").stdout
    assert (other.folder / "data.dvc").read_text(encoding="utf-8") == before  # nothing half merged
    # the remedy that it names works
    said = merged.stderr + merged.stdout
    other.run(*next(line for line in said.splitlines() if "checkout --merge" in line).split())
    other.dvc("pull", "data.dvc")
    assert "eve" in read_cohort(other.path("home")).users
    assert {"away", "work"} <= {path.name for path in other.path("home").parent.iterdir()}  # what was in no conflict
    other.cohort("append", "home", "--audio", str(other.folder.parent / "more-fay"))
    assert {"eve", "fay"} <= set(read_cohort(other.path("home")).users)
    other.git("add", "data.dvc")
    other.commit("merged")
    assert other.git("ls-files", "--unmerged").stdout == ""


@pytest.mark.parametrize("command", ["add", "append", "remove"])
def test_a_command_before_dvc_pull_loses_no_cohort_of_the_others(first: Clone, command: str) -> None:
    other = cloned(first, "second")
    first.add("away", ["cid"])
    first.commit("away")
    first.dvc("push")
    first.git("push", "--quiet", "origin", "main")
    other.git("pull", "--quiet", "--ff-only", "origin", "main")  # and no `dvc pull`
    if command == "add":
        other.add("work", ["dot"])
    elif command == "append":
        more = make_recordings(other.folder.parent / "more", ["dot"], 2, first=50)
        other.cohort("append", "home", "--audio", str(more))
    else:
        other.cohort("remove", "home", "--yes")
    other.dvc("pull", "data.dvc")
    there = {"add": {"away", "home", "work"}, "append": {"away", "home"}, "remove": {"away"}}[command]
    assert {path.name for path in other.path("home").parent.iterdir()} == there
    assert hashes(other.path("away")) == hashes(first.path("away"))


def test_a_first_clone_of_a_project_without_a_remote_takes_cohorts_all_the_same(first: Clone) -> None:
    """As a clone of edgealign itself, in which `make demo` makes what data.dvc points at."""
    clone = cloned(first, "second", share=False, pull=False)
    clone.dvc("remote", "remove", "store")
    audio = make_recordings(clone.folder.parent / "work", ["dot"], 3)
    said = clone.cohort("add", "work", "--audio", str(audio))
    assert "it now records what lies in data/" in said
    assert clone.dvc("status", "data.dvc").strip() == "Data and pipelines are up to date."
    assert "it now records" not in clone.cohort("add", "more", "--audio", str(audio), "--replace")
    assert clone.dvc("status", "data.dvc").strip() == "Data and pipelines are up to date."


def test_without_the_driver_git_falls_back_to_a_plain_conflict(first: Clone) -> None:
    other = cloned(first, "second", share=False)
    both_add(first, other)
    other.git("fetch", "--quiet", "origin")
    merged = other.git("merge", "--no-edit", "origin/main", check=False)
    assert merged.returncode
    assert "<<<<<<<" in (other.folder / "data.dvc").read_text(encoding="utf-8")
    other.git("merge", "--abort")
    other.cohort("share")
    assert "CONFLICT" not in other.git("merge", "--no-edit", "origin/main").stdout


def test_a_manifest_that_nobody_pushed_is_told(first: Clone) -> None:
    other = cloned(first, "second")
    first.add("away", ["cid"])
    first.commit("away, not pushed to the remote")
    first.git("push", "--quiet", "origin", "main")
    other.add("work", ["dot"])
    other.commit("work")
    other.git("fetch", "--quiet", "origin")
    merged = other.git("merge", "--no-edit", "origin/main", check=False)
    assert merged.returncode
    assert "`dvc push`" in merged.stderr + merged.stdout
    assert "Traceback" not in merged.stderr


def test_share_says_what_is_missing(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(GRAPH, encoding="utf-8")
    share = (sys.executable, "-m", "pipeline", "cohort", "share")
    assert "dvc init" in clone.run(*share, check=False).stderr
    clone.git("init", "--quiet")
    clone.dvc("init", "--quiet")
    (tmp_path / "file").touch()
    assert "cannot be written" in clone.run(*share, str(tmp_path / "file" / "store"), check=False).stderr
    assert "no DVC remote yet" in clone.run(*share).stdout
    clone.dvc("remote", "add", "--default", "mine", "/somewhere")
    before = (tmp_path / ".dvc" / "config").read_bytes()
    for local in ([], ["--local"]):
        refused = clone.run(*share, *local, "s3://nobody/there", check=False)
        assert refused.returncode == 1
        assert "pip install 'dvc[s3]'" in refused.stderr
        assert (tmp_path / ".dvc" / "config").read_bytes() == before  # a remote that does not work is not noted
        assert not (tmp_path / ".dvc" / "config.local").exists()


def test_share_again_keeps_the_remotes_options(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "project")
    clone.folder.mkdir()
    (clone.folder / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (clone.folder / "dvc.yaml").write_text(GRAPH, encoding="utf-8")
    clone.git("init", "--quiet")
    clone.dvc("init", "--quiet")
    said = clone.cohort("share", "../one")
    assert said.splitlines()[-1].startswith("next: dvc push, then git add .dvc/config .gitattributes params.yaml &&")
    clone.dvc("remote", "modify", "store", "verify", "true")
    first = (clone.folder / ".dvc" / "config").read_text(encoding="utf-8")
    clone.cohort("share", "../one")
    assert (clone.folder / ".dvc" / "config").read_text(encoding="utf-8") == first
    clone.cohort("share", "../two")
    assert (clone.folder / ".dvc" / "config").read_text(encoding="utf-8") == first.replace("/one", "/two")
    assert [path for path in (tmp_path / "two").rglob("*") if path.is_file()] == []  # nothing of the trial is left
    lines = (clone.folder / ".gitattributes").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) == len(ATTRIBUTES)
