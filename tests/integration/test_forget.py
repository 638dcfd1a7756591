"""`edgealign cohort forget` on a whole project: real DVC with a remote and old versions, real MLflow, every byte searched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.settings import Tracking, load_settings
from pipeline.tracking.tracker import Tracker
from stages.atomic import sha256_file
from stages.errors import TrackingError
from tests.helpers_erasure import (
    CALLED,
    COHORTS,
    ROOT,
    SLUG,
    WORDS,
    Traces,
    World,
    append,
    feature_key,
    params,
    search,
    traces_of,
    transcript_key,
    utterances_of,
    write_artifacts,
    write_cohort,
    write_models,
)
from tests.integration.test_tracking_mlflow import free_port, server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


class Away:
    """A store that cannot be reached: what is recorded stays in the spool."""

    def send(self, record: Any) -> str:
        raise TrackingError("the store is away")


def record_runs(world: World) -> None:
    """Runs as the stages record them, an older base run with users in its parameters, and registered models."""
    from mlflow import MlflowClient

    project = world.project
    tracker = Tracker(project, Tracking())
    for cohort, users in COHORTS.items():
        with tracker.run("personalize", cohort=cohort) as run:
            for user in users:
                with run.child("personalize", user=user, key=user) as child:
                    child.metrics({"wer": 0.25})
                    child.curve("loss", [(step, 1.0) for step in range(50)])
                    child.dataset(f"{cohort}/{user}", "0" * 32, cohort)
                    child.adapter(project.adapters(cohort) / user, f"{cohort}/{user}")
        with tracker.run("evaluate", cohort=cohort) as run:
            run.artifact(project.evaluation(cohort), "metrics")  # as it was when metrics named users
    with tracker.run("base") as run:
        run.adapter(project.base_adapter, "base")
        run.dataset("base_inputs", "1" * 32, "base_inputs.json")
    with tracker.run("base") as run:
        run.params({"held_out_users": f"['home/{SLUG}', 'home/ann']"})
    with tracker.run("report") as run:
        for path in sorted(project.plots.iterdir()):
            run.artifact(path, "report")
    client = MlflowClient(tracking_uri=tracker.uri)
    experiment = client.get_experiment_by_name("edgealign")
    for user in (SLUG, "ann"):
        [run] = client.search_runs([experiment.experiment_id], f"tags.user = '{user}' and tags.cohort = 'home'")
        name = f"edgealign.home.{user}"
        client.create_registered_model(name, {"cohort": "home", "user": user})
        version = client.create_model_version(name, f"{run.info.artifact_uri}/adapter", run.info.run_id)
        client.set_registered_model_alias(name, "champion", version.version)
    assert tracker.spool.waiting() == []


def leave_things(world: World) -> None:
    """What killed and waiting commands leave in .edgealign, and what a cluster shipped here."""
    project = world.project
    away = Tracker(project, Tracking(), store=Away())
    with away.run("personalize", cohort="home") as run, run.child("personalize", user=SLUG) as child:
        child.adapter(project.adapters("home") / SLUG, f"home/{SLUG}")
    with away.run("report") as run:
        for path in sorted(project.plots.iterdir()):
            run.artifact(path, "report")
    private = project.private
    for name, text in {
        "quarantine/home.csv": f"item,reason\nline 7: {SLUG}/9.wav,silent\n{SLUG}-99.wav,too short\nann/9.wav,silent\n",
        "check/home.html": f"<table><tr><td>{SLUG}</td><td>6</td></tr></table>",
        f"replay/home/{SLUG}/buffer.json": json.dumps({"text": WORDS}),
        "replay/home/ann/buffer.json": json.dumps({"text": "turn on the light"}),
    }.items():
        path = private / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    [mine, *_] = utterances_of("home", SLUG, 1, 1)
    (private / "examples").mkdir()
    (private / "examples" / f"{mine.utterance}.flac").write_bytes(mine.audio)
    (private / "examples" / "unnamed.flac").write_bytes(mine.audio)
    chunk = private / "incoming" / "home" / "chunks" / "0123"
    chunk.mkdir(parents=True)
    shards = [path for path in sorted(project.cohort("home").glob("shard-*.tar")) if SLUG.encode() in path.read_bytes()]
    shutil.copy(shards[0], chunk / "shard-00000.tar")
    (project.labels("home").parent / ".home.parquet.x9.part").write_bytes(b"PAR1" + SLUG.encode())
    shipped = world.folder / "xdg" / "edgealign" / "shipped" / "abc"
    shipped.mkdir(parents=True)
    shutil.copy(shards[0], shipped / "shard.tar")


def build(world: World) -> None:
    project = world.project
    project.root.mkdir(parents=True)
    params(project)
    shutil.copy(ROOT / "dvc.yaml", project.root)
    (project.root / ".gitignore").write_text(".edgealign/\n", encoding="utf-8")
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")
    world.run("git", "init", "--quiet")
    world.dvc("init", "--quiet")
    world.dvc("remote", "add", "--default", "store", "../remote")
    write_models(project)
    for take in (0, 1):  # an older version of everything, pushed and committed; then today's
        for cohort in COHORTS:
            write_cohort(project, cohort, take)
        for cohort in COHORTS:
            write_artifacts(project, cohort)
        (project.root / "artifacts" / "base_inputs.json").write_text("{}\n", encoding="utf-8")
        report(world)
        world.dvc("add", "--quiet", "data")
        world.dvc("commit", "--quiet", "--force")
        world.dvc("push", "--quiet")
        world.run("git", "add", "--all")
        world.run(*git, "commit", "--quiet", "-m", f"version {take}")
    assert world.dvc("status").strip() == "Data and pipelines are up to date."
    program = "import sys; from tests.integration.test_forget import *; record_runs(World(Path(sys.argv[1])))"
    world.run(sys.executable, "-c", program, str(world.folder))
    leave_things(world)


def report(world: World) -> None:
    from pipeline.runs.common import Context
    from pipeline.runs.report import read_results
    from stages.report import write_report

    cohorts, base = read_results(Context.open(world.project.root))
    write_report(cohorts, base, world.project.summary, world.project.plots)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Traces, Path]:
    """The world as it was built, in a copy; MLflow keeps absolute paths, so it is always put back to the same place."""
    folder = tmp_path_factory.mktemp("forget")
    world = World(folder / "world")
    build(world)
    copy = folder / "saved"
    shutil.copytree(world.folder, copy, symlinks=True)
    return world, traces_of(world.project), copy


def put_back(world: World, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(world.folder)
    shutil.copytree(copy, world.folder, symlinks=True)
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def world(saved: tuple[World, Traces, Path], monkeypatch: pytest.MonkeyPatch) -> World:
    """The world with everybody in it."""
    put_back(saved[0], saved[2], monkeypatch)
    return saved[0]


@pytest.fixture(scope="module")
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


FORGET = """
import json, sys
from pathlib import Path
from pipeline.cohorts.erasure import forget, sqlite_store
from pipeline.project import Project
from stages.errors import EdgealignError

