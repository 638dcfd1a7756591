"""``make demo``: everything, once, on one machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from pipeline.runs.common import Context
from stages.errors import EdgealignError


def run_demo() -> None:
    """Make the demo cohorts where they are missing, run `dvc repro`, print the table."""
    from pipeline.cohorts.demo import make_demo

    context = Context.open()
    start = time.monotonic()
    made = make_demo(context.project.root)
    console = Console(stderr=True)
    console.print(f"demo cohorts: made {', '.join(made)}" if made else "demo cohorts: all there", highlight=False)
    # the same interpreter's dvc; its stages call `python`, which must be this one also where nobody activated it
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"], cwd=context.project.root, env={**os.environ, "PATH": path}, check=False
    )
    if done.returncode:
        raise EdgealignError(
            f"`dvc repro` ended with status {done.returncode}; its messages stand above. "
            "What was done is kept: mend the cause and run the command again."
        )
    print_summary(context)
    console.print(f"demo: {time.monotonic() - start:.0f} s", highlight=False)


def print_summary(context: Context) -> None:
    """Base and personal figures of every user, from the evaluations, and the two commands to look further."""
    from pipeline.runs.report import read_results
    from stages.report import print_table, summarise

    summary = summarise(*read_results(context))
    example, user = example_recording(context)
    print_table(summary, Console(), example, user)


def example_recording(context: Context) -> tuple[str, str | None]:
    """A held-out recording of a user with an adapter, as a file that `edgealign ask` can take; and that user."""
    from stages.alignment.record import read_record
    from stages.shards import iter_shard

    for cohort in context.settings.personal_cohorts:
        for folder in sorted(path.parent for path in context.project.adapters(cohort).glob("*/adapter.json")):
            held_out = read_record(folder).held_out_utterances
            for shard in context.shards(cohort):
                for item in iter_shard(shard):
                    if item.utterance in held_out and item.audio:
                        path = context.project.private / "examples" / f"{item.utterance}.flac"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(item.audio)
                        return str(relative(path)), f"{cohort}/{folder.name}"
    return "RECORDING.flac", None


def relative(path: Path) -> Path:
    """``path`` as seen from the working folder where it lies below it."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
