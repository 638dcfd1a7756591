"""A tiny device that several groups of tests learn on."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetson_agent.home import Device, Home
from tests.helpers_rollout import make_home, tiny_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """A base that knows six words, its LLM, and the device of home/ann on them; not to be changed."""
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def home(models: Device, tmp_path: Path) -> Home:
    """That device, set up and with nothing learned."""
    return make_home(tmp_path / "agent", models)