folder, user, options, answer, broken = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4], sys.argv[5]
if broken:
    setattr(sqlite_store, broken, lambda *arguments: None)
said = []
try:
    done = forget.forget_user(Project(Path(folder)), user, confirm=lambda q: answer == "yes", tell=said.append, **options)
except EdgealignError as error:
    sys.exit(str(error))
print(json.dumps({"erasure": done.erasure, "found": done.found, "left": done.left, "said": said}))
"""


@dataclass(frozen=True)
class Outcome:
    erasure: str | None
    found: list[str]
    left: list[str]
    said: list[str]


def forget(world: World, user: str = CALLED, *, answer: str = "yes", broken: str = "", **options: Any) -> Outcome:
    """In a process of its own: MLflow keeps a file open that a test before has put another one in place of."""
    arguments = (str(world.project.root), user, json.dumps(options), answer, broken)
    done = world.run(sys.executable, "-c", FORGET, *arguments)
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def others(world: World) -> dict[str, dict[str, Any]]:
    """{cohort: {utterance: features and audio hash}} of everybody else."""
    from stages.schema import FEATURES, read_table
    from stages.shards import iter_shard, list_shards

    found: dict[str, dict[str, Any]] = {}
    for cohort in ("home", "far"):
        rows: dict[str, Any] = {}
        for path in world.project.features(cohort).glob("shard-*.parquet"):
            rows |= {row["utterance"]: row for row in read_table(path, FEATURES).to_pylist()}
        for shard in list_shards(world.project.cohort(cohort)):
            for item in iter_shard(shard):
                assert item.problem is None
                if item.user != SLUG:
                    found.setdefault(cohort, {})[item.utterance] = (item, shard.name, rows[item.utterance])
    return found


def pending(world: World) -> list[Path]:
    """Shards that the features and transcripts stages would compute."""
    from pipeline.runs.common import pending_shards
    from stages.shards import list_shards

    todo = []
    for cohort in ("home", "far"):
        shards = list_shards(world.project.cohort(cohort))
        features = {shard: feature_key(world.project, sha256_file(shard)) for shard in shards}
        heard = {shard: transcript_key(world.project, sha256_file(shard)) for shard in shards}
        todo += pending_shards(world.project.features(cohort), features)
        todo += pending_shards(world.project.transcripts(cohort), heard)
    return todo


def check_forgotten(world: World, traces: Traces, before: dict[str, dict[str, Any]]) -> None:
    assert search(world.folder, traces) == []
    assert others(world) == before
    assert pending(world) == []


def test_every_trace_is_there_before(world: World, traces: Traces) -> None:
    """The search finds what it is meant to find, in every kind of place; or the tests below would show nothing."""
    found = search(world.folder, traces)
    for place in (
        "project/data/",
        "project/artifacts/features/home",
        "project/artifacts/transcripts",
        "project/artifacts/labels",
        "project/artifacts/adapters/base",
        f"project/artifacts/adapters/home/{SLUG}",
        "project/artifacts/evaluations",
        "project/plots",
        "project/.dvc/cache/files/md5",
        "remote/files/md5",
        "project/.edgealign/mlflow/mlflow.db",
        "project/.edgealign/mlflow/artifacts",
        "project/.edgealign/spool",
        "project/.edgealign/quarantine",
        "project/.edgealign/replay",
        "project/.edgealign/incoming",
        "project/.edgealign/examples",
        "xdg/",
        "site/",
    ):
        assert any(item.startswith(place) for item in found), place
    assert not any(item.startswith("project/.git/") for item in found), "git must never learn a name"


def test_nothing_is_left_of_the_person_and_everything_of_the_others(
    forgotten: World, traces: Traces, after: tuple[dict[str, Any], Outcome, Path]
) -> None:
    before, result, _ = after
    assert result.left == [], result.said
    assert result.found
    check_forgotten(forgotten, traces, before)
    project = forgotten.project
    settings = load_settings(project.root)
    assert (settings.cohorts, settings.personal_cohorts) == (["home", "far"], ["home", "far"])
    quarantine = (project.private / "quarantine" / "home.csv").read_text(encoding="utf-8")
    assert quarantine == "item,reason\nann/9.wav,silent\n"
    assert (project.private / "replay" / "home" / "ann" / "buffer.json").is_file()
    assert "zebulon" in (project.llm / "tokenizer.json").read_text(encoding="utf-8")
    evaluation = json.loads(project.evaluation("home").read_text(encoding="utf-8"))
    assert sorted(evaluation["users"]) == ["ann", "bob", "zoe"]
    assert "ann" in (project.plots / "report.html").read_text(encoding="utf-8")


def test_dvc_computes_nothing_of_the_others_again(forgotten: World) -> None:
    status = json.loads(forgotten.dvc("status", "--json"))
    # base_inputs finds out that recordings of the base went, so that `dvc repro` trains it again; the report has a cohort less
    assert set(status) == {"base_inputs", "report"}
    assert forgotten.dvc("status", "--cloud").strip().endswith("in sync.")


def test_a_second_clone_gets_the_others(
    forgotten: World, traces: Traces, after: tuple[dict[str, Any], Outcome, Path]
) -> None:
    forgotten.run("git", "add", "--all")
    user = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    forgotten.run("git", *user, "commit", "--quiet", "-m", "One user less")
    clone = World(forgotten.folder / "second")
    clone.folder.mkdir()
    forgotten.run("git", "clone", "--quiet", str(forgotten.project.root), str(clone.project.root))
    store = str(forgotten.folder / "remote")
    forgotten.dvc("remote", "modify", "--local", "store", "url", store, cwd=clone.project.root)
    forgotten.dvc("pull", "--quiet", cwd=clone.project.root)
    assert others(clone) == after[0]
    assert search(clone.folder, traces) == []


def test_another_clone_is_cleaned_by_the_same_command(world: World, traces: Traces) -> None:
    """Its cache has the old objects; what was erased once has one proof, or two clones would disagree about data.dvc."""
    clone = World(world.folder / "second")
    clone.folder.mkdir()
    world.run("git", "clone", "--quiet", str(world.project.root), str(clone.project.root))
    store = str(world.folder / "remote")
    clone.dvc("remote", "modify", "--local", "store", "url", store)
    clone.dvc("pull", "--quiet")
    first = forget(world)
    world.run("git", "add", "--all")
    world.run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "One user less")
    clone.run("git", "pull", "--quiet")
    assert search(clone.folder, traces)
    with pytest.raises(AssertionError, match=r"data/ is not what data\.dvc says"):
        forget(clone)
    clone.dvc("pull", "--quiet", "--force")
    again = forget(clone)
    assert (again.left, again.erasure) == ([], first.erasure)
    assert search(clone.folder, traces) == []
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_the_proof_tells_what_was_done_and_nobodys_name(
    forgotten: World, after: tuple[dict[str, Any], Outcome, Path]
) -> None:
    from pipeline.cohorts.erasure.tombstones import erased_recordings, retrain_notice

    project = forgotten.project
    [proof] = (project.root / "data" / "erasures").glob("*.json")
    content = json.loads(proof.read_text(encoding="utf-8"))
    assert proof.stem == after[1].erasure
    assert content["verification"]["places_left"] == 0
    assert content["erased"]["recordings"] == 28  # 14 today, 14 in the older version
    assert content["objects"]
    assert content["runs"]
    refused = erased_recordings(project)
    for cohort, users in COHORTS.items():
        for take in (0, 1):
            for item in utterances_of(cohort, SLUG, users[SLUG], take):
                assert refused[item.source_sha256] == after[1].erasure
                assert refused[item.audio_sha256] == after[1].erasure
        for user in set(users) - {SLUG}:
            assert not refused.keys() & {item.source_sha256 for item in utterances_of(cohort, user, users[user], 1)}
    notice = retrain_notice(project)
    assert [line.partition(":")[0] for line in notice] == ["base", "far/carol", "home/ann", "home/bob", "home/zoe"]
    base = sha256_file(project.base_adapter / "adapter.safetensors")
    assert {"sha256": base, "kind": "base"} in content["retrain"]


LOOK = """
import json, sys
from pathlib import Path
from mlflow import MlflowClient

