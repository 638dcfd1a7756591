"""A whole project in which somebody is everywhere, for tests of `edgealign cohort forget`: real DVC with a remote and old
versions, real MLflow, and what killed commands leave.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.settings import Tracking
from pipeline.tracking.tracker import Tracker
from stages.atomic import sha256_file
from stages.errors import TrackingError
from tests.helpers_erasure import (
    CALLED,
    COHORTS,
    ROOT,
    SLUG,
    WORDS,
    World,
    feature_key,
    params,
    read_key,
    transcript_key,
    utterances_of,
    write_artifacts,
    write_cohort,
    write_models,
)
from tests.helpers_traces import Traces, search


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
    for user in (SLUG, "ann"):  # they were registered as they were recorded
        client.set_registered_model_alias(f"edgealign.home.{user}", "champion", "1")
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
    private, cohort = project.private, "home"
    for name, text in {
        "quarantine/home.csv": f"item,reason\nline 7: {SLUG}/9.wav,silent\n{SLUG}-99.wav,too short\nann/9.wav,silent\n",
        "check/home.html": f"<table><tr><td>{SLUG}</td><td>6</td></tr></table>",
        f"replay/{cohort}/{SLUG}/buffer.json": json.dumps({"text": WORDS}),
        f"words/{cohort}/{SLUG}.json": json.dumps(["tuuli"]),
        f"words/{cohort}/ann.json": json.dumps(["bjorn"]),
        "words/everyone.json": json.dumps([CALLED.lower(), "ottavia"]),
        f"replay/{cohort}/ann/buffer.json": json.dumps({"text": "turn on the light"}),
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
    for user in (SLUG, "ann"):  # a device of each, on this machine
        buffer = world.folder / "agent" / cohort / user / "replay"
        buffer.mkdir(parents=True)
        (buffer / "1.safetensors").write_bytes(f"{user} said {WORDS if user == SLUG else 'hello'}".encode())
    project.dvc_plots.mkdir()  # as `dvc plots show` leaves it
    page = f'<script>var spec = {{"data": {{"values": [{{"user": "{SLUG}", "personal_wer": "0.1"}}]}}}}</script>'
    (project.dvc_plots / "index.html").write_text(page, encoding="utf-8")
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
    program = "import sys; from tests.helpers_forget import *; record_runs(World(Path(sys.argv[1])))"
    world.run(sys.executable, "-c", program, str(world.folder))
    leave_things(world)


def report(world: World) -> None:
    from pipeline.runs.common import Context
    from pipeline.runs.report import read_results
    from stages.report import write_report

    context = Context.open(world.project.root)
    cohorts, base = read_results(context)
    write_report(cohorts, base, world.project.summary, world.project.plots, context.recordings)


def put_back(world: World, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(world.folder)
    shutil.copytree(copy, world.folder, symlinks=True)
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)


FORGET = """
import json, sys
from pathlib import Path
from pipeline.cohorts.erasure import forget, tracking
from pipeline.project import Project
from stages.errors import EdgealignError

folder, user, options, answer, broken = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4], sys.argv[5]
if broken:
    setattr(tracking, broken, lambda *arguments: None)
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
    """Shards that the features, pseudo_labels and second_labels stages would compute."""
    from pipeline.runs.common import pending_shards
    from stages.shards import list_shards

    todo = []
    for cohort in ("home", "far"):
        shards = list_shards(world.project.cohort(cohort))
        features = {shard: feature_key(world.project, sha256_file(shard)) for shard in shards}
        heard = {shard: transcript_key(world.project, sha256_file(shard)) for shard in shards}
        todo += pending_shards(world.project.features(cohort), features)
        todo += pending_shards(world.project.transcripts(cohort), heard)
        read = {shard: read_key(world.project, shard) for shard in shards}
        todo += pending_shards(world.project.read_outs(cohort), read)
    return todo


def check_forgotten(world: World, traces: Traces, before: dict[str, dict[str, Any]]) -> None:
    left = search(world.folder, traces)
    assert left == [], left[:20]
    assert others(world) == before
    assert pending(world) == []


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
