"""A registered adapter in a process that has no checkout: the packaged models, MLflow's registry, nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.tracker import Tracker
from tests.helpers_models import tone

pytestmark = [pytest.mark.models, pytest.mark.integration]

PROGRAM = """
import json, sys

class NoCheckout:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("stages", "pipeline", "jetson_agent"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoCheckout())
asked = json.load(sys.stdin)
import mlflow, pandas, soundfile
mlflow.set_tracking_uri(asked["uri"])
try:
    model = mlflow.pyfunc.load_model(asked["model"], model_config=asked["models"])
except Exception as error:
    print(json.dumps({"refused": str(error), "type": type(error).__name__}))
    sys.exit()
samples, rate_hz = soundfile.read(asked["recording"])
say = {"reply": True, "instruction": "Repeat the user's words.", "max_new_tokens": 4}
found = {
    "path": model.predict([asked["recording"]], say).to_dict("records"),
    "array": model.predict(pandas.DataFrame({"audio": [samples]}), {"rate_hz": rate_hz}).to_dict("records"),
    "example": model.predict(model.input_example).to_dict("records"),
    "signature": str(model.metadata.signature),
}
try:
    model.predict(["nowhere.wav"])
except Exception as error:
    found["missing"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, prepared_models: Any) -> dict[str, Any]:
    """A base and ann's adapter, recorded and sent; what a process needs to know to load one."""
    import soundfile
    import torch

    from stages.alignment.adapter import AdapterRecord, save, save_base
    from stages.alignment.bridgeformer import BridgeFormer, BridgeFormerConfig
    from stages.alignment.vocabulary import Vocabulary
    from stages.models.identity import read_identity
    from stages.models.llm import load_tokenizer

    folder = tmp_path_factory.mktemp("registered")
    project = Project(folder / "project")
    torch.manual_seed(0)
    config = BridgeFormerConfig(384, 576, width=32, layers=1, heads=2, feed_forward=32)
    ids = list(Vocabulary.of_texts(load_tokenizer(prepared_models.llm), ["turn on the light"]).ids)
    identities = [str(read_identity(place)) for place in (prepared_models.encoder, prepared_models.llm)]
    bridge = BridgeFormer(config)
    torch.nn.init.constant_(bridge.blank.bias, -50.0)  # nothing is blank: it hears words in any sound
    record = AdapterRecord("base", "embedlink", config.to_json(), *identities, ids, train_utterances=["bob-1"])
    base = save_base(project.base_adapter, bridge, record)
    mine = replace(record, kind="personal", method="shira", base_sha256=base.weights_sha256, cohort="home", user="ann")
    save(project.adapters("home") / "ann", {"frame_shift": np.full(384, 0.5, np.float16)}, replace(mine, settings={}))
    tracker = Tracker(project, Tracking())
    with tracker.run("base") as run:
        run.adapter(project.base_adapter, "base")
    with tracker.run("personalize", cohort="home") as run, run.child("personalize", user="ann") as child:
        child.adapter(project.adapters("home") / "ann", "home/ann")
    soundfile.write(folder / "said.wav", tone(1.0), 16_000)
    return {
        "uri": tracker.uri,
        "model": "models:/edgealign.home.ann@challenger",
        "recording": str(folder / "said.wav"),
        "models": {name: str(place) for name, place in asdict(prepared_models).items()},
    }


def load(asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a fresh process says; its cache lies in ``folder``, where no checkout is."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**kept, "XDG_CACHE_HOME": str(folder), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def client_of(asked: dict[str, Any]) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=asked["uri"], registry_uri=asked["uri"])


def test_it_hears_and_answers_and_what_was_changed_is_refused(registered: dict[str, Any], tmp_path: Path) -> None:
    found = load(registered, tmp_path)
    [heard] = found["path"]
    assert set(heard["text"].split()) <= {"turn", "on", "the", "light"}
    assert heard["text"]
    assert 0.0 < heard["confidence"] <= 1.0
    assert isinstance(heard["reply"], str)
    assert found["array"] == [{"text": heard["text"], "confidence": pytest.approx(heard["confidence"], abs=1e-3)}]
    assert set(found["example"][0]) == {"text", "confidence"}
    for name in ("text", "confidence", "reply", "instruction", "max_new_tokens", "rate_hz"):
        assert name in found["signature"]
    assert "nowhere.wav: no such file" in found["missing"]

    # a cache holds the base's weights and sizes, nobody's utterances
    cached = list((tmp_path / "edgealign").rglob("bases/*/adapter.json"))
    assert len(cached) == 1
    assert "bob-1" not in cached[0].read_text()

    client = client_of(registered)
    version = client.get_model_version_by_alias("edgealign.home.ann", "challenger")
    folder = Path(version.source.removeprefix("file://"))
    files = {path.name for path in folder.iterdir()} - {"registered_model_meta"}  # MLflow's note of having loaded it
    assert files == {
        *("adapter.safetensors", "adapter.json", "MLmodel", "model_code.py", "code.zip"),
        *("requirements.txt", "input_example.json"),
    }
    for name in ("adapter.safetensors", "code.zip"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        refused = load(registered, tmp_path)
        (folder / name).write_bytes(whole)
        assert f"edgealign.home.ann: {name} has the hash" in refused["refused"]
        assert "Nothing of it is used" in refused["refused"]
    base = client.get_model_version_by_alias("edgealign.base", "challenger")
    weights = Path(base.source.removeprefix("file://")) / "adapter.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "text" in load(registered, tmp_path)["path"][0]  # the cached base is whole
    for cached_base in (tmp_path / "edgealign").rglob("bases/*/adapter.safetensors"):
        cached_base.write_bytes(b"cut off")
    refused = load(registered, tmp_path)
    weights.write_bytes(whole)
    assert "the base adapter in the registry has the hash" in refused["refused"]
    other = {**registered, "models": {**registered["models"], "llm": registered["models"]["encoder"]}}
    assert "text" in load(other, tmp_path)["path"][0]  # kept already: no other place is looked at
