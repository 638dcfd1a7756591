"""The doctor's look at the files of Ray's TLS."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from jetson_agent.doctor import examine
from jetson_agent.node import virtual_jetson
from jetson_agent.tls import tls
from tests.helpers_tls import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


def bad(variables: dict[str, str]) -> list[str]:
    return [finding.line() for finding in tls(variables) if not finding.good]


def test_good_files_are_good_and_without_tls_nothing_is_asked(authority: Authority) -> None:
    there = authority.variables("127.0.0.1")
    assert bad(there) == []
    assert len(tls(there)) == 5
    assert tls({**there, "RAY_USE_TLS": "0"}) == []
    assert tls({}) == []


def test_the_doctor_looks_at_them(authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in authority.variables("127.0.0.1", timedelta(days=-1)).items():
        monkeypatch.setenv(name, value)
    found = examine(virtual_jetson(10**9), None, tmp_path / "absent")
    assert any("127.0.0.1.crt is valid from" in finding.line() and not finding.good for finding in found)


def test_files_that_are_not_there(authority: Authority) -> None:
    there = authority.variables("127.0.0.1")
    Path(there["RAY_TLS_SERVER_KEY"]).unlink()
    del there["RAY_TLS_CA_CERT"]
    first, second = bad(there)
    assert "RAY_TLS_SERVER_KEY=" in first and "is missing or cannot be read" in first
    assert "RAY_TLS_CA_CERT is not set" in second


def test_files_that_do_not_fit(authority: Authority, tmp_path: Path) -> None:
    [expired] = bad(authority.variables("127.0.0.1", timedelta(days=-1)))
    assert "sign a new one" in expired
    [elsewhere] = bad(authority.variables("192.0.2.7"))
    assert "is for 192.0.2.7" in elsewhere and "subject alternative name" in elsewhere
    there = authority.variables("127.0.0.1")
    [foreign] = bad({**there, "RAY_TLS_CA_CERT": str(Authority(tmp_path / "theirs").file)})
    assert "is not signed by" in foreign
    [other_key] = bad({**there, "RAY_TLS_SERVER_KEY": authority.variables("127.0.0.2")["RAY_TLS_SERVER_KEY"]})
    assert "is no key of" in other_key
    Path(there["RAY_TLS_SERVER_KEY"]).chmod(0o644)
    assert "chmod it 600" in bad(there)[0]
    Path(there["RAY_TLS_SERVER_CERT"]).write_text("no certificate")
    assert "BEGIN CERTIFICATE" in bad(there)[0]
