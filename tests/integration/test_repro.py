"""A whole project through `dvc repro`: real DVC, real Ray, real models, real MLflow, from recordings to the summary.

Small on purpose (a few speakers, two epochs): it shows that every stage runs on the one before and that only what is new is
computed. How good the results are is measured by the benchmarks.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
AN4 = Path(os.environ.get("EDGEALIGN_AN4") or ROOT.parent / "shared" / "data" / "an4")

pytestmark = [pytest.mark.integration, pytest.mark.models, pytest.mark.timeout(1500)]

SENTENCES = (
    "turn on the kitchen light",
    "set a timer for ten minutes",
    "four one two seven",
    "what is the weather today",
    "j o h n s o n",
    "enter f six three",
    "call my sister now",
    "september fourteenth",
    "stop",
    "play some music",
    "erase q e j",
    "nineteen eighty two",
)


class Checkout:
    """A project folder outside the checkout, with this checkout's code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "dvc.yaml", folder)
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params |= {"cohorts": [], "base_cohorts": [], "personal_cohorts": []}
        params["pseudo_labels"]["untold_only"] = []
        params["pseudo_labels"]["beam_size"] = 1
        params["base"] |= {"epochs": 2, "dev_users": 0.2}
        params["alignment"] |= {"width": 128, "layers": 1}
        params["personalize"] |= {"steps": 5, "train_utterances": 4}
        params["evaluate"] |= {"llm_utterances": 1, "max_new_tokens": 8}
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        (folder / ".gitignore").write_text(".edgealign/\n", encoding="utf-8")
        self.run("git", "init", "--quiet")
        self.run(sys.executable, "-m", "dvc", "init", "--quiet")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=1200, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: status {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}")
        return done

    def edgealign(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "pipeline", *arguments, check=check)

    def repro(self) -> list[str]:
        """`dvc repro`; the names of the stages that ran. What they said is in ``said``."""
        done = self.run(sys.executable, "-m", "dvc", "repro")
        self.said = done.stdout + done.stderr
        return re.findall(r"^Running stage '([^']+)'", done.stdout, re.MULTILINE)

    def commit(self) -> None:
        """A commit of what is staged."""
        self.run("git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", "all")

    def json(self, path: str) -> dict:
        return json.loads((self.folder / path).read_text(encoding="utf-8"))

    def summary(self) -> dict:
        """What `edgealign show` prints: the figures of every user."""
        from pipeline.runs.common import Context
        from pipeline.runs.report import read_results
        from stages.report import summarise

        return summarise(*read_results(Context.open(self.folder)))


