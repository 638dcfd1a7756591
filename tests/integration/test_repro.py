"""A whole project through `dvc repro`: real DVC, real Ray, real models, real MLflow, from recordings to the summary.

Small on purpose (a few speakers, two epochs): it shows that every stage runs on the one before and that only what is new is
computed. How good the results are is measured by the benchmarks.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.helpers_checkout import SENTENCES, Checkout, check_that_all_tell_the_same, runs_of, speak

OF_A_COHORT = ("features", "pseudo_labels", "second_labels", "personalize", "evaluate")

pytestmark = [pytest.mark.integration, pytest.mark.models, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def spoken_project(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A cohort of five voices that trains the base as well, and one user with too few recordings."""
    import soundfile

    project = Checkout(tmp_path_factory.mktemp("repro") / "project")
    voices = {"ann": "en-us+f2", "bob": "en+m3", "cid": "en-us+m1", "dot": "en-gb-scotland+f4", "eve": "en-029+f1"}
    table = speak(project.folder.parent / "recordings", voices, SENTENCES)
    untold(table, "ann-11.wav")
    # one more user, with one recording: too few for an adapter
    with table.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(("lone.wav", "lone", "stop"))
    samples, rate_hz = soundfile.read(table.parent / "ann-08.wav")
    soundfile.write(table.parent / "lone.wav", 0.8 * samples, rate_hz)  # the very same bytes would be set aside
    project.edgealign("cohort", "add", "home", "--audio", str(table.parent), "--transcripts", str(table), "--base")
    return project


