"""Adapters as registered models: the files that make an adapter's folder loadable anywhere, and its version in the registry.

A personal adapter trains in seconds, so everything that is the same for all is made once a process, and what differs is
filled into MLflow's own ``MLmodel``. No pickle: the model is code (``model_code.py``) beside safetensors.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.tracking.record import Record
from stages.atomic import sha256_bytes, sha256_file
from stages.registered import CHALLENGER, PERSONAL_TEXT, model_name

FOLDER = "adapter"
"""Folder of a run's artifacts that a version points at."""

BASE_TEXT = "Base speech adapter that the personal ones change; see docs/compare.md."
PAGE = 1000

ENTRY = ("stages.portable",)
"""The modules that a registered adapter calls; what they import of ``stages`` goes along."""

REQUIREMENTS = (
    "mlflow torch torchaudio transformers safetensors numpy pandas pyarrow soundfile av soxr num2words gguf platformdirs"
    " filelock"
).split()
"""Distributions that ``code.zip`` and ``model_code.py`` import; a test loads an adapter with these alone."""

EXAMPLE_SAMPLES = 1600


@dataclass(frozen=True)
class Adapter:
    """What is filled in for one adapter."""

    name: str  # of the registered model
    record: Mapping[str, Any]  # adapter.json
    record_sha256: str
    padding_s: float
    experiment: str

    @property
    def is_base(self) -> bool:
        return self.record.get("kind") == "base"


def register(client: Any, run_id: str, record: Record) -> None:
    """Make the run's adapter loadable and a version of its registered model, with the alias ``challenger`` if it is the newest.

    Doing it again goes on where it stopped: the same adapter never becomes a second version. Raises MlflowException.
    """
    files = {Path(item.source).name: Path(item.source) for item in record.artifacts if item.folder == FOLDER}
    if record.model is None or record.status != "FINISHED" or not {"adapter.json", "adapter.safetensors"} <= set(files):
        return
    content = files["adapter.json"].read_bytes()
    try:
        told = json.loads(content)
        digest, _ = told["weights_sha256"], (told["kind"], told["method"], told["encoder"], told["llm"])
    except (ValueError, KeyError, TypeError):
        return  # no adapter's record: the run keeps it as it is
    if sha256_file(files["adapter.safetensors"]) != digest:
        return  # changed while it waited; the run's tag says so
    name = model_name(record.experiment, record.tags.get("cohort"), record.tags.get("user"))
    adapter = Adapter(name, told, sha256_bytes(content), float(record.model["padding_s"]), record.experiment)
    known = list(client.search_model_versions(f"name = '{name}'", max_results=PAGE))
    versions: dict[str, dict[str, str]] = {str(item.version): dict(item.tags or {}) for item in known}
    mine = next((number for number, tags in versions.items() if tags.get("adapter_sha256") == digest), None)
    if mine is None:
        add_files(client, run_id, adapter)
        owner: dict[str, str] = {key: record.tags[key] for key in ("cohort", "user") if key in record.tags}
        tags = {**owner, **version_tags(adapter), "trained_ms": str(record.end_ms)}
        tags |= {f"trained_{key}": record.tags[key] for key in ("git_commit", "data_md5") if key in record.tags}
        source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
        mine = create_version(client, name, source, run_id, tags, owner, fresh=not known)
        versions[mine] = tags
    else:
        client.set_model_version_tag(name, mine, "trained_ms", str(record.end_ms))
        versions[mine]["trained_ms"] = str(record.end_ms)
    if all(int(tags.get("trained_ms", 0)) <= record.end_ms for tags in versions.values()):
        client.set_registered_model_alias(name, CHALLENGER, mine)


def create_version(
    client: Any,
    name: str,
    source: str,
    run_id: str,
    tags: Mapping[str, str],
    owner: Mapping[str, str],
    description: str | None = None,
    *,
    fresh: bool = True,
) -> str:
    """A new version; the registered model is made where ``fresh`` says that there may be none. ``owner`` tags the model."""
    from mlflow.exceptions import MlflowException

    if fresh:
        try:
            client.create_registered_model(name, dict(owner), PERSONAL_TEXT if owner else BASE_TEXT)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            for key, value in owner.items():  # what an erasure looks for
                client.set_registered_model_tag(name, key, value)
    made = client.create_model_version(
        name, source, run_id, tags=dict(tags), description=description, await_creation_for=0
    )
    return str(made.version)


def version_tags(adapter: Adapter) -> dict[str, str]:
    """What a version says of its adapter; names nobody."""
    told = adapter.record
    kept = {"kind": told["kind"], "method": told["method"], "encoder": told["encoder"], "llm": told["llm"]}
    kept |= {"adapter_sha256": told["weights_sha256"], "code_sha256": code()[1]}
    return {**kept, **({} if adapter.is_base else {"base_sha256": str(told.get("base_sha256"))})}


def add_files(client: Any, run_id: str, adapter: Adapter) -> None:
    """Write beside a run's ``adapter.safetensors`` and ``adapter.json`` what makes their folder a model."""
    with tempfile.TemporaryDirectory(prefix="edgealign-model-") as folder:
        write_files(Path(folder), adapter)
        client.log_artifacts(run_id, folder, FOLDER)