def speak(folder: Path, voices: dict[str, str], sentences: tuple[str, ...]) -> Path:
    """Recordings of voices as WAV files and their CSV."""
    import soundfile

    from pipeline.cohorts.espeak import Speaker, Voice

    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    speaker = Speaker()
    for user, voice in voices.items():
        speaker.use(Voice(voice, 160))
        for place, sentence in enumerate(sentences):
            name = f"{user}-{place:02d}.wav"
            soundfile.write(folder / name, speaker.speak(f"<speak>{sentence}</speak>"), speaker.rate_hz)
            rows.append((name, user, sentence))
    with (folder / "transcripts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "user", "text"), *rows])
    return folder / "transcripts.csv"


@pytest.fixture(scope="module")
def spoken_project(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A cohort of five voices that trains the base as well, and one user with too few recordings."""
    import soundfile

    project = Checkout(tmp_path_factory.mktemp("repro") / "project")
    voices = {"ann": "en-us+f2", "bob": "en+m3", "cid": "en-us+m1", "dot": "en-gb-scotland+f4", "eve": "en-029+f1"}
    table = speak(project.folder.parent / "recordings", voices, SENTENCES)
    # one more user, with one recording: too few for an adapter
    with table.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(("lone.wav", "lone", "stop"))
    samples, rate_hz = soundfile.read(table.parent / "ann-08.wav")
    soundfile.write(table.parent / "lone.wav", 0.8 * samples, rate_hz)  # the very same bytes would be set aside
    project.edgealign("cohort", "add", "home", "--audio", str(table.parent), "--transcripts", str(table), "--base")
    return project


def test_every_stage_runs_and_the_summary_has_its_metrics(spoken_project: Checkout) -> None:
    ran = spoken_project.repro()
    steps = [
        "features@home",
        "pseudo_labels@home",
        "base_inputs",
        "base",
        "personalize@home",
        "evaluate@home",
        "report",
    ]
    assert set(ran) == {"models", *steps}
    summary = spoken_project.summary()
    user = summary["cohorts"]["home"]["users"]["ann"]
    names = "wer cer base_wer cascade_wer llm_wer response_agreement response_kl train_seconds utterances"
    for name in [*names.split(), "trainable_parameters", "adapter_bytes", "peak_rss_bytes"]:
        assert isinstance(user[name], (int, float)), name
    assert user["device_kind"] == "virtual"
    assert user["adapter_bytes"] < 100_000
    assert "1 labelled utterance" in summary["cohorts"]["home"]["skipped"]["lone"]
    assert "ann" in (spoken_project.folder / "plots" / "report.html").read_text(encoding="utf-8")


def test_git_learns_the_figures_and_no_users_name(spoken_project: Checkout) -> None:
    """Git never forgets: what it tracks must not say who a user is, or nobody could be erased."""
    spoken_project.run("git", "add", "--all")
    tracked = spoken_project.run("git", "ls-files").stdout.split()
    assert {"metrics/home.json", "metrics/summary.json", "dvc.lock", "data.dvc", "params.yaml"} <= set(tracked)
    told = {name: (spoken_project.folder / name).read_text(encoding="utf-8") for name in tracked}
    users = ("ann", "bob", "cid", "dot", "eve", "lone")
    assert [(name, user) for name, text in told.items() for user in users if re.search(rf"\b{user}\b", text)] == []
    assert spoken_project.json("metrics/home.json")["all"]["users"] == 5
    shown = spoken_project.edgealign("show")
    assert "ann" in shown.stdout
    assert "lone" in shown.stdout


def test_nothing_runs_again_when_nothing_changed(spoken_project: Checkout) -> None:
    assert spoken_project.repro() == []


def test_every_run_is_in_mlflow_with_its_lineage(spoken_project: Checkout) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{spoken_project.folder}/.edgealign/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("edgealign")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=500)
    stages = {run.data.tags.get("stage") for run in runs}
    assert {"models", "features", "pseudo_labels", "base", "personalize", "evaluate", "report"} <= stages
    assert {run.info.status for run in runs} == {"FINISHED"}
    [ann] = [r for r in runs if r.data.tags.get("user") == "ann" and r.data.tags["stage"] == "personalize"]
    assert ann.data.tags["device_kind"] == "virtual"
    assert len(ann.data.tags["data_md5"]) > 30
    assert {item.path for item in client.list_artifacts(ann.info.run_id, "adapter")} == {
        *(f"adapter/{name}" for name in ("adapter.json", "adapter.safetensors", "MLmodel", "model_code.py")),
        *(f"adapter/{name}" for name in ("code.zip", "requirements.txt", "input_example.json")),
    }
    assert len(client.get_metric_history(ann.info.run_id, "loss")) == 5


def test_adapters_are_promoted_by_the_rule(spoken_project: Checkout) -> None:
    """Two epochs on five voices may give no adapter that helps: what the rule takes is champion, what it refuses is not."""

    def listed() -> dict[str, dict]:
        return {one["user"]: one for one in json.loads(spoken_project.edgealign("adapters", "list", "--json").stdout)}

    before = listed()
    assert set(before) == {"ann", "bob", "cid", "dot", "eve"}
    better = {user for user, one in before.items() if (one["wer"], one["cer"]) < (one["base_wer"], one["base_cer"])}
    better -= {user for user, one in before.items() if "guard" in one["broken"]}
    assert {user for user, one in before.items() if one["may_be_promoted"]} == better
    assert {name for one in before.values() for name in one["broken"]} <= {"better", "guard"}
    done = spoken_project.edgealign("adapters", "promote", "--all", "home", check=False)
    assert done.returncode == (0 if better else 1)
    assert f"{len(better)} of 5 adapters are champions." in done.stdout
    assert {user for user, one in listed().items() if one["champion"]} == better


def test_the_lineage_of_every_adapter_is_complete(spoken_project: Checkout) -> None:
    told = json.loads(spoken_project.edgealign("adapters", "why", "--all", "--json").stdout)
    assert [one["adapter"] for one in told] == [
        "base",
        *(f"home/{user}" for user in ("ann", "bob", "cid", "dot", "eve")),
    ]
    assert [one["problems"] for one in told if not one["complete"]] == []
    audio = {row["audio_sha256"] for one in told[1:] for row in one["recordings"]}
    index = pq.read_table(spoken_project.folder / "data" / "cohorts" / "home" / "index-00000.parquet")
    assert audio <= set(index.column("audio_sha256").to_pylist())
    assert len(audio) >= 5 * len(SENTENCES) // 2
    assert sum(told[0]["recordings"]["by_cohort"].values()) > 0


def test_an_adapter_answers(spoken_project: Checkout) -> None:
    recording = spoken_project.folder.parent / "recordings" / "ann-00.wav"
    heard = spoken_project.edgealign("transcribe", str(recording), "--user", "ann")
    assert heard.stdout.startswith("home/ann heard:")
    reply = spoken_project.edgealign("ask", str(recording), "--user", "home/ann", "--max-new-tokens", "4", check=False)
    # two epochs on five voices may hear nothing at all; then it says so instead of asking the LLM about nothing
    assert "reply:" in reply.stdout or "heard no word" in reply.stderr
    unknown = spoken_project.edgealign("transcribe", str(recording), "--user", "zoe", check=False)
    assert unknown.returncode == 1
    assert "home/ann" in unknown.stderr


def runs_of(project: Checkout, query: str) -> list[Any]:
    """Runs of the project's store that MLflow's search language finds."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project.folder}/.edgealign/mlflow/mlflow.db")
    [experiment] = client.search_experiments(filter_string="name = 'edgealign'")
    return list(client.search_runs([experiment.experiment_id], query, max_results=500))


def numbers(values: dict) -> dict[str, float]:
    """The known figures of one level."""
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def known(values: dict) -> dict:
    """Without what is unknown: `dvc metrics` and MLflow leave that out."""
    found = {name: known(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def check_that_all_tell_the_same(project: Checkout, whole: Any) -> None:
    """``metrics/``, `dvc metrics show` and the run of a whole repro (with what is below it) agree in every figure."""
    summary = project.json("metrics/summary.json")
    shown = json.loads(project.run(sys.executable, "-m", "dvc", "metrics", "show", "--json").stdout)
    [there] = shown.values()
    assert there["data"]["metrics/summary.json"]["data"] == known(summary)
    overall = numbers(summary["overall"])
    wanted = "wer cer cascade_wer train_seconds utterances trainable_parameters adapter_bytes peak_rss_bytes"
    assert {*wanted.split(), "bytes_exchanged"} <= overall.keys()
    of_cohorts = {
        f"{cohort}.{name}": value
        for cohort, part in summary["cohorts"].items()
        for name, value in numbers(part["all"]).items()
    }
    assert whole.data.metrics == {**overall, **of_cohorts}
    [report] = runs_of(project, f"tags.mlflow.parentRunId = '{whole.info.run_id}' and tags.stage = 'report'")
    assert overall.items() <= report.data.metrics.items()
    users = project.summary()["cohorts"]
    for cohort in summary["cohorts"]:
        figures = project.json(f"metrics/{cohort}.json")
        assert there["data"][f"metrics/{cohort}.json"]["data"] == known(figures)
        together = summary["cohorts"][cohort]["all"]
        assert {name: together.get(name, value) for name, value in figures["all"].items()} == figures["all"]
        below = (
            f"tags.mlflow.parentRunId = '{whole.info.run_id}' and tags.stage = 'evaluate' and tags.cohort = '{cohort}'"
        )
        [stage] = runs_of(project, below)
        assert numbers(figures["all"]).items() <= stage.data.metrics.items()
        judged = runs_of(project, f"tags.mlflow.parentRunId = '{stage.info.run_id}'")
        assert {run.data.tags["user"] for run in judged} == set(users[cohort]["users"])
        for run in judged:
            told = numbers(users[cohort]["users"][run.data.tags["user"]])
            assert told == {name: run.data.metrics.get(name) for name in told}, run.info.run_name


def test_dvc_and_mlflow_tell_the_same_figures(spoken_project: Checkout) -> None:
    [whole] = [run for run in runs_of(spoken_project, "tags.stage = 'repro'") if "wer" in run.data.metrics]
    check_that_all_tell_the_same(spoken_project, whole)
    # what only the LLM can tell
    assert {"llm_wer", "response_agreement", "response_kl"} <= whole.data.metrics.keys()


def test_two_experiments_are_two_runs_that_compare(spoken_project: Checkout) -> None:
    """One in the workspace, one in a copy of it that DVC removes; without the LLM, which would only cost time."""
    dvc = (sys.executable, "-m", "dvc")
    spoken_project.run("git", "add", "--all")
    spoken_project.commit()
    setting = ("-S", "evaluate.llm_utterances=0", "-S")
    spoken_project.run(*dvc, "exp", "run", "--name", "sparse", *setting, "personalize.density=0.02")
    [sparse] = runs_of(spoken_project, "tags.dvc_experiment = 'sparse' and tags.stage = 'repro'")
    check_that_all_tell_the_same(spoken_project, sparse)  # the workspace holds what this one found
    spoken_project.run(*dvc, "exp", "run", "--temp", "--name", "dense", *setting, "personalize.density=0.03")
    [dense] = runs_of(spoken_project, "tags.dvc_experiment = 'dense' and tags.stage = 'repro'")
    differ = {name for name in dense.data.params if dense.data.params[name] != sparse.data.params[name]}
    assert differ == {"personalize.density"}
    assert sparse.data.params.keys() == dense.data.params.keys()
    assert (sparse.data.params["personalize.density"], dense.data.params["personalize.density"]) == ("0.02", "0.03")
    assert sparse.data.metrics.keys() == dense.data.metrics.keys() >= {"wer", "home.wer", "trainable_parameters"}
    assert sparse.data.metrics["trainable_parameters"] < dense.data.metrics["trainable_parameters"]
    baseline = spoken_project.run("git", "rev-parse", "HEAD").stdout.strip()
    for run, density in ((sparse, "0.02"), (dense, "0.03")):
        assert run.info.run_name == f"dvc exp {run.data.tags['dvc_experiment']}"
        assert run.info.status == "FINISHED"
        assert f"personalize.density: 0.01 → {density}" in run.data.tags["params_changed"]
        assert run.data.tags["dvc_baseline"] == baseline
        below = runs_of(spoken_project, f"tags.mlflow.parentRunId = '{run.info.run_id}'")
        assert {one.data.tags["stage"] for one in below} == {"personalize", "evaluate", "report"}
    shown = json.loads(spoken_project.run(*dvc, "exp", "show", "--json").stdout)
    assert "dense" in json.dumps(shown)


def test_another_cohort_runs_just_its_own_stages(spoken_project: Checkout) -> None:
    table = speak(spoken_project.folder.parent / "more", {"fay": "en-us+f5"}, SENTENCES)
    # a recording that is no audio is set aside, the others go in
    (table.parent / "broken.wav").write_text("not audio")
    with table.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(("broken.wav", "fay", "stop"))
    added = spoken_project.edgealign("cohort", "add", "away", "--audio", str(table.parent), "--transcripts", str(table))
    assert "broken.wav" in added.stdout + added.stderr
    before = (spoken_project.folder / "artifacts" / "adapters" / "base" / "adapter.json").read_bytes()
    ran = spoken_project.repro()
    own = {f"{stage}@away" for stage in ("features", "pseudo_labels", "personalize", "evaluate")}
    assert own | {"base_inputs", "report"} == set(ran)
    assert (spoken_project.folder / "artifacts" / "adapters" / "base" / "adapter.json").read_bytes() == before
    assert set(spoken_project.json("metrics/summary.json")["cohorts"]) == {"home", "away"}


def test_append_computes_only_the_new_shards_and_the_user_who_changed(spoken_project: Checkout) -> None:
    """The work is counted, not the time: what each stage says it has to do, and which files it left alone."""
    folder = spoken_project.folder
    kept = {
        path: path.stat().st_mtime_ns
        for pattern in ("data/cohorts/away/shard-*.tar", "artifacts/features/away/*", "artifacts/adapters/away/fay/*")
        for path in folder.glob(pattern)
    }
    more = speak(folder.parent / "appended", {"gil": "en-us+m4"}, SENTENCES[:8])
    spoken_project.edgealign("cohort", "append", "away", "--audio", str(more.parent))
    ran = spoken_project.repro()
    own = {f"{stage}@away" for stage in ("features", "pseudo_labels", "personalize", "evaluate")}
    assert own | {"base_inputs", "report"} == set(ran)
    for line in (
        "features@away: 1 of 2 shard(s) to do",
        "pseudo_labels@away: 1 of 2 shard(s) to transcribe",
        "personalize@away: 1 of 2 user(s) to train",
        "evaluate@away: 1 of 2 user(s) to judge",
    ):
        assert line in spoken_project.said
    assert len(kept) >= 4
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    # the same recordings once more: nothing is new, so nothing runs
    again = spoken_project.edgealign("cohort", "append", "away", "--audio", str(more.parent))
    assert "nothing new" in again.stdout
    assert spoken_project.repro() == []


def test_a_second_clone_pulls_everything_and_computes_nothing(spoken_project: Checkout) -> None:
    dvc = (sys.executable, "-m", "dvc")
    store = spoken_project.folder.parent / "store"
    spoken_project.run(*dvc, "remote", "add", "--default", "store", str(store))
    spoken_project.run("git", "add", "--all")
    spoken_project.commit()
    spoken_project.run(*dvc, "push")
    other = Checkout.__new__(Checkout)
    other.folder = spoken_project.folder.parent / "clone"
    spoken_project.run("git", "clone", "--quiet", str(spoken_project.folder), str(other.folder))
    other.run(*dvc, "pull")
    assert other.repro() == []
    assert "up to date" in other.run(*dvc, "status").stdout
    recording = spoken_project.folder.parent / "recordings" / "ann-00.wav"
    assert other.edgealign("transcribe", str(recording), "--user", "ann").stdout.startswith("home/ann heard:")


def test_an_unreadable_shard_is_one_message_that_names_it(spoken_project: Checkout) -> None:
    shard = spoken_project.folder / "data" / "cohorts" / "away" / "shard-00000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(b"no tar" * 1000)
    try:
        done = spoken_project.edgealign("stage", "features", "away", check=False)
    finally:
        shard.write_bytes(whole)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.index("error:") :]
    assert shard.name in message
    assert "--replace" in message
    assert [path.name for path in (spoken_project.folder / "artifacts" / "features" / "away").glob("*.parquet")] == [
        "shard-00001.parquet"
    ]


def test_no_process_of_a_repro_is_left(spoken_project: Checkout) -> None:
    import time

    import psutil

    def left() -> list[str]:
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            environment = process.info["environ"] or {}
            if environment.get("PWD") == str(spoken_project.folder):
                found.append(" ".join(process.info["cmdline"] or []))
        return found

    deadline = time.monotonic() + 60
    while left() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left() == []


@pytest.mark.an4
@pytest.mark.skipif(not (AN4 / "transcripts.csv").is_file(), reason=f"AN4 is not in {AN4}; set EDGEALIGN_AN4")
def test_an4_goes_in_and_through_every_stage(tmp_path: Path) -> None:
    """Eight people of AN4: six train the base and all eight are personalised."""
    project = Checkout(tmp_path / "project")
    with (AN4 / "transcripts.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    users = sorted({row["user"] for row in rows})[:8]
    table = tmp_path / "transcripts.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("file", "user", "text"))
        writer.writeheader()
        writer.writerows({**row, "file": row["file"].removeprefix("audio/")} for row in rows if row["user"] in users)
    audio = str(AN4 / "audio")
    project.edgealign("cohort", "add", "an4", "--audio", audio, "--transcripts", str(table), "--base")
    project.repro()
    summary = project.summary()
    assert sorted(summary["cohorts"]["an4"]["users"]) == users
    assert summary["overall"]["test_utterances"] > 20
    assert 0.0 <= summary["overall"]["cascade_wer"] < 1.5