def untold(table: Path, *names: str) -> None:
    """Take the texts of these recordings out of their CSV."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = [(*row[:2], "") if row[0] in names else tuple(row) for row in csv.reader(file)]
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def test_every_stage_runs_and_the_summary_has_its_metrics(spoken_project: Checkout) -> None:
    ran = spoken_project.repro()
    steps = [
        "features@home",
        "pseudo_labels@home",
        "base_inputs",
        "base",
        "second_labels@home",
        "personalize@home",
        "evaluate@home",
        "report",
    ]
    assert set(ran) == {"models", *steps}
    summary = spoken_project.summary()
    user = summary["cohorts"]["home"]["users"]["ann"]
    names = (
        "wer cer base_wer cascade_wer llm_wer response_agreement response_kl llm_utterances train_seconds utterances"
    )
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


def test_two_teachers_heard_what_nobody_transcribed(spoken_project: Checkout) -> None:
    """A base of two epochs hears little: what counts is that it was asked, about that recording alone, and why it said no."""
    artifacts = spoken_project.folder / "artifacts"
    first, second = (
        pq.read_table(artifacts / name / "home.parquet").to_pylist() for name in ("labels", "second_labels")
    )
    [row] = [row for row in second if row["source"] == "pseudo"]
    assert [one["name"].partition("@")[0] for one in row["teachers"]] == ["faster-whisper", "embedlink"]
    assert row["accepted"] or row["reason"].partition(":")[0] in ("unsure", "disputed")
    assert [row for row in second if row["source"] == "human"] == [row for row in first if row["source"] == "human"]
    read = [row for path in (artifacts / "read_outs" / "home").iterdir() for row in pq.read_table(path).to_pylist()]
    assert [one["utterance"] for one in read] == [row["utterance"]]
    assert read[0]["text"] == row["teachers"][1]["text"]
    [run] = runs_of(spoken_project, "tags.stage = 'second_labels'")
    assert {"human": len(second) - 1, "utterances_asked": 1}.items() <= run.data.metrics.items()
    assert run.data.metrics["pseudo_accepted"] + run.data.metrics["rejected"] == 1
    assert run.data.params["pseudo_labels.adapter_alone"] == "0.95"
    assert "models/llm" in {item.dataset.name for item in run.inputs.dataset_inputs}


def test_nothing_runs_again_when_nothing_changed(spoken_project: Checkout) -> None:
    assert spoken_project.repro() == []


def test_every_run_is_in_mlflow_with_its_lineage(spoken_project: Checkout) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{spoken_project.folder}/.edgealign/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("edgealign")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=500)
    stages = {run.data.tags.get("stage") for run in runs}
    assert {
        "models",
        "features",
        "pseudo_labels",
        "base",
        "second_labels",
        "personalize",
        "evaluate",
        "report",
    } <= stages
    assert {run.info.status for run in runs} == {"FINISHED"}
    [ann] = [r for r in runs if r.data.tags.get("user") == "ann" and r.data.tags["stage"] == "personalize"]
    assert ann.data.tags["device_kind"] == "virtual"
    [base] = [run for run in runs if run.data.tags["stage"] == "base"]
    for planned in (ann.data.params, base.data.params):  # the memory plan of each training
        assert 5 * 10**8 < int(planned["planned_bytes"]) <= int(planned["cap_bytes"]) == 6_000_000_000
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
    untold(table, "fay-11.wav")
    # a recording that is no audio is set aside, the others go in
    (table.parent / "broken.wav").write_text("not audio")
    with table.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(("broken.wav", "fay", "stop"))
    added = spoken_project.edgealign("cohort", "add", "away", "--audio", str(table.parent), "--transcripts", str(table))
    assert "broken.wav" in added.stdout + added.stderr
    before = (spoken_project.folder / "artifacts" / "adapters" / "base" / "adapter.json").read_bytes()
    ran = spoken_project.repro()
    own = {f"{stage}@away" for stage in OF_A_COHORT}
    assert own | {"base_inputs", "report"} == set(ran)
    assert (spoken_project.folder / "artifacts" / "adapters" / "base" / "adapter.json").read_bytes() == before
    assert set(spoken_project.json("metrics/summary.json")["cohorts"]) == {"home", "away"}


def test_append_computes_only_the_new_shards_and_the_user_who_changed(spoken_project: Checkout) -> None:
    """The work is counted, not the time: what each stage says it has to do, and which files it left alone."""
    folder = spoken_project.folder
    kept = {
        path: path.stat().st_mtime_ns
        for pattern in (
            *("data/cohorts/away/shard-*.tar", "artifacts/features/away/*", "artifacts/read_outs/away/*"),
            "artifacts/adapters/away/fay/*",
        )
        for path in folder.glob(pattern)
    }
    more = speak(folder.parent / "appended", {"gil": "en-us+m4"}, SENTENCES[:8])
    untold(more, "gil-07.wav")
    spoken_project.edgealign("cohort", "append", "away", "--audio", str(more.parent))
    ran = spoken_project.repro()
    own = {f"{stage}@away" for stage in OF_A_COHORT}
    assert own | {"base_inputs", "report"} == set(ran)
    for line in (
        "features@away: 1 of 2 shard(s) to do",
        "pseudo_labels@away: 1 of 2 shard(s) to transcribe",
        "second_labels@away: 1 of 2 shard(s) to read",
        "personalize@away: 1 of 2 user(s) to train",
        "evaluate@away: 1 of 2 user(s) to judge",
    ):
        assert line in spoken_project.said
    assert len(kept) >= 5
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


def test_a_training_that_fits_no_device_is_refused_with_the_numbers(spoken_project: Checkout) -> None:
    params = spoken_project.folder / "params.yaml"
    whole = params.read_text(encoding="utf-8")
    assert "jetson_memory_bytes: 6000000000" in whole
    params.write_text(whole.replace("jetson_memory_bytes: 6000000000", "jetson_memory_bytes: 700000000"), "utf-8")
    record = spoken_project.folder / "artifacts" / "adapters" / "base" / "adapter.json"
    before = record.read_bytes()
    try:
        done = spoken_project.edgealign("stage", "base", check=False)
    finally:
        params.write_text(whole, encoding="utf-8")
    assert done.returncode == 1
    message = done.stderr[done.stderr.index("error:") :]
    assert "even with one utterance at a time, the device offers 0.70 GB" in message
    assert "ray.jetson_memory_bytes" in message
    assert record.read_bytes() == before


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