client = MlflowClient(tracking_uri=sys.argv[1])
experiment = client.get_experiment_by_name("edgealign").experiment_id
found = {"runs": [], "models": [model.name for model in client.search_registered_models()]}
for run in client.search_runs([experiment], max_results=200):
    losses = len(client.get_metric_history(run.info.run_id, "loss"))
    files = {}
    for folder in ("adapter", "metrics", "report"):
        for item in client.list_artifacts(run.info.run_id, folder):
            files[item.path] = Path(client.download_artifacts(run.info.run_id, item.path)).read_text(errors="replace")
    found["runs"].append({"tags": run.data.tags, "losses": losses, "files": files})
print(json.dumps(found))
"""


def runs_of(world: World, uri: str | None = None) -> dict[str, Any]:
    uri = uri or f"sqlite:///{world.project.private}/mlflow/mlflow.db"
    return json.loads(world.run(sys.executable, "-c", LOOK, uri).stdout.splitlines()[-1])


def test_mlflow_keeps_the_others_and_marks_what_learned_from_the_person(forgotten: World) -> None:
    found = runs_of(forgotten)
    users = {(run["tags"]["cohort"], run["tags"]["user"]): run for run in found["runs"] if run["tags"].get("user")}
    assert sorted(users) == [("far", "carol"), ("home", "ann"), ("home", "bob"), ("home", "zoe")]
    ann = users["home", "ann"]
    assert ann["tags"]["retrain"].startswith("erasure ")
    assert ann["losses"] == 50
    assert set(ann["files"]) == {"adapter/adapter.json", "adapter/adapter.safetensors"}
    [base] = [run for run in found["runs"] if run["tags"]["stage"] == "base"]
    assert base["tags"]["retrain"].startswith("erasure ")
    names = json.loads(base["files"]["adapter/adapter.json"])["train_utterances"]
    assert sum(name.startswith(("ann-", "bob-", "zoe-")) for name in names) == len(names) > 8
    assert found["models"] == ["edgealign.home.ann"]


def test_a_dry_run_and_a_refusal_change_nothing(world: World) -> None:
    from tests.helpers_cohorts import hashes

    def state() -> dict[str, str]:
        skip = ("db-wal", "db-shm", ".lock")
        folders = (world.project.root, world.folder / "remote")
        found = {f"{folder.name}/{name}": digest for folder in folders for name, digest in hashes(folder).items()}
        return {name: digest for name, digest in found.items() if not name.endswith(skip) and "/.dvc/tmp/" not in name}

    before = state()
    planned = forget(world, dry_run=True)
    assert planned.erasure is None
    assert any("remote" in place for place in planned.found)
    assert "nothing was erased" in forget(world, SLUG, answer="no").said
    assert state() == before


def test_one_cohort_can_be_meant(world: World) -> None:
    from stages.shards import iter_shard, list_shards

    def users(cohort: str) -> set[str]:
        return {item.user for shard in list_shards(world.project.cohort(cohort)) for item in iter_shard(shard)}

    result = forget(world, cohort="far")
    assert result.left == []
    assert users("far") == {"carol"}
    assert SLUG in users("home")
    assert (world.project.adapters("home") / SLUG / "adapter.json").is_file()
    assert not (world.project.adapters("far") / SLUG).exists()
    world.dvc("push", "--quiet")
    assert world.dvc("status", "--cloud").strip().endswith("in sync.")


def test_a_name_that_nobody_has_is_told(world: World) -> None:
    with pytest.raises(AssertionError, match=r"nobody-here.*in no cohort"):
        forget(world, "nobody-here")


SERVED = """
import sys
from tests.integration.test_forget import *

