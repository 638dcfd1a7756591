"""The team's server as mlflow/serve.sh starts it: accounts on, a real PostgreSQL, an S3 endpoint."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.tracker import Tracker
from stages.atomic import sha256_file
from stages.errors import TrackingError
from tests.helpers_adapters import build, set_params
from tests.helpers_programs import needs
from tests.helpers_server import ROOT, free_port, plain_environment, postgresql, s3, serving
from tests.integration.test_tracking_mlflow import check_stage, client, record_stage

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Team:
    """A server that runs, with what stands behind it."""

    uri: str
    folder: Path
    database: str
    """Address of the PostgreSQL's database `postgres`."""
    variables: dict[str, str]
    """The environment that serve.sh was given."""
    pid: int

    @property
    def password(self) -> str:
        return (self.folder / "admin-password").read_text()


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The server with accounts, on PostgreSQL and S3; a colleague has an account."""
    needs("postgresql")
    folder, port = tmp_path_factory.mktemp("team"), free_port()
    with postgresql() as database, s3(folder) as store:
        variables = {
            **store,
            "MLFLOW_BACKEND_STORE_URI": database.replace("/postgres", "/runs"),
            "ACCOUNTS_DATABASE_URI": database.replace("/postgres", "/accounts"),
            "MLFLOW_ARTIFACTS_DESTINATION": "s3://runs/artifacts",
        }
        with serving(folder / "server", port, **variables) as process:
            made = Team(f"http://127.0.0.1:{port}", folder / "server", database, variables, process.pid)
            account = ["bash", str(ROOT / "mlflow" / "account.sh"), made.uri, "ann"]
            environment = plain_environment(MLFLOW_TRACKING_USERNAME="admin", MLFLOW_TRACKING_PASSWORD=made.password)
            done = subprocess.run(
                account, env=environment, input="ann's long password\n", capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            yield made


@pytest.fixture
def ann(monkeypatch: pytest.MonkeyPatch) -> None:
    """The colleague's account in the environment, as on a machine that runs `dvc repro`."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "ann's long password")


@pytest.fixture
def tracker(team: Team, tmp_path: Path, request: pytest.FixtureRequest) -> Tracker:
    """A project whose runs go to the server, into an experiment of the test's own."""
    return Tracker(Project(tmp_path), Tracking(uri=team.uri, experiment=request.node.name))


def objects(team: Team) -> dict[str, str]:
    """{key: MD5} of what lies in the bucket."""
    import boto3

    found = boto3.client(
        "s3",
        endpoint_url=team.variables["MLFLOW_S3_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id=team.variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=team.variables["AWS_SECRET_ACCESS_KEY"],
    ).list_objects_v2(Bucket="runs")
    return {item["Key"]: item["ETag"].strip('"') for item in found.get("Contents", ())}


def test_a_stage_goes_through_accounts_into_postgresql_and_s3(team: Team, ann: None, tmp_path: Path) -> None:
    import psycopg2

    record_stage(Tracker(Project(tmp_path), Tracking(uri=team.uri)), tmp_path)
    check_stage(team.uri)
    with psycopg2.connect(team.variables["MLFLOW_BACKEND_STORE_URI"]) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM metrics WHERE key = 'loss'")
        assert cursor.fetchone() == (2500,)
    stored = [key for key in objects(team) if key.endswith("adapter.safetensors")]
    assert len(stored) == 1 and stored[0].startswith("artifacts/")


def test_its_secrets_are_private_and_on_no_command_line(team: Team) -> None:
    for name in ("admin-password", "secret-key", "accounts.ini"):
        assert stat.S_IMODE((team.folder / name).stat().st_mode) == 0o600
    secrets = [team.password, (team.folder / "secret-key").read_text(), team.database.split(":")[2].split("@")[0]]
    assert all(len(secret) >= 12 for secret in secrets)
    server = psutil.Process(team.pid)
    lines = [" ".join(process.cmdline()) for process in (server, *server.children(recursive=True))]
    assert any("mlflow" in line for line in lines)
    assert not [line for line in lines for secret in secrets if secret in line]
    log = (team.folder.parent / "server.log").read_text()
    assert not [secret for secret in secrets if secret in log]


@pytest.mark.parametrize(
    ("account", "said"),
    [({}, "no account was given"), ({"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "wrong"}, "'ann'")],
)
def test_without_an_account_or_with_a_wrong_one_a_record_waits_and_arrives_later(
    tracker: Tracker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    account: dict[str, str],
    said: str,
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    for name, value in account.items():
        monkeypatch.setenv(name, value)
    with tracker.run("features"):
        pass
    assert len(tracker.spool.waiting()) == 1
    (warning,) = [record.message for record in caplog.records if "tracking" in record.name]
    for words in (said, "(401)", "MLFLOW_TRACKING_PASSWORD", "edgealign tracking replay"):
        assert words in warning
    assert "wrong" not in warning
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "ann's long password")
    done = tracker.send()
    assert (done.sent, done.waiting, done.refused) == (1, 0, 0)


def test_an_account_without_the_permission_is_told_and_its_record_waits(
    team: Team, tracker: Tracker, ann: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracker.run("features"):
        pass
    from mlflow.server import get_app_client

    with monkeypatch.context() as admin:
        admin.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        admin.setenv("MLFLOW_TRACKING_PASSWORD", team.password)
        there = get_app_client("basic-auth", team.uri)
        there.create_user("bob", "bob's long password")
        experiment = client(team.uri).get_experiment_by_name(tracker.settings.experiment)
        there.grant_user_permission("bob", "experiment", experiment.experiment_id, "DENY")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "bob's long password")
    again = Tracker(tracker.project, tracker.settings)
    with again.run("base"):
        pass
    done = again.send()
    assert (done.sent, done.waiting, done.refused) == (0, 1, 0)
    assert "'bob' may not do this" in done.problem


def test_adapters_are_listed_and_promoted_through_it(
    team: Team, ann: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = build(tmp_path / "project")
    set_params(project, tracking={"uri": team.uri, "experiment": "adapters"})
    monkeypatch.chdir(project.root)
    done = CliRunner().invoke(app, ["adapters", "promote", "home/ann"])
    assert done.exit_code == 0, done.output
    there = client(team.uri)
    champion = there.get_model_version_by_alias("adapters.home.ann", "champion")
    file = project.adapters("home") / "ann" / "adapter.safetensors"
    assert champion.tags["adapter_sha256"] == sha256_file(file)
    downloaded = there.download_artifacts(champion.run_id, "adapter/adapter.safetensors", str(tmp_path))
    assert sha256_file(Path(downloaded)) == sha256_file(file)
    listed = CliRunner().invoke(app, ["adapters", "list", "--json"])
    assert listed.exit_code == 0, listed.output
    assert {item["user"]: item["champion"] for item in json.loads(listed.stdout)}["ann"] is True
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name)
    refused = CliRunner().invoke(app, ["adapters", "list"])
    assert isinstance(refused.exception, TrackingError)
    assert "no account was given (401)" in str(refused.exception)
