"""A small project whose personal adapters were trained, judged and recorded by the stages themselves, without a cluster.

The base learns words from patterns of frames (tests.helpers_alignment); ``ann`` and ``bob`` have another microphone, so
that an adapter of their own helps them; ``cid`` has the base's. Their runs wait in the spool: no store is made.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import yaml

from pipeline.cluster.nodes import NodeInfo
from pipeline.cluster.work import Failure, Result
from pipeline.project import Project
from pipeline.runs.common import Context
from pipeline.settings import load_settings
from pipeline.tracking.tracker import Tracker
from stages.errors import TrackingError
from tests.helpers_cohorts import make_project, voice_like

ENCODER = "encoder@1"
SPEAKERS = {"ann": 1.5, "bob": 1.5, "cid": 0.0}
"""User: how far the frames lie from those that the base has heard."""

EACH = 30
GOOD = {"steps": 1, "learning_rate": 1e-9}
"""The mean of the user's frames is all that is learned: what undoes a microphone."""

FAIR = {"steps": 6, "learning_rate": 1e-2}
"""Then the masks, wide for such narrow frames, cost a little."""


class Away:
    """A store that cannot be reached: what is recorded stays in the spool."""

    def send(self, record: Any) -> str:
        raise TrackingError("the store is away")


def context_of(project: Project, store: Any = None) -> Context:
    settings = load_settings(project.root)
    return Context(project, settings, Tracker(project, settings.tracking, store))


def set_params(project: Project, **sections: dict[str, Any]) -> None:
    """Change values of sections of params.yaml."""
    path = project.root / "params.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, values in sections.items():
        content[section] |= values
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def build(folder: Path, cohorts: Mapping[str, Mapping[str, float]] | None = None) -> Project:
    """The project with its recordings, features, labels, base and LLM, and one adapter a user.

    ``cohorts`` gives each cohort's users as SPEAKERS does; by default there is one, ``home``.
    """
    cohorts = cohorts or {"home": SPEAKERS}
    project = make_project(folder)
    content = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    content |= {"cohorts": [*cohorts], "base_cohorts": [], "personal_cohorts": [*cohorts]}
    content["pseudo_labels"]["untold_only"] = []
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    set_params(
        project,
        personalize={**FAIR, "density": 0.05, "train_utterances": 16},
        evaluate={"llm_utterances": 0},
    )
    write_llm(project)
    for place, (cohort, speakers) in enumerate(cohorts.items()):
        write_cohort(project, cohort, speakers, 10 * place)
    _write_base(project)
    compute(project)
    return project


def compute(project: Project, lost: Collection[str] = ()) -> None:
    """The stages from ``second_labels`` to ``evaluate`` of every cohort, their workers in this process.

    ``lost``: users, as COHORT/USER, whose training dies with its worker.
    """
    from pipeline.runs import evaluate, over_shards, personalize, second_labels

    context = context_of(project, Away())
    with in_this_process(over_shards, personalize, evaluate, lost=lost):
        for cohort in context.settings.personal_cohorts:
            second_labels.run(context, cohort)
            personalize.run(context, cohort)
            evaluate.run(context, cohort)
            judge_guard(project, cohort=cohort)


def judge_guard(project: Project, wer: float = 0.1, cohort: str = "home") -> None:
    """Guard figures for everybody: this project has no other people whose utterances could be held out."""
    from stages.atomic import write_json

    content = json.loads(project.evaluation(cohort).read_text(encoding="utf-8"))
    for entry in content["users"].values():
        entry["guard"] = {"base": {"wer": 0.1, "cer": 0.1}, "personal": {"wer": wer, "cer": 0.1}, "utterances": 5}
    write_json(project.evaluation(cohort), content)


@contextmanager
def in_this_process(*modules: Any, lost: Collection[str] = ()) -> Iterator[None]:
    """Work that the modules give to a cluster is done here; tasks that are described as one of ``lost`` fail."""
    node = NodeInfo("here", "virtual", "test", resources={"jetson": 1.0, "memory": 6e9})

    @contextmanager
    def connect(*arguments: Any) -> Iterator[Any]:
        yield SimpleNamespace(describe=lambda: "no cluster", nodes=lambda: [node])

    def run_tasks(
        session: Any, function: Any, items: Any, placement: Any, *, on_result: Any, describe: Any = str, **_: Any
    ) -> list[Failure]:
        failures = []
        for index, item in enumerate(items):
            if describe(index) in lost:
                failures.append(Failure(index, describe(index), "the worker died"))
            else:
                on_result(index, Result(function(*item), node, 1, 0.1))
        return failures

    def run_actors(
        session: Any, actor: Any, arguments: Any, items: Any, placement: Any, *, on_result: Any, **_: Any
    ) -> list[Any]:
        worker = actor(*arguments)
        return run_tasks(session, worker.work, items, placement, on_result=on_result)

    with ExitStack() as stack:
        for module in modules:
            for name, value in {"connect": connect, "run_tasks": run_tasks, "run_actors": run_actors}.items():
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, value))
        yield


def write_llm(project: Project) -> None:
    """A tiny Llama whose tokens are whole words."""
    import tokenizers

    from tests.helpers_alignment import WORDS

    words = {word: index for index, word in enumerate(("<end>", *WORDS))}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<end>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    save_llm(project.llm, plain)


def save_llm(folder: Path, plain: Any) -> None:
    """A tiny Llama of random weights with a ``tokenizers.Tokenizer``."""
    import torch
    import transformers

    from stages.models.identity import write_identity
    from tests.helpers_alignment import CONFIG

    torch.manual_seed(0)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>", unk_token="<end>")
    config = transformers.LlamaConfig(
        vocab_size=plain.get_vocab_size(),
        hidden_size=CONFIG.llm_width,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.1,
    )
    tokenizer.save_pretrained(folder)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    write_identity(folder, "tiny", "llama", CONFIG.llm_width, "model.embed_tokens.weight")


