"""mlflow/compose.yaml and its Dockerfile agree with the scripts and the lock. They were not run: no containers here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "mlflow"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def test_the_server_gets_what_serve_sh_takes(compose: dict[str, Any]) -> None:
    scripts = "".join((FOLDER / name).read_text(encoding="utf-8") for name in ("serve.sh", "stores.sh", "prepare.py"))
    given = compose["services"]["tracking"]["environment"]
    unknown = {name for name in given if not re.search(rf"\b{name}\b", scripts)}
    assert unknown == {"AWS_DEFAULT_REGION"}  # boto3 reads it
    assert "AUTHENTICATION" not in given  # accounts stay on
    assert all(isinstance(value, str) for value in given.values())


def test_it_names_services_volumes_networks_and_accounts_that_are_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    given, database, store = (services[name]["environment"] for name in ("tracking", "database", "store"))
    address = re.compile(r"postgresql://(\w+):\$\{DATABASE_PASSWORD[^}]*\}@(\w+)/(\w+)")
    runs = address.fullmatch(given["MLFLOW_BACKEND_STORE_URI"])
    accounts = address.fullmatch(given["ACCOUNTS_DATABASE_URI"])
    assert runs and accounts
    assert runs.groups() == (database["POSTGRES_USER"], "database", database["POSTGRES_DB"])
    assert accounts.groups()[:2] == runs.groups()[:2] and accounts[3] != runs[3]
    assert given["MLFLOW_S3_ENDPOINT_URL"] == "http://store:9000"
    assert given["AWS_ACCESS_KEY_ID"] == store["MINIO_ROOT_USER"]
    for service in services.values():
        assert set(service["networks"]) <= set(compose["networks"])
        assert {volume.split(":")[0] for volume in service["volumes"]} <= set(compose["volumes"])
        for name, wanted in service.get("depends_on", {}).items():
            assert wanted == {"condition": "service_healthy"} and "healthcheck" in services[name]


def test_only_the_server_listens_and_on_loopback(compose: dict[str, Any]) -> None:
    ports = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert ports == {"tracking": ["127.0.0.1:5000:5000"], "database": [], "store": []}
    assert compose["networks"]["inside"] == {"internal": True}
    assert all(compose["services"][name]["networks"] == ["inside"] for name in ("database", "store"))


def test_every_password_comes_from_the_file_that_git_does_not_carry(compose: dict[str, Any]) -> None:
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    head = text.split("name: edgealign-tracking")[0]
    secret = {name for name in re.findall(r"\$\{(\w+)", text) if name != "ALLOWED_HOSTS"}
    assert secret == set(re.findall(r"\b[A-Z]+_PASSWORD\b", head))
    for name in secret:
        assert f"${{{name}:?" in text, f"{name} may be empty"
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            assert "PASSWORD" not in name or value.startswith("${"), name
    assert "/mlflow/.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()


def test_the_image_has_every_script_and_the_locks_versions(compose: dict[str, Any], dockerfile: str) -> None:
    (copied,) = re.findall(r"^COPY (.+) /opt/edgealign/$", dockerfile, re.MULTILINE)
    assert sorted(copied.split()) == sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".sh", ".py"))
    lock = {line.lower() for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").split()}
    (pinned,) = re.findall(r"pip install --no-cache-dir (.+)$", dockerfile, re.MULTILINE)
    assert pinned.split() and {one.lower() for one in pinned.split()} <= lock
    (client,) = re.findall(r"postgresql-client-(\d+)", dockerfile)
    assert compose["services"]["database"]["image"].startswith(f"postgres:{client}")
    assert not [service for service in compose["services"].values() if service.get("image", ":1").endswith(":latest")]
