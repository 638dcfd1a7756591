"""The ``base_inputs`` stage: which features and labels train the base, by hash.

DVC cannot take a list from ``params.yaml`` as dependencies. This manifest stands between: adding a cohort runs it again
(a second), but as long as the base cohorts are the same it stays the same, and the base is not trained again. Where
the base takes more than one round it names the second teacher's rules as well; where a cohort also has personal adapters,
what says which of its utterances judge those.
"""

from __future__ import annotations

from typing import Any

from pipeline.runs.base_setup import most_judging
from pipeline.runs.common import Context, log
from pipeline.runs.recorded import recorded
from stages.atomic import sha256_file, write_json
from stages.errors import InputError


def run(context: Context) -> None:
    """Write the manifest."""
    with recorded(context, "base_inputs") as run:
        content = _write(context)
        run.params({"base_cohorts": context.settings.base_cohorts})
        run.metrics({f"shards.{name}": len(content[name]["features"]) for name in context.settings.base_cohorts})


def _write(context: Context) -> dict[str, Any]:
    project, settings = context.project, context.settings
    if not settings.base_cohorts:
        raise InputError("params.yaml: base_cohorts is empty, needed at least one cohort to train the base on")
    content: dict[str, Any] = {}
    for cohort in settings.base_cohorts:
        files = sorted(project.features(cohort).glob("*.parquet"))
        if not files:
            raise InputError(f"{project.features(cohort)}: no features there. Run `dvc repro features@{cohort}`.")
        content[cohort] = {
            "features": {path.name: sha256_file(path) for path in files},
            "labels": sha256_file(project.labels(cohort)),
        }
    log.info("base_inputs: %s", ", ".join(f"{name} ({len(item['features'])} shards)" for name, item in content.items()))
    if settings.base.rounds > 1:
        # only then do the second teacher's rules train the base: else turning them must not. No cohort can be called so
        rules = settings.pseudo_labels
        names = ("adapter_alone", "whisper_alone", "unknown_word_users")
        content["pseudo_labels"] = {name: getattr(rules, name) for name in names}
    both = [cohort for cohort in settings.base_cohorts if most_judging(context, cohort) is not None]
    if both:  # what judges their users' adapters trains no base, and these say what that is
        chosen = settings.personalize
        names = ("train_utterances", "min_utterances", "seed")
        content["personal_judging"] = {"cohorts": both, **{name: getattr(chosen, name) for name in names}}
    write_json(project.base_inputs, content)
    return content