world, uri = World(Path(sys.argv[1])), sys.argv[2]
tracker = Tracker(world.project, Tracking(uri=uri))
with tracker.run("personalize", cohort="home") as run:
    for user in (SLUG, "ann"):
        with run.child("personalize", user=user, key=user) as child:
            child.dataset(f"home/{user}", "0" * 32, "home")
            child.adapter(world.project.adapters("home") / user, f"home/{user}")
with tracker.run("evaluate", cohort="home") as run:
    run.artifact(world.project.evaluation("home"), "metrics")
assert not tracker.spool.waiting()
"""


def test_a_server_is_cleaned_as_far_as_that_goes_and_its_operator_is_told(world: World, traces: Traces) -> None:
    project, port = world.project, free_port()
    for name in ("mlflow", "spool"):
        shutil.rmtree(project.private / name)
    (world.folder / "operator").mkdir()
    with server(world.folder / "operator", port) as uri:
        world.run(sys.executable, "-c", SERVED, str(world.folder), uri)
        path = project.root / "params.yaml"
        path.write_text(path.read_text(encoding="utf-8").replace("uri: ''", f"uri: {uri}"), encoding="utf-8")
        result = forget(world)
        assert result.left == []
        found = runs_of(world, uri)
        assert [run["tags"]["user"] for run in found["runs"] if run["tags"].get("user")] == ["ann"]
        [told] = [line for line in result.said if "mlflow gc" in line]
        files = world.folder / "operator" / "server"
        assert search(files / "artifacts", traces) == []
        assert search(files, traces)  # until its operator does what was told
        command = told.split("`")[1].replace("<the server's store>", f"sqlite:///{files}/mlflow.db")
        environment = {"MLFLOW_TRACKING_URI": uri}
        subprocess.run([sys.executable, "-m", *command.split()], env={**os.environ, **environment}, cwd="/", check=True)
    program = "import sys; from pipeline.cohorts.erasure.sqlite_store import *; scrub(Path(sys.argv[1]))"
    world.run(sys.executable, "-c", program, str(files / "mlflow.db"))
    assert search(world.folder, traces) == []


def test_what_was_never_computed_does_not_pass_for_done(world: World, traces: Traces) -> None:
    """A cohort that got more recordings, and was not computed since: its new shard is computed by the next `dvc repro`."""
    append(world.project, "far", "carol")
    world.dvc("add", "--quiet", "data")
    assert forget(world).left == []
    assert search(world.folder, traces) == []
    behind = {name for name in json.loads(world.dvc("status", "--json")) if name.endswith("@far")}
    assert behind >= {"features@far", "pseudo_labels@far"}
    assert {shard.name for shard in pending(world)} == {"shard-00003.tar"}


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.cohorts.erasure import forget, versions, tracking, artifacts, data, private, proof, sqlite_store
from pipeline.project import Project
import stages.atomic

module, name, count, when = sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
owner = sys.modules[f"pipeline.cohorts.erasure.{module}"]
plain = getattr(owner, name)
calls = 0

def deadly(*arguments, **named):
    global calls
    calls += 1
    if calls == count and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = plain(*arguments, **named)
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, deadly)
forget.forget_user(Project(Path(sys.argv[1])), "Zebulon Quux", confirm=lambda question: True)
"""