def write_cohort(project: Project, cohort: str, speakers: Mapping[str, float], first: int) -> None:
    """Shards with their index and record, features and labels; ``first`` makes this cohort's sounds its own."""
    import pyarrow as pa

    from pipeline.cohorts.index import index_row, table_of, write_index
    from pipeline.cohorts.store import CohortRecord, totals, write_record
    from stages.atomic import sha256_bytes, sha256_file
    from stages.audio import encode_flac
    from stages.consent import make_consent
    from stages.pseudo_labels import TRANSCRIPTS, Rules, label_table
    from stages.schema import FEATURES, write_table
    from stages.shards import ShardItem, iter_shard, write_shards
    from tests.helpers_alignment import spoken

    items, rows = [], []
    for place, (user, shift) in enumerate(speakers.items(), first):
        for number, example in enumerate(spoken(EACH, seed=10 + place, shift=shift)):
            name = f"{user}-{number:03d}"
            audio = encode_flac(voice_like(0.2, 1000 * place + number))
            digest = sha256_bytes(audio)
            items.append(
                ShardItem(name, user, example.text, "en", make_consent(True), digest, 0.2, audio, digest),
            )
            frames = example.frames.numpy().astype("<f2")
            rows.append(
                {
                    "utterance": name,
                    "user": user,
                    "cohort": cohort,
                    "shard": "shard-00000.tar",
                    "audio_sha256": digest,
                    "duration_s": 0.2,
                    "n_frames": len(frames),
                    "width": frames.shape[1],
                    "frames": frames.tobytes(),
                    "encoder": ENCODER,
                }
            )
    folder = project.cohort(cohort)
    folder.mkdir(parents=True)
    write_shards(items, folder, max_items=len(items))
    shards = {path.name: sha256_file(path) for path in sorted(folder.glob("shard-*.tar"))}
    [shard] = [folder / name for name in shards]
    table = table_of(index_row(item, shard.name) for item in iter_shard(shard))
    write_index(table, folder, 0, shards)
    write_record(
        folder, CohortRecord(cohort, "en", make_consent(True), "test", "0" * 64, shards=shards, **totals(table, {}))
    )
    write_table(pa.Table.from_pylist(rows, FEATURES), project.features(cohort) / f"{shard.stem}.parquet")
    transcripts = project.transcripts(cohort) / f"{shard.stem}.parquet"
    write_table(TRANSCRIPTS.empty_table(), transcripts)
    write_table(label_table(shard, transcripts, Rules()).sort_by("utterance"), project.labels(cohort))


def _write_base(project: Project) -> None:
    import torch

    from stages.alignment.adapter import AdapterRecord, save_base
    from stages.alignment.trainer import Trainer
    from stages.alignment.vocabulary import Vocabulary
    from stages.models.llm import embedding_rows, llm_identity, load_tokenizer
    from tests.helpers_alignment import CONFIG, WORDS, spoken, train_config

    torch.set_num_threads(1)
    vocabulary = Vocabulary.of_texts(load_tokenizer(project.llm), [" ".join(WORDS)])
    trainer = Trainer(CONFIG, train_config(epochs=12), spoken(160), embedding_rows(project.llm, vocabulary.ids))
    for _ in range(12):
        trainer.run_epoch()
    record = AdapterRecord(
        "base", "embedlink", CONFIG.to_json(), ENCODER, llm_identity(project.llm), list(vocabulary.ids)
    )
    save_base(project.base_adapter, trainer.bridge.eval(), record)


def another_base(project: Project) -> None:
    """The base is trained anew: other weights under the same name."""
    import torch

    from stages.alignment.adapter import load_base, save_base

    bridge, _, record = load_base(project.base_adapter)
    with torch.no_grad():
        next(iter(bridge.parameters())).add_(1.0)
    save_base(project.base_adapter, bridge, record)


def relabel(project: Project, utterance: str, **changes: Any) -> None:
    """Change one utterance's label, as both stages that write labels would."""
    import pyarrow as pa

    from stages.schema import LABELS, read_table, write_table

    for path in (project.labels("home"), project.second_labels("home")):
        rows = read_table(path, LABELS).to_pylist()
        [row] = [row for row in rows if row["utterance"] == utterance]
        row.update(changes)
        write_table(pa.Table.from_pylist(rows, LABELS), path)


def withhold(project: Project, utterance: str) -> None:
    """Take back the consent to one utterance, in shard, index and record."""
    from dataclasses import replace

    from pipeline.cohorts.index import index_row, table_of, write_index
    from pipeline.cohorts.store import read_cohort, write_record
    from stages.atomic import sha256_file
    from stages.consent import make_consent
    from stages.shards import iter_shard, write_shards

    folder = project.cohort("home")
    record = read_cohort(folder)
    items = [
        replace(item, consent=make_consent(item.utterance != utterance))
        for name in record.shards
        for item in iter_shard(folder / name)
    ]
    write_shards(items, folder, max_items=len(items))
    shards = {name: sha256_file(folder / name) for name in record.shards}
    write_index(
        table_of(index_row(item, name) for name in shards for item in iter_shard(folder / name)), folder, 0, shards
    )
    write_record(folder, replace(record, shards=shards))


def tracker_of(project: Project) -> Tracker:
    return context_of(project).tracker


def client_of(project: Project) -> Any:
    from mlflow import MlflowClient

    uri = tracker_of(project).uri
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def entry(project: Project, user: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(project.evaluation("home").read_text())["users"][user]
    return found
