"""The code of a registered adapter: MLflow runs a copy of this file beside the adapter, by itself (models from code).

It imports nothing of a checkout: what it needs of edgealign lies in ``code.zip`` beside it, under a package name of its own,
so that adapters of several versions of edgealign live in one process. Every file is checked by its hash before it is used.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import Model, set_model
from mlflow.pyfunc import PythonModel

FILES = ("adapter.safetensors", "adapter.json")


class RegisteredAdapter(PythonModel):
    """A speech adapter: recordings in; what it heard and, with ``reply``, the LLM's reply out."""

    def load_context(self, context: Any) -> None:
        """Check the files, fetch the base, load. Raises MlflowException and edgealign's own errors, one message each."""
        folder = Path(context.artifacts["adapter"]).parent
        told = Model.load(str(folder)).metadata["edgealign"]
        for name, wanted in told["sha256"].items():
            path = folder / name
            found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "none"
            if found != wanted:
                raise MlflowException.invalid_parameter_value(
                    f"{told['name']}: {name} has the hash {found[:12]}, needed {wanted[:12]}: it was changed after the adapter "
                    "was registered. Nothing of it is used. Promote or roll back to another version, or train it again."
                )
        portable = importlib.import_module(f"{_package(folder / 'code.zip', told)}.portable")
        base = told["base"]
        config = context.model_config or {}
        self._adapter = portable.PortableAdapter(
            folder,
            portable.keep_base(base["sha256"], lambda target: _fetch(base, target)) if base else None,
            told["padding_s"],
            config.get("encoder", ""),
            config.get("llm", ""),
            told["name"],
        )

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """A DataFrame with ``text``, ``confidence`` and, where asked for, ``reply``; a row a recording.

        ``model_input`` is a list of paths, or a DataFrame whose first column holds paths or arrays of samples.
        """
        import pandas

        if isinstance(model_input, pandas.DataFrame):
            model_input = model_input.iloc[:, 0].tolist()
        return pandas.DataFrame(self._adapter.answer(list(model_input), **(params or {})))


def _package(source: Path, told: dict[str, Any]) -> str:
    """The name of the package in code.zip, importable: a copy in the cache, since MLflow may delete what it downloaded."""
    from platformdirs import user_cache_path

    package = str(told["package"])
    content, wanted = source.read_bytes(), told["sha256"]["code.zip"]
    kept = user_cache_path("edgealign") / "portable" / "code" / f"{package}.zip"
    if not kept.is_file() or hashlib.sha256(kept.read_bytes()).hexdigest() != wanted:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f".{kept.name}.{os.getpid()}")
        part.write_bytes(content)
        part.replace(kept)
    if str(kept) not in sys.path:
        sys.path.append(str(kept))
    return package


def _fetch(base: dict[str, Any], target: Path) -> None:
    """The base's two files, from the version of its registered model that has this hash."""
    import mlflow

    client = mlflow.MlflowClient()
    versions = client.search_model_versions(f"name = '{base['name']}'")
    found = [version for version in versions if (version.tags or {}).get("adapter_sha256") == base["sha256"]]
    if not found:
        raise MlflowException.invalid_parameter_value(
            f"the base {base['sha256'][:12]} of this adapter is no version of the registered model {base['name']} in "
            f"{mlflow.get_registry_uri()}. Record it there: `dvc repro --force --single-item base` in its project."
        )
    for name in FILES:
        mlflow.artifacts.download_artifacts(artifact_uri=f"{found[0].source}/{name}", dst_path=str(target))


set_model(RegisteredAdapter())
