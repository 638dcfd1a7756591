"""The ``evaluate`` stage: every user's held-out utterances through base, personal adapter, cascade and LLM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.cluster.placement import Placement
from pipeline.cluster.session import connect
from pipeline.cluster.shipping import Shipment, ship
from pipeline.cluster.work import Result, run_actors
from pipeline.progress import progress
from pipeline.runs.base_setup import judging_people, load_labelled
from pipeline.runs.common import Context, Costs, log, tell_failures, worker_threads
from pipeline.runs.recorded import figures_of, recorded
from stages.atomic import sha256_bytes, sha256_json, write_json
from stages.errors import InputError

EVALUATE_VERSION = 5  # raise when the same inputs would give other figures


class EvaluationWorker:
    """Loads base adapter and LLM once, then judges one user after another. Runs on any node."""

    def __init__(self, base: Shipment, llm: Shipment, settings: Any, guard: list[Any], threads: int) -> None:
        import torch

        from stages.guard import Guard
        from stages.listener import Listener
        from stages.models.llm import load_llm

        torch.set_num_threads(threads)
        self.base_folder, self.llm_folder = base.unpack(), llm.unpack()
        self.base = Listener.load(self.base_folder, self.llm_folder)
        self.guard = Guard(self.base, guard)
        self.settings = settings
        self.llm = load_llm(self.llm_folder) if settings.utterances else None

    def work(
        self,
        adapter: Shipment | None,
        held_out: list[Any],
        cohort: str,
        user: str,
        advance: Callable[[int], None] | None = None,
    ) -> dict[str, Any]:
        """One user's figures, on the user's own utterances and on the guard's."""
        from stages.evaluate import evaluate_user
        from stages.listener import Listener

        personal = None
        if adapter is not None:
            personal = Listener.load(self.base_folder, self.llm_folder, adapter.unpack())
        found = evaluate_user(self.base, personal, held_out, self.llm, self.settings, advance)
        return {**found, "guard": self.guard.judge(personal, cohort, user)}


def run(context: Context, cohort: str) -> None:
    """Judge every user of the cohort that has an adapter; write the full evaluation and ``metrics/<cohort>.json``."""
    with recorded(context, "evaluate", cohort, context.settings.personalize.method) as run:
        _run(context, cohort, run)


def _run(context: Context, cohort: str, run: Any) -> None:
    from stages.evaluate import LlmSettings, pool

    project, settings = context.project, context.settings
    folders, held_out = _held_out(context, cohort)
    chosen = LlmSettings(
        settings.evaluate.llm_utterances, settings.evaluate.max_new_tokens, settings.evaluate.instruction
    )
    guard = _guard(context)
    keys = _keys(context, folders, held_out, guard)
    users = _judged_before(project.evaluation(cohort), keys)
    costs = Costs()
    names = [name for name in folders if name not in users]
    fresh: list[str] = []
    log.info("evaluate@%s: %d of %d user(s) to judge", cohort, len(names), len(folders))

    def done(index: int, result: Result) -> None:
        costs.add(result)
        name = names[index]
        users[name] = {**_of_training(project.base_adapter, folders[name]), **result.value, "key": keys[name]}
        fresh.append(name)

    run.params({"evaluate": settings.evaluate.model_dump(), **_identities(context)})
    run.metrics({"users_judged": len(names)})
    if names:
        shared = context.shares_disk
        with (
            connect(project, settings) as session,
            progress(f"evaluate@{cohort}", sum(len(held_out[name]) for name in names), "utterances") as advance,
        ):
            failures = run_actors(
                session,
                EvaluationWorker,
                (
                    ship(project.base_adapter, shared_disk=shared),
                    ship(project.llm, shared_disk=shared),
                    chosen,
                    guard,
                    worker_threads(),
                ),
                [(ship(folders[name], shared_disk=shared), held_out[name], cohort, name) for name in names],
                Placement(cpus=1),
                workers=1,  # one LLM in memory, with all cores
                retries=settings.ray.task_retries,
                on_result=done,
                on_advance=advance,
                describe=lambda index: f"{cohort}/{names[index]}",
            )
        run.tags(costs.tags())
        for failure in failures:
            with run.child(f"evaluate@{cohort}", user=names[failure.index]) as child:
                child.failed(failure.message)
        tell_failures(f"evaluate@{cohort}", failures, len(names))
    together = pool(users)
    skipped = _skipped(project.adapters(cohort))
    content = {"cohort": cohort, "users": dict(sorted(users.items())), "skipped": skipped, "all": together}
    write_json(project.evaluation(cohort), content)
    write_json(project.metrics(cohort), figures_alone(content))
    run.metrics({**figures_alone(content)["all"], **costs.metrics()})
    run.artifact(project.metrics(cohort), "metrics")
    for user in fresh:
        _record_user(context, run, cohort, user, users[user])
    if fresh:
        _show(context, cohort, content, run)
    log.info("evaluate@%s: WER %s with personal adapters, %s base", cohort, together["wer"], together["base_wer"])


def _show(context: Context, cohort: str, content: dict[str, Any], run: Any) -> None:
    """The cohort's figures, for its run."""
    from stages.figures import draw_judged
    from stages.report import summarise, write_csvs

    with figures_of(context, run) as folder:
        drawn = draw_judged({cohort: content}, summarise({cohort: content}, {}), folder)
        # names the users: a search for one of them finds the run, whose pictures show the names, too
        write_csvs({cohort: content}, {}, folder)
        for path in [*drawn.values(), folder / "wer_by_user.csv"]:
            run.artifact(path, "figures")


