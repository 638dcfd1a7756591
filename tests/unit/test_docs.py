"""Every path and command that README, docs and Makefile name exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import typer.main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "mlflow" / "README.md"]


def commands(app: typer.Typer, prefix: str) -> dict[str, set[str]]:
    """Every command of an app with its options."""
    found: dict[str, set[str]] = {}

    def walk(command: object, name: str) -> None:
        for part, below in getattr(command, "commands", {}).items():
            walk(below, f"{name} {part}")
        if not hasattr(command, "commands"):
            found[name] = {option for parameter in command.params for option in parameter.opts}  # type: ignore[attr-defined]  # click's

    walk(typer.main.get_command(app), prefix)
    return found


def known_commands() -> dict[str, set[str]]:
    from jetson_agent.cli import app as agent
    from pipeline.cli import app

    return {**commands(app, "edgealign"), **commands(agent, "edgealign-agent")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_pictures_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_are_there(page: Path) -> None:
    known = known_commands()
    text = page.read_text(encoding="utf-8")
    lines = [line.strip() for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    lines += re.findall(r"`(edgealign[^`]*)`", text)
    for line in lines:
        words = line.split("#")[0].split()
        if not words or words[0] not in ("edgealign", "edgealign-agent"):
            continue
        match = [name for name in known if name.split() == words[: len(name.split())]]
        groups = {" ".join(name.split()[: len(words)]) for name in known}
        assert match or " ".join(words) in groups, line
        for option in (word for word in words if word.startswith("--")):
            assert option in known[match[0]], f"{line}: {option}"


def test_make_targets_named_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z][a-z-]*)\b", page.read_text(encoding="utf-8")):
            if re.search(rf"(?:`|^)make {target}", page.read_text(encoding="utf-8"), re.MULTILINE):
                assert target in targets, f"{page.name}: make {target}"


def test_there_is_no_package_called_mlflow() -> None:
    assert not (ROOT / "mlflow" / "__init__.py").exists()


def test_no_data_and_no_model_is_in_git() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    heavy = (".flac", ".wav", ".tar", ".safetensors", ".parquet", ".pt", ".bin", ".gguf")
    assert [name for name in listed if name.endswith(heavy)] == []
    assert [name for name in listed if (ROOT / name).is_file() and (ROOT / name).stat().st_size > 1_000_000] == []
