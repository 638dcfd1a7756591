"""A lineage as a tree of lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.tree import Tree

SIGNS = {"verified": "[green]verified[/]", "told": "told", "broken": "[red]broken[/]", "missing": "[red]missing[/]"}


def tree_of(told: Mapping[str, Any]) -> Tree:
    """The tree of one adapter, from the recordings down to the devices."""
    whole = "complete" if told["complete"] else "[red]incomplete[/]"
    tree = Tree(f"[bold]{escape(told['adapter'])}[/]  {_short(told.get('adapter_sha256'))}  lineage {whole}")
    if "weights" not in told:
        return _with_problems(tree, told)
    for name, text in (("recordings", _recording), ("labels", _label), ("features", _feature)):
        _rows(tree, name, told.get(name), text)
    if "inputs" in told:
        tree.add(f"inputs as they trained it: key {_short(told['inputs']['key'])} {_sign(told['inputs'])}")
    base = told.get("base")
    if base:
        branch = tree.add(f"base {_short(base['sha256'])} {_sign(base)}")
        _base(branch, base)
    training = told["training"]
    branch = tree.add(f"adapter: method {escape(str(training['method']))}, weights {_sign(told['weights'])}")
    branch.add(f"encoder {escape(training['encoder'])}, LLM {escape(training['llm'])}")
    branch.add(f"git commit {escape(training['git_commit'])}, data {escape(training['data_md5'])}")
    _run(branch, told.get("run"))
    if "evaluation" in told:
        tree.add(f"evaluation {_sign(told['evaluation'])} {_figures(told['evaluation'])}")
    _versions(tree, told["versions"])
    device = ", ".join(f"{key} {value}" for key, value in sorted((told["devices"]["trained_on"] or {}).items()))
    branch = tree.add("devices")
    branch.add(f"trained on: {escape(device) or 'unknown'}")
    named = [alias for alias in told["devices"]["aliases"] if alias == "champion"]
    branch.add(f"handed out as: {', '.join(named) or 'none: it is no champion'}")
    return _with_problems(tree, told)


def _with_problems(tree: Tree, told: Mapping[str, Any]) -> Tree:
    if told["problems"]:
        branch = tree.add("[red]what does not fit[/]")
        for problem in told["problems"]:
            branch.add(escape(problem))
    return tree


def _rows(tree: Tree, name: str, rows: Any, text: Any) -> None:
    if isinstance(rows, list):
        counts = Counter(row["status"] for row in rows)
        branch = tree.add(f"{name}: " + ", ".join(f"{count} {SIGNS[status]}" for status, count in counts.items()))
        for row in rows:
            branch.add(f"{escape(row['utterance'])} {text(row)} {_sign(row)}")
    elif rows:
        counted = ", ".join(f"{count} of {escape(cohort)}" for cohort, count in rows["by_cohort"].items())
        tree.add(f"{name}: {counted or 'none'} {_sign(rows)}")


def _base(tree: Tree, base: Mapping[str, Any]) -> None:
    _rows(tree, "recordings", base.get("recordings"), _recording)
    if "training" in base:
        tree.add(f"git commit {escape(base['training']['git_commit'])}, data {escape(base['training']['data_md5'])}")
    _run(tree, base.get("run"))


def _run(tree: Tree, run: Mapping[str, Any] | None) -> None:
    if run:
        tree.add(f"run {run['id']} on {escape(run['device'])} ({escape(run['device_kind'])}) {_sign(run)}")


def _versions(tree: Tree, versions: list[dict[str, Any]]) -> None:
    branch = tree.add("promotions" if versions else "promotions: none, it is not registered")
    for item in versions:
        bears = f" ({', '.join(item['aliases'])})" if item["aliases"] else ""
        line = branch.add(f"{escape(item['name'])}, version {item['version']}{bears}")
        if "why" in item:
            line.add(
                f"promoted by rule {item['rule']}, {item.get('decided', 'at an unknown time')}: {escape(item['why'])}"
            )
        for key in ("restored", "withdrawn", "retrain"):
            if key in item:
                line.add(f"{key}: {escape(item[key])}")


def _recording(row: Mapping[str, Any]) -> str:
    if "shard" not in row:
        return f"({row['role']})"
    hashes = f"file {_short(row['source_sha256'])}, audio {_short(row['audio_sha256'])}"
    return f"({row['role']}) {row['shard']}, {hashes}"


def _label(row: Mapping[str, Any]) -> str:
    if "source" not in row:
        return ""
    heard = f", heard by {', '.join(row['teachers'])}" if row.get("teachers") else ""
    return f"{row['source']}, confidence {row['confidence']:.2f}{escape(heard)}"


def _feature(row: Mapping[str, Any]) -> str:
    return f"{escape(row['encoder'])}, audio {_short(row['audio_sha256'])}" if "encoder" in row else ""


def _figures(told: Mapping[str, Any]) -> str:
    if "personal" in told:
        return f"WER {told['personal']['wer']:.4f}, the base {told['base']['wer']:.4f}"
    return f"WER {told['wer']:.4f}" if "wer" in told else ""


def _sign(row: Mapping[str, Any]) -> str:
    return SIGNS[row["status"]]


def _short(digest: Any) -> str:
    return str(digest)[:12] if digest else "unknown"