def _record_user(context: Context, run: Any, cohort: str, user: str, found: dict[str, Any]) -> None:
    """The run of one user, of the device that trained the adapter; the run above says where it was judged."""
    from stages.report_page import user_page

    device = {"device": found.get("device"), "device_kind": found.get("device_kind")}
    with run.child(f"evaluate@{cohort}", user=user, **device) as child:
        child.params(run.record.params)
        child.metrics({name: value for name, value in found.items() if isinstance(value, (int, float))})
        child.metrics({name: found["personal"][name] for name in ("wer", "cer")})
        child.metrics({f"base_{name}": found["base"][name] for name in ("wer", "cer")})
        guard = found["guard"]
        if guard["utterances"]:
            child.metrics({"guard_wer": guard["personal"]["wer"], "base_guard_wer": guard["base"]["wer"]})
        child.tags({"adapter_sha256": found["adapter_sha256"]})
        with figures_of(context, child) as folder:
            page = folder / "listen.html"
            page.write_text(user_page(cohort, user, found, context.recordings), encoding="utf-8")
            child.artifact(page)
        child.dataset(f"{cohort}/{user}", found["held_out_sha256"], f"data/cohorts/{cohort}", context="evaluation")


def _held_out(context: Context, cohort: str) -> tuple[dict[str, Path], dict[str, list[Any]]]:
    """Each user's adapter folder and the held-out utterances that its record names, with their languages."""
    from dataclasses import replace

    from pipeline.runs.second_labels import languages_of
    from stages.alignment.record import read_record
    from stages.features import read_features
    from stages.text import UNKNOWN

    languages = languages_of(context, cohort)
    by_name = {item.utterance: item for item in load_labelled(context, [cohort], read_features)}
    folders, held_out = {}, {}
    for path in sorted(context.project.adapters(cohort).glob("*/adapter.json")):
        record = read_record(path.parent)
        missing = [name for name in record.held_out_utterances if name not in by_name]
        if missing:
            raise InputError(
                f"{path}: holds out {missing[0]}, which has no features or label now. Run `dvc repro personalize@{cohort}`."
            )
        folders[path.parent.name] = path.parent
        held_out[path.parent.name] = [
            replace(by_name[name], language=languages.get(name, UNKNOWN)) for name in record.held_out_utterances
        ]
    return folders, held_out


def _guard(context: Context) -> list[Any]:
    """Utterances that the base holds out, of all its cohorts. They change only with the base, which is a dependency."""
    from stages.alignment.record import read_record
    from stages.guard import spread

    names = set(read_record(context.project.base_adapter).held_out_utterances)
    judging = judging_people(context)  # by people: a name alone may be another utterance's in another cohort
    return spread([item for item in judging if item.utterance in names], context.settings.evaluate.guard_utterances)


def _keys(
    context: Context, folders: dict[str, Path], held_out: dict[str, list[Any]], guard: list[Any]
) -> dict[str, str]:
    """For each user what the figures follow from: adapters, speller, held-out utterances and the guard's, settings, LLM."""
    from stages.alignment.adapter import SPELLER
    from stages.alignment.record import read_record
    from stages.models.identity import read_identity
    from stages.text import language_code

    base: Any = read_record(context.project.base_adapter).weights_sha256
    if (context.project.base_adapter / SPELLER).is_dir():
        base = [base, read_record(context.project.base_adapter / SPELLER).weights_sha256]
    llm = str(read_identity(context.project.llm))
    guarding = [[item.cohort, item.user, item.utterance, item.text] for item in guard]
    keys = {}
    for name, folder in folders.items():
        record = read_record(folder)
        judged = [
            [
                *(item.utterance, item.text, language_code(item.language), item.cascade_text),
                *(item.audio_sha256, sha256_bytes(item.frames.tobytes())),
            ]
            for item in held_out[name]
        ]
        settings = context.settings.evaluate.model_dump()
        keys[name] = sha256_json([EVALUATE_VERSION, base, record.weights_sha256, llm, settings, judged, guarding])
    return keys


def _judged_before(path: Path, keys: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The users of the last evaluation whose figures still stand."""
    import json

    try:
        before = json.loads(path.read_text(encoding="utf-8"))["users"]
        return {user: found for user, found in before.items() if keys.get(user) == found.get("key", "")}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}  # none, or not what this stage writes: all are judged anew


def _identities(context: Context) -> dict[str, str]:
    """The frozen models and the base that are judged."""
    from stages.alignment.record import read_record

    record = read_record(context.project.base_adapter)
    return {"encoder": record.encoder, "llm": record.llm, "base": record.weights_sha256}


def _of_training(base: Path, folder: Path) -> dict[str, Any]:
    """What an adapter's record says of its training, by DESIGN's names, and which weights it changed."""
    from stages.alignment.adapter import read_tensors
    from stages.alignment.record import read_record
    from stages.insight import changed_weights

    record = read_record(folder)
    kept = ("train_seconds", "utterances", "trainable_parameters", "density", "peak_rss_bytes", "bytes_exchanged")
    return {
        **{name: record.metrics.get(name) for name in kept},
        "adapter_bytes": (folder / "adapter.safetensors").stat().st_size,
        "adapter_sha256": record.weights_sha256,
        "method": record.method,
        "device": record.device.get("model", "unknown"),
        "device_kind": record.device.get("kind", "unknown"),
        "curve": record.metrics.get("curve", {}).get("loss", []),
        "layers": changed_weights(read_tensors(base, read_record(base)), read_tensors(folder, record), record.method),
    }


def _skipped(folder: Path) -> dict[str, str]:
    import json

    path = folder / "skipped.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def figures_alone(content: dict[str, Any]) -> dict[str, Any]:
    """A cohort's figures for `dvc metrics`. Git tracks that file and never forgets: it must not learn who a user is."""
    counts = {"users": len(content["users"]), "users_skipped": len(content["skipped"])}
    return {"cohort": content["cohort"], "all": {**content["all"], **counts}}