def write_files(folder: Path, adapter: Adapter) -> None:
    """MLmodel, model_code.py, code.zip, requirements.txt and input_example.json of one adapter."""
    package, digest, zipped = code()
    (folder / "code.zip").write_bytes(zipped)
    (folder / "model_code.py").write_bytes(Path(__file__).with_name("model_code.py").read_bytes())
    models = (str(adapter.record["encoder"]), str(adapter.record["llm"]))
    (folder / "requirements.txt").write_text("\n".join(requirements(*models)) + "\n", encoding="utf-8")
    (folder / "input_example.json").write_text(_example(), encoding="utf-8")
    checked = {"adapter.safetensors": adapter.record["weights_sha256"], "code.zip": digest}
    if not adapter.is_base:  # an erasure takes a person's utterances out of a base's record
        checked["adapter.json"] = adapter.record_sha256
    base = {"name": model_name(adapter.experiment, None, None), "sha256": adapter.record.get("base_sha256")}
    told = {
        "name": adapter.name,
        "padding_s": adapter.padding_s,
        "package": package,
        "sha256": checked,
        "base": None if adapter.is_base else base,
    }
    model = _mlmodel()
    model.metadata = {"edgealign": told}
    model.save(str(folder / "MLmodel"))


@lru_cache(maxsize=1)
def _mlmodel() -> Any:
    """MLflow's own description of the model: flavor, signature, input example; ``metadata`` is to be filled in."""
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import add_to_model
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, ColSpec

    signature = ModelSignature(
        Schema([ColSpec(AnyType())]),  # without a name, so that a plain list of paths fits as well as a DataFrame
        Schema(
            [
                ColSpec(DataType.string, "text"),
                ColSpec(DataType.double, "confidence"),
                ColSpec(DataType.string, "reply", required=False),
            ]
        ),
        ParamSchema(
            [
                ParamSpec("rate_hz", DataType.long, 16_000),
                ParamSpec("reply", DataType.boolean, False),
                ParamSpec("instruction", DataType.string, ""),
                ParamSpec("max_new_tokens", DataType.long, 64),
            ]
        ),
    )
    example = {"artifact_path": "input_example.json", "pandas_orient": "split", "type": "dataframe"}
    # without a model_id MLflow takes the folder for what it is: a run's artifacts
    model = Model(
        artifact_path=FOLDER,
        signature=signature,
        saved_input_example_info=example,
    )
    add_to_model(
        model,
        loader_module="mlflow.pyfunc.loaders.code_model",
        model_code_path="model_code.py",
        model_config={"encoder": "", "llm": ""},
        artifacts={FOLDER: {"path": "adapter.safetensors", "uri": "adapter.safetensors"}},
        streamable=False,
    )
    return model


@lru_cache(maxsize=1)
def _example() -> str:
    """A tenth of a second of silence at 16 kHz, as MLflow keeps a DataFrame."""
    return json.dumps({"columns": ["audio"], "data": [[[0.0] * EXAMPLE_SAMPLES]]})


@lru_cache(maxsize=8)
def requirements(encoder: str, llm: str) -> list[str]:
    """What ``pip install`` needs before an adapter of these models loads; packaged ones by their wheels.

    Kept for the process: asking for 15 installed versions takes a tenth of a second, and a cohort has many users.
    """
    from stages.models.prepare import PACKAGED_LLMS, PACKAGED_WHISPERS

    named = [identity.rpartition("@")[0] for identity in (encoder, llm)]
    wheels = sorted({name for name in named if name in {**PACKAGED_WHISPERS, **PACKAGED_LLMS}})
    found = []
    for name in [*REQUIREMENTS, *wheels]:
        try:
            found.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            found.append(name)
    return found


@lru_cache(maxsize=1)
def code() -> tuple[str, str, bytes]:
    """(package name, SHA-256, bytes) of code.zip: the modules of ``stages`` that ENTRY needs, under the package's own name.

    The name holds the hash of the sources, so that code of several versions lives in one process; the same sources give
    the same bytes.
    """
    import stages

    [root] = [Path(place) for place in stages.__path__]
    sources = {name: path.read_text(encoding="utf-8") for name, path in _closure(root).items()}
    joined = "\0".join(f"{name}\0{text}" for name, text in sorted(sources.items()))
    package = f"edgealign_{hashlib.sha256(joined.encode()).hexdigest()[:12]}"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(sources.items()):
            renamed = re.sub(r"^(\s*(?:from|import)\s+)stages\b", rf"\g<1>{package}", text, flags=re.MULTILINE)
            entry = zipfile.ZipInfo(name.replace("stages", package, 1), (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, renamed)
    return package, sha256_bytes(buffer.getvalue()), buffer.getvalue()


def _closure(root: Path) -> dict[str, Path]:
    """{path in the zip: file} of ENTRY and everything of ``stages`` that these import, wherever in the file."""

    def place(module: str) -> Path | None:
        parts = module.split(".")[1:]
        for path in (root.joinpath(*parts, "__init__.py"), root.joinpath(*parts).with_suffix(".py")):
            if path.is_file():
                return path
        return None

    found: dict[str, Path] = {}
    waiting = list(ENTRY)
    while waiting:
        module = waiting.pop()
        path = place(module)
        if path is None or str(Path("stages") / path.relative_to(root)) in found:
            continue
        found[str(Path("stages") / path.relative_to(root))] = path
        waiting.append(module.rpartition(".")[0] or "stages")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "stages":
                waiting += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names if alias.name.split(".")[0] == "stages"]
    return found
