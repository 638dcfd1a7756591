"""A small world to forget somebody in: cohorts, everything made of them, DVC with a remote and old versions, MLflow, leftovers.

Files are written by the functions that the stages write them with; only training and encoding are left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.project import Project
from tests.helpers_cohorts import voice_like

ROOT = Path(__file__).resolve().parents[1]
CALLED, SLUG = "Zebulon Quux", "zebulon-quux"
"""The person: as the source has it, and as edgealign writes it."""

WORDS = "marmalade"
"""In every text of the person and in nobody else's."""

COHORTS = {
    "home": {SLUG: 6, "ann": 6, "bob": 6, "zoe": 5},  # trains the base, and is personalised
    "far": {SLUG: 4, "carol": 5},
    "solo": {SLUG: 4},
}
ENCODER_WIDTH = 12
TEACHER = "embedlink@0123456789abcdef"
TRANSCRIBER = "faster-whisper@0123456789abcdef"


@dataclass(frozen=True)
class World:
    """Everything lies below ``folder``, so that every byte of it can be searched."""

    folder: Path

    @property
    def project(self) -> Project:
        return Project(self.folder / "project")

    @property
    def environment(self) -> dict[str, str]:
        """DVC's notes and what clusters ship, below the folder too."""
        return {
            "DVC_SITE_CACHE_DIR": str(self.folder / "site"),
            "XDG_CACHE_HOME": str(self.folder / "xdg"),
            "EDGEALIGN_AGENT_HOME": str(self.folder / "agent"),
            "PYTHONPATH": str(ROOT),
            "DVC_NO_ANALYTICS": "1",
        }

    def run(self, *command: str, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command,
            cwd=cwd or self.project.root,
            env={**os.environ, **self.environment, "PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    def dvc(self, *arguments: str, cwd: Path | None = None) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments, cwd=cwd).stdout


def utterances_of(cohort: str, user: str, count: int, take: int) -> Iterator[Any]:
    """Utterances as ``cohort add`` would make them; every other id of the person does not hold the name.

    In the order of the ids they lie among those of the others, so that shards are of several people.
    """
    from stages.atomic import sha256_bytes
    from stages.audio import encode_flac
    from stages.consent import make_consent
    from stages.shards import ShardItem

    for number in range(count):
        seed = zlib.crc32(f"{cohort}/{user}/{number}/{take}".encode())
        samples = voice_like(0.3, seed)
        audio = encode_flac(samples)
        mine = user == SLUG
        yield ShardItem(
            utterance=f"{seed:010d}-take" if mine and number % 2 else f"{user}-{take}{number:04d}",
            user=user,
            text=None if number == 3 else f"{'purple ' + WORDS if mine else 'turn on the light'} number {number}",
            language="en",
            consent=make_consent(True),
            source_sha256=sha256_bytes(b"source" + audio),
            duration_s=len(samples) / 16_000,
            audio=audio,
            audio_sha256=sha256_bytes(audio),
        )


def write_cohort(project: Project, cohort: str, take: int = 0) -> None:
    """Shards of four utterances, index and cohort.yaml."""
    from pipeline.cohorts.index import index_row, table_of, write_index
    from pipeline.cohorts.store import CohortRecord, totals, write_record
    from stages.atomic import sha256_file, sha256_json
    from stages.consent import make_consent
    from stages.shards import iter_shard, write_shards

    folder = project.cohort(cohort)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    items = [item for user, count in COHORTS[cohort].items() for item in utterances_of(cohort, user, count, take)]
    write_shards(sorted(items, key=lambda item: item.utterance), folder, max_items=4)
    shards = {path.name: sha256_file(path) for path in sorted(folder.glob("shard-*.tar"))}
    table = table_of(index_row(item, name) for name in shards for item in iter_shard(folder / name))
    write_index(table, folder, 0, shards)
    record = CohortRecord(cohort, "en", make_consent(True), "edgealign cohort add", sha256_json([cohort, take]))
    names = {SLUG: CALLED}
    write_record(folder, replace(record, shards=shards, **totals(table, names)))


def append(project: Project, cohort: str, user: str) -> None:
    """One more shard, as ``cohort append`` writes it."""
    from pipeline.cohorts.index import index_row, next_batch, read_index, table_of, write_index
    from pipeline.cohorts.store import read_cohort, totals, write_record
    from stages.atomic import sha256_bytes
    from stages.shards import pack_shard

    folder = project.cohort(cohort)
    record = read_cohort(folder)
    name = f"shard-{len(record.shards):05d}.tar"
    items = list(utterances_of(cohort, user, 3, 7))
    packed = pack_shard(items)
    (folder / name).write_bytes(packed)
    added = {name: sha256_bytes(packed)}
    write_index(table_of(index_row(item, name) for item in items), folder, next_batch(folder), added)
    record = replace(record, shards={**record.shards, **added})
    write_record(folder, record)
    names = {slug: user.name for slug, user in record.users.items()}
    write_record(folder, replace(record, **totals(read_index(folder), names)))


def feature_key(project: Project, digest: str) -> str:
    from pipeline.settings import load_settings
    from stages.features import features_key
    from stages.models.identity import read_identity

    settings = load_settings(project.root).features
    return features_key(str(read_identity(project.encoder)), digest, settings.padding_s, settings.max_duration_s)


def transcript_key(project: Project, digest: str) -> str:
    from pipeline.settings import load_settings
    from stages.pseudo_labels import transcripts_key

    settings = load_settings(project.root)
    return transcripts_key(digest, TRANSCRIBER, settings.pseudo_labels.beam_size, True)


def read_key(project: Project, shard: Path) -> str:
    """Of what the adapter reads in a shard as it is: whatever nobody transcribed."""
    from stages.atomic import sha256_file
    from stages.second_labels import read_outs_key
    from stages.shards import iter_shard

    asked = [item.utterance for item in iter_shard(shard) if item.text is None]
    return read_outs_key(TEACHER, feature_key(project, sha256_file(shard)), asked)


def write_tables(project: Project, cohort: str) -> tuple[Any, dict[str, str]]:
    """Features, what both teachers heard and labels of every shard; the labels, and {utterance: hash of its audio}."""
    import pyarrow as pa

    from stages.atomic import sha256_file
    from stages.features import features_path, write_shard_features
    from stages.models.identity import read_identity
    from stages.pseudo_labels import TRANSCRIPTS, Rules, label_table
    from stages.schema import FEATURES, READ_OUTS, write_table
    from stages.shards import Problem, iter_shard, list_shards

    identity = str(read_identity(project.encoder))
    labels = []
    audio: dict[str, str] = {}
    for shard in list_shards(project.cohort(cohort)):
        digest = sha256_file(shard)
        audio |= {item.utterance: item.audio_sha256 for item in iter_shard(shard)}
        rows, heard = [], []
        for item in iter_shard(shard):
            frames = np.random.default_rng(zlib.crc32(item.audio)).normal(size=(9, ENCODER_WIDTH)).astype("<f2")
            rows.append(
                {
                    "utterance": item.utterance,
                    "user": item.user,
                    "cohort": cohort,
                    "shard": shard.name,
                    "audio_sha256": item.audio_sha256,
                    "duration_s": item.duration_s,
                    "n_frames": 9,
                    "width": ENCODER_WIDTH,
                    "frames": frames.tobytes(),
                    "encoder": identity,
                }
            )
            teacher = {
                "name": "teacher",
                "text": item.text or f"{WORDS if item.user == SLUG else 'lights'} on",
                "score": 0.9,
            }
            heard.append(
                {
                    "utterance": item.utterance,
                    "audio_sha256": item.audio_sha256,
                    "teachers": [teacher],
                    "no_speech": 0.1,
                    "compression": 1.0,
                }
            )
        problems = [Problem(row["utterance"], "a bad one") for row in rows[:2]]
        path = features_path(project.features(cohort), shard)
        table = pa.Table.from_pylist(rows, FEATURES)
        write_shard_features(table, path, feature_key(project, digest), identity, problems)
        transcripts = project.transcripts(cohort) / path.name
        made_from = {"key": transcript_key(project, digest), "transcriber": TRANSCRIBER}
        write_table(pa.Table.from_pylist(heard, TRANSCRIPTS), transcripts, made_from)
        labels.append(label_table(shard, transcripts, Rules()))
        read = [
            {
                "utterance": item.utterance,
                "audio_sha256": item.audio_sha256,
                "text": WORDS if item.user == SLUG else "lights",
                "score": 0.5,
            }
            for item in iter_shard(shard)
            if item.text is None
        ]
        meta = {"key": read_key(project, shard), "teacher": TEACHER}
        write_table(pa.Table.from_pylist(read, READ_OUTS), project.read_outs(cohort) / path.name, meta)
    table = pa.concat_tables(labels).sort_by("utterance")
    write_table(table, project.labels(cohort))
    write_table(table, project.second_labels(cohort))
    return table, audio


def write_artifacts(project: Project, cohort: str) -> None:
    """Tables of every shard, an adapter and an evaluation of every user."""
    from pipeline.runs.evaluate import figures_alone
    from stages.alignment.adapter import read_record
    from stages.atomic import write_json

    table, audio = write_tables(project, cohort)
    by_user: dict[str, list[str]] = {}
    for row in table.to_pylist():
        by_user.setdefault(row["user"], []).append(row["utterance"])
    if cohort == "home":
        write_base(project, [name for names in by_user.values() for name in names])
    users = {user: write_adapter(project, cohort, user, names, audio) for user, names in by_user.items()}
    write_json(project.adapters(cohort) / "skipped.json", {"lone": "1 labelled utterance"})
    from stages.evaluate import pool

    content = {"cohort": cohort, "users": users, "skipped": {"lone": "1 labelled utterance"}, "all": pool(users)}
    write_json(project.evaluation(cohort), content)
    write_json(project.metrics(cohort), figures_alone(content))
    assert read_record(project.adapters(cohort) / SLUG).user == SLUG


def _tensors(name: str) -> dict[str, np.ndarray]:
    return {"frame_shift": np.random.default_rng(zlib.crc32(name.encode())).normal(size=64).astype(np.float32)}


def write_base(project: Project, names: list[str]) -> None:
    import torch

    from stages.alignment.adapter import AdapterRecord, save_base
    from stages.alignment.bridgeformer import BridgeFormer
    from tests.helpers_alignment import CONFIG

    torch.manual_seed(0)
    record = AdapterRecord("base", "embedlink", CONFIG.to_json(), "encoder@1", "llm@1", [1, 2, 3])
    record.train_utterances, record.held_out_utterances = sorted(names)[2:], sorted(names)[:2]
    record.metrics = {"dev_wer": 0.5, "train_seconds": 3.0, "curve": {"loss": [[0, 1.0]], "dev_wer": [[1, 3.0, 0.5]]}}
    save_base(project.base_adapter, BridgeFormer(CONFIG), record)


def write_adapter(project: Project, cohort: str, user: str, names: list[str], audio: dict[str, str]) -> dict[str, Any]:
    """A user's adapter; its entry of the evaluation."""
    from stages.alignment.adapter import AdapterRecord, read_record, save
    from tests.helpers_report import heard_rows, user_entry

    base = read_record(project.base_adapter)
    record = AdapterRecord("personal", "shira", base.bridge, base.encoder, base.llm, [1, 2, 3])
    record.base_sha256, record.cohort, record.user = base.weights_sha256, cohort, user
    record.train_utterances, record.held_out_utterances = names[2:], names[:2]
    record.metrics = {"train_seconds": 2.0, "utterances": len(names) - 2}
    record = save(project.adapters(cohort) / user, _tensors(f"{cohort}/{user}"), record)
    counts = {"wer": 0.25, "word_errors": 2, "word_total": 8, "cer": 0.2, "character_errors": 4, "character_total": 20}
    text = f"{WORDS} {user}" if user == SLUG else "turn on the light"
    example = {"utterance": names[0], "reference": text, "base": text, "personal": text, "cascade": text, "reply": text}
    entry = user_entry(0.25, 0.25, 0.25, examples=[example], adapter_sha256=record.weights_sha256)
    entry |= heard_rows({name: (text, f"{text} off", audio[name]) for name in names[:2]})
    return {**entry, "base": counts, "personal": counts, "cascade": counts}


def write_models(project: Project) -> None:
    """Two model folders: a name that is a word of the LLM must not cost it its tokenizer."""
    from safetensors.numpy import save_file

    from stages.atomic import write_json
    from stages.models.identity import write_identity

    for folder in (project.encoder, project.llm):
        folder.mkdir(parents=True)
        save_file({"weight": np.ones(4, dtype=np.float32)}, folder / "model.safetensors")
        write_json(folder / "config.json", {"model_type": "whisper"})
        write_json(folder / "tokenizer.json", {"model": {"vocab": {"ann": 1, "light": 2, "zebulon": 3}}})
        write_identity(folder, "tiny", "whisper", ENCODER_WIDTH)


def params(project: Project) -> None:
    """params.yaml of this checkout with the world's cohorts."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content |= {"cohorts": list(COHORTS), "base_cohorts": ["home"], "personal_cohorts": list(COHORTS)}
    content["pseudo_labels"]["untold_only"] = []
    (project.root / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
