"""``python -m benchmarks AREA``: measure, write docs/benchmarks/<area>.json, make the tables and plots anew, tell MLflow."""

from __future__ import annotations

import sys
from importlib import import_module

from benchmarks import corpora
from benchmarks.record import FOLDER
from benchmarks.tables import write_tables
from benchmarks.to_mlflow import record_area
from pipeline.cli import set_up_logging
from pipeline.runs.common import Context
from stages.errors import EdgealignError

AREAS = (
    "features",
    "alignment",
    "methods",
    "ablation",
    "pipeline",
    "cohorts",
    "tracking",
    "online",
    "serve",
    "pseudo",
    "exchange",
    "sparse",
    "freezing",
    "assistant",
    "words",
    "personal",
    "cascade",
)


def main(area: str) -> None:
    """Run one area, ``all`` of them, or ``tables`` for the tables alone."""
    if area not in (*AREAS, "all", "tables"):
        raise EdgealignError(f"AREA={area}: not known. Areas: {', '.join(AREAS)}, all, tables.")
    for name in AREAS if area == "all" else (area,) if area != "tables" else ():
        path = import_module(f"benchmarks.{name}").run()
        write_tables()
        if path.parent == FOLDER:  # a quick run's figures are of no worth, and stand nowhere
            record_area(path, Context.open(corpora.ROOT))
    write_tables()


if __name__ == "__main__":
    set_up_logging()
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "all")
    except EdgealignError as error:
        sys.exit(f"error: {error}")