@pytest.mark.parametrize(
    ("module", "name", "count", "when"),
    [
        ("data", "write_bytes", 2, "after"),  # in the middle of a cohort's shards
        ("versions", "record", 1, "before"),  # all files rewritten, DVC knows nothing yet
        ("versions", "unlock_broken", 1, "before"),  # the objects are deleted
        ("sqlite_store", "collect", 1, "after"),  # runs are deleted, their inputs and free pages are not
        ("proof", "git_mentions", 1, "before"),  # everything is erased, nothing verified
    ],
)
def test_killed_at_any_moment_it_goes_on(
    world: World, traces: Traces, module: str, name: str, count: int, when: str
) -> None:
    before = others(world)
    if module != "sqlite_store":  # MLflow takes most of the time, and has no part in these
        shutil.rmtree(world.project.private / "mlflow")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(world.project.root), module, name, str(count), when],
        env={**os.environ, **world.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stdout[-2000:] + killed.stderr[-3000:]
    assert forget(world).left == []
    check_forgotten(world, traces, before)
    assert set(json.loads(world.dvc("status", "--json"))) == {"base_inputs", "report"}


def test_a_place_that_cannot_be_cleaned_is_told_and_not_passed_over(world: World, traces: Traces) -> None:
    """Without VACUUM the free pages of MLflow's file keep what was deleted: the verification must see that."""
    result = forget(world, broken="scrub")
    assert any("mlflow.db" in place for place in result.left)
    assert any("mlflow.db" in item for item in search(world.folder, traces))
    assert forget(world).left == []
    assert search(world.folder, traces) == []
