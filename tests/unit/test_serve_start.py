"""What `edgealign-agent serve` says when it cannot start, before it loads anything."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jetson_agent.home import Device, Home
from jetson_agent.serve.server import run
from stages.errors import EdgealignError, InputError, SettingsError


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home.open(tmp_path / "agent")
    found.set_up(Device("home", "ann", tmp_path / "encoder", tmp_path / "llm", tmp_path / "base", 0.5), [])
    return found


def test_a_device_that_is_not_set_up(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Set the device up"):
        run(Home.open(tmp_path / "nobody"), "127.0.0.1", 0, None, None, None)


def test_a_port_in_use(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="Choose another --port"):
        run(home, "127.0.0.1", taken.getsockname()[1], None, None, None)


@pytest.mark.parametrize("told", ['{"max_bytes": "much"}', '{"max_bytes": 0}', '{"unknown": 1}', "[]", "{", "\udcff"])
def test_settings_that_cannot_be(home: Home, told: str) -> None:
    (home.folder / "serve.json").write_bytes(told.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError, match=r"serve\.json"):
        run(home, "127.0.0.1", 0, None, None, None)


def test_half_of_what_tls_needs(home: Home, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--key"):
        run(home, "127.0.0.1", 0, None, tmp_path / "certificate", None)


def test_another_address_gets_a_token_of_its_own(home: Home) -> None:
    with pytest.raises(EdgealignError):  # no models
        run(home, "127.0.0.1", 0, None, None, None)
    assert not (home.folder / "token").exists()
    with pytest.raises(EdgealignError):
        run(home, "192.0.2.1", 0, None, None, None)  # an address that is nobody's (RFC 5737)
    assert (home.folder / "token").read_text().strip()


@pytest.mark.parametrize("package", ["uvicorn", "fastapi_offline", "limits", "websockets"])
def test_a_package_that_is_missing(home: Home, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in list(sys.modules):
        if name.startswith(("jetson_agent.serve.app", "jetson_agent.serve.intake", package)):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingsError, match=r"edgealign\[serve\]"):
        run(home, "127.0.0.1", 0, None, None, None)


@pytest.mark.parametrize("module", ["jetson_agent.serve.app", "pipeline.runs.configs"])
def test_who_learns_nothing_does_not_wait_for_peft(module: str) -> None:
    """Three seconds of a processor and 150 MB of a device that only listens, and of each driver of a stage."""
    program = f"import sys, {module}; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
