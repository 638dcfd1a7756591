"""A project whose base cohort people transcribed in part, for tests of a base's rounds; what trains runs in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.project import Project
from tests.helpers_adapters import ENCODER, Away, context_of, in_this_process, set_params, write_cohort, write_llm
from tests.helpers_cohorts import make_project

USERS = ("ann", "bob", "cid", "dot", "eve")
HELD_OUT = "dot"
"""Who judges: it follows from the names and the seed."""

RIGHT, WRONG, UNSURE = range(5), range(5, 8), range(8, 10)
"""Of each user, the utterances that nobody transcribed: Whisper has them right, wrong, or right without being sure."""

EPOCHS = 12


def build(folder: Path, untold: bool = True, **base: Any) -> Project:
    """One cohort of five people that trains a base; without ``untold`` people transcribed everything."""
    project = make_project(folder)
    content = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    content |= {"cohorts": ["home"], "base_cohorts": ["home"], "personal_cohorts": []}
    content["pseudo_labels"]["untold_only"] = []
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    rates = {"epochs": EPOCHS, "learning_rate": 3e-3, "batch_size": 8, "dev_users": 0.2, **base}
    set_params(project, base=rates, alignment={"stack": 2, "width": 32, "layers": 1, "heads": 2})
    write_llm(project)
    _write_encoder(project)
    write_cohort(project, "home", dict.fromkeys(USERS, 0.0), 0)
    if untold:
        _take_texts(project)
    return project


def _write_encoder(project: Project) -> None:
    from stages.models.identity import write_identity
    from tests.helpers_alignment import CONFIG

    project.encoder.mkdir(parents=True)
    (project.encoder / "model.safetensors").write_bytes(b"weights")
    write_identity(project.encoder, ENCODER.partition("@")[0], "whisper", CONFIG.encoder_width)


def wrong(text: str) -> str:
    """What Whisper wrote instead: as many words, others."""
    return " ".join("alpha" if word == "bravo" else "bravo" for word in text.split())


def _take_texts(project: Project) -> None:
    """Labels as pseudo_labels makes them of utterances without a human transcript."""
    import pyarrow as pa

    from stages.schema import LABELS, read_table, write_table

    rows = read_table(project.labels("home"), LABELS).to_pylist()
    for row in rows:
        number = int(row["utterance"].rpartition("-")[2])
        if number >= UNSURE.stop:
            continue
        heard = wrong(row["text"]) if number in WRONG else row["text"]
        sure = number not in UNSURE
        score = 0.9 if sure else 0.4
        row |= {
            "source": "pseudo",
            "teachers": [{"name": "faster-whisper@1", "text": heard.capitalize() + ".", "score": score}],
            "confidence": score,
            "accepted": sure,
            "text": heard if sure else None,
            "reason": "" if sure else "unsure: mean token probability 0.40, at least 0.6 is needed",
        }
    write_table(pa.Table.from_pylist(rows, LABELS), project.labels("home"))


class Trained:
    """Trains the base and keeps what each epoch learned from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.setups: list[Any] = []
        """Of each epoch that was trained."""

    def run(self, project: Project, stop_before: int | None = None) -> dict[str, Any]:
        """adapter.json of the base. ``stop_before``: the epoch, of all rounds, at whose beginning the process is killed."""
        import json

        import stages.base
        from pipeline.runs import base, base_inputs, base_rounds, configs
        from stages.alignment.trainer import Masking

        unmasked = configs.train_config
        train = stages.base.run_epoch
        self.setups = []

        def run_epoch(setup: Any, *arguments: Any) -> Any:
            if len(self.setups) == stop_before:
                raise KeyboardInterrupt
            self.setups.append(setup)
            return train(setup, *arguments)

        context = context_of(project, Away())
        with self._monkeypatch.context() as patched, in_this_process(base, base_rounds):
            patched.setattr(stages.base, "run_epoch", run_epoch)
            # masks are made for an encoder's hundreds of channels: these frames have twelve
            patched.setattr(
                configs, "train_config", lambda settings: replace(unmasked(settings), masking=Masking(0, 0, 0, 0))
            )
            for module in (base, base_rounds):  # two threads of a busy machine wait for each other most of the time
                patched.setattr(module, "worker_threads", lambda: 1)
            base_inputs.run(context)
            base.run(context)
        return json.loads((project.base_adapter / "adapter.json").read_text(encoding="utf-8"))
