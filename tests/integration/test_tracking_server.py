"""The team's server as mlflow/serve.sh starts it: accounts on, a real PostgreSQL, an S3 endpoint."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.prune import apply, plan
from pipeline.tracking.record import now_ms
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


def objects(team: Team, bucket: str = "runs") -> dict[str, str]:
    """{key: MD5} of what lies in a bucket."""
    import boto3

    found = boto3.client(
        "s3",
        endpoint_url=team.variables["MLFLOW_S3_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id=team.variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=team.variables["AWS_SECRET_ACCESS_KEY"],
    ).list_objects_v2(Bucket=bucket)
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


def script(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "mlflow" / name), *arguments]
    return subprocess.run(command, env=plain_environment(**variables), capture_output=True, text=True)


def test_a_backup_goes_back_into_another_postgresql_database_and_bucket(
    team: Team, tracker: Tracker, ann: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg2

    record_stage(tracker, tmp_path)
    copy = tmp_path / "copy"
    done = script("backup.sh", str(team.folder), str(copy), **team.variables)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700

    again = script("backup.sh", str(team.folder), str(copy), **team.variables)
    assert again.returncode == 1 and "is there already" in again.stderr
    taken = script("restore.sh", str(tmp_path / "new"), str(copy), **team.variables)
    assert taken.returncode == 1 and "holds tables already" in taken.stderr

    elsewhere = {
        **team.variables,
        "MLFLOW_BACKEND_STORE_URI": team.database.replace("/postgres", "/runs2"),
        "ACCOUNTS_DATABASE_URI": team.database.replace("/postgres", "/accounts2"),
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://second/place",
    }
    done = script("restore.sh", str(tmp_path / "new"), str(copy), **elsewhere)
    assert done.returncode == 0, done.stderr
    for before, after in (("runs", "runs2"), ("accounts", "accounts2")):
        assert rows(team.database.replace("/postgres", f"/{before}")) == rows(
            team.database.replace("/postgres", f"/{after}")
        )
    first, second = objects(team, "runs"), objects(team, "second")
    assert len(first) >= 2
    assert {key.removeprefix("artifacts/"): tag for key, tag in first.items()} == {
        key.removeprefix("place/"): tag for key, tag in second.items()
    }
    with psycopg2.connect(elsewhere["MLFLOW_BACKEND_STORE_URI"]) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM metrics WHERE key = 'loss'")
        (points,) = cursor.fetchone()
        assert points >= 2500

    victim = next((copy / "artifacts").rglob("adapter.safetensors"))
    victim.write_bytes(b"WEIGHTS")
    fresh = {name: value.replace("2", "3").replace("second", "third") for name, value in elsewhere.items()}
    refused = script("restore.sh", str(tmp_path / "new"), str(copy), **fresh)
    assert refused.returncode == 1 and "is damaged" in refused.stderr and "adapter.safetensors" in refused.stderr


def rows(address: str) -> dict[str, int]:
    """{table: how many rows} of a PostgreSQL database."""
    import psycopg2

    with psycopg2.connect(address) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        found = {}
        for (table,) in cursor.fetchall():
            cursor.execute(f'SELECT count(*) FROM "{table}"')
            found[table] = cursor.fetchone()[0]
    assert found
    return found


def test_prune_on_a_server_deletes_files_and_tells_the_operator_the_rest(
    team: Team, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", team.password)
    before = objects(team)
    with tracker.run("report") as run:
        (tmp_path / "table.md").write_text("content")
        run.artifact(tmp_path / "table.md")
    assert len(objects(team)) == len(before) + 1
    found = plan(tracker, keep_days=0, keep_last=None, now_ms=now_ms() + 1000)
    assert {one.info.run_name for one in found.runs} == {"command", "report"} and found.bytes is None
    left = apply(tracker, found)
    assert "mlflow gc --backend-store-uri" in left
    assert objects(team) == before
    experiment = client(team.uri).get_experiment_by_name(tracker.settings.experiment).experiment_id
    assert client(team.uri).search_runs([experiment]) == []


def test_a_sqlite_server_is_backed_up_and_restored_too(fresh_store: Path, tmp_path: Path) -> None:
    """Without a server: the scripts read and write what one would have."""
    folder = tmp_path / "server"
    (folder / "artifacts" / "1").mkdir(parents=True)
    (folder / "artifacts" / "1" / "file.txt").write_text("content")
    (folder / "mlflow.db").write_bytes(fresh_store.read_bytes())
    done = script("backup.sh", str(folder), str(tmp_path / "copy"))
    assert done.returncode == 0, done.stderr
    done = script("restore.sh", str(tmp_path / "new"), str(tmp_path / "copy"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / "artifacts" / "1" / "file.txt").read_text() == "content"
    assert client(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}").get_experiment("0").name == "Default"
    (tmp_path / "copy" / "extra").write_text("x")
    refused = script("restore.sh", str(tmp_path / "newer"), str(tmp_path / "copy"))
    assert refused.returncode == 1 and "not copied by backup.sh" in refused.stderr
    nothing = script("backup.sh", str(tmp_path / "empty"), str(tmp_path / "third"))
    assert nothing.returncode == 1 and "holds no mlflow.db" in nothing.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AUTHENTICATION": "off", "HOST": "0.0.0.0"}, "stays on loopback"),
        ({"MLFLOW_BACKEND_STORE_URI": "postgresql://me:secret@127.0.0.1:1/runs"}, "MLFLOW_BACKEND_STORE_URI: "),
        ({"MLFLOW_BACKEND_STORE_URI": "mysql://me:secret@127.0.0.1/runs"}, "needed sqlite:///PATH or postgresql"),
        ({"MLFLOW_AUTH_ADMIN_PASSWORD": "short"}, "12 characters"),
        (
            {
                "MLFLOW_ARTIFACTS_DESTINATION": "s3://runs",
                "MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:1",
                "AWS_ACCESS_KEY_ID": "a",
                "AWS_SECRET_ACCESS_KEY": "b",
            },
            "MLFLOW_S3_ENDPOINT_URL",
        ),
    ],
)
def test_what_a_server_cannot_start_with_is_one_line(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    done = script("serve.sh", str(tmp_path / "server"), PORT=str(free_port()), **variables)
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("serve.sh: ") and said in line
    assert "secret" not in line


def test_a_server_does_not_start_on_a_database_of_another_mlflow(fresh_store: Path, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    database = tmp_path / "server" / "mlflow.db"
    database.write_bytes(fresh_store.read_bytes())
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'feedfacecafe'")
    done = script("serve.sh", str(tmp_path / "server"), PORT=str(free_port()))
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()
    for words in ("of another MLflow", "feedfacecafe", "mlflow/backup.sh", "mlflow db upgrade"):
        assert words in line
