"""`edgealign head`: its token and its command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cluster import head
from stages.errors import ClusterError


def test_a_token_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "ray" / "token"
    assert head.keep_token(path)
    made = path.read_text()
    assert len(made) == 64 and path.stat().st_mode & 0o777 == 0o600
    assert not head.keep_token(path)
    assert path.read_text() == made


def test_a_token_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("ab" * 32)
    path.chmod(0o644)
    assert not head.keep_token(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_empty_token_is_none(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("\n")
    path.chmod(0o644)
    assert head.keep_token(path)
    assert path.read_text().strip() and path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "jetson-head", ""])
def test_the_head_needs_one_address(host: str) -> None:
    with pytest.raises(ClusterError, match="address"):
        head.command(host, 6379, None)


def test_the_head_takes_the_given_address_and_stays_in_the_foreground() -> None:
    line = head.command("192.0.2.1", 7000, 2)
    assert {"--node-ip-address=192.0.2.1", "--port=7000", "--num-cpus=2", "--block", "--head"} <= set(line)
    assert not [word for word in head.command("192.0.2.1", 7000, None) if word.startswith("--num-cpus")]
