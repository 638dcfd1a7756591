"""Where things lie in a project: one place for every path that more than one module names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.errors import SettingsError


@dataclass(frozen=True)
class Project:
    """A checkout: the folder that holds ``params.yaml`` and ``dvc.yaml``."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """The nearest folder at or above ``start`` (default: the working folder) that holds both files."""
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
                return cls(folder)
        raise SettingsError(
            f"{here}: no params.yaml with a dvc.yaml here or above. Run the command inside an edgealign project."
        )

    @property
    def checkout(self) -> Path:
        """The checkout itself, also from the copy of it below ``.dvc/tmp/exps`` in which DVC runs a queued experiment."""
        for folder in self.root.parents:
            if folder.parts[-3:] == (".dvc", "tmp", "exps"):
                return folder.parents[2]
        return self.root

    @property
    def private(self) -> Path:
        """State of this checkout that is neither data nor result: tracking store, spool, checkpoints.

        Experiments share it: DVC removes the copy in which one ran, and its runs would go with it.
        """
        return self.checkout / ".edgealign"

    @property
    def encoder(self) -> Path:
        return self.root / "models" / "encoder"

    @property
    def llm(self) -> Path:
        return self.root / "models" / "llm"

    @property
    def base_adapter(self) -> Path:
        return self.root / "artifacts" / "adapters" / "base"

    @property
    def base_inputs(self) -> Path:
        return self.root / "artifacts" / "base_inputs.json"

    @property
    def summary(self) -> Path:
        return self.root / "metrics" / "summary.json"

    def cohort(self, name: str) -> Path:
        """Folder of a cohort's shards and its cohort.yaml."""
        return self.root / "data" / "cohorts" / name

    def features(self, cohort: str) -> Path:
        """Folder of one Parquet file a shard."""
        return self.root / "artifacts" / "features" / cohort

    def transcripts(self, cohort: str) -> Path:
        """Folder of one Parquet file a shard: what the transcriber heard, before any rule."""
        return self.root / "artifacts" / "transcripts" / cohort

    def labels(self, cohort: str) -> Path:
        return self.root / "artifacts" / "labels" / f"{cohort}.parquet"

    def read_outs(self, cohort: str) -> Path:
        """Folder of one Parquet file a shard: what the base adapter read where nobody transcribed, before any rule."""
        return self.root / "artifacts" / "read_outs" / cohort

    def second_labels(self, cohort: str) -> Path:
        """The labels after the second teacher: what personal adapters learn from and are judged by."""
        return self.root / "artifacts" / "second_labels" / f"{cohort}.parquet"

    def adapters(self, cohort: str) -> Path:
        """Folder of one folder a user."""
        return self.root / "artifacts" / "adapters" / cohort

    @property
    def plots(self) -> Path:
        return self.root / "plots"

    @property
    def dvc_plots(self) -> Path:
        """Where `dvc plots show` and `dvc plots diff` write their page."""
        return self.root / "dvc_plots"

    def evaluation(self, cohort: str) -> Path:
        """Everything that evaluate found: figures, curves, examples."""
        return self.root / "artifacts" / "evaluations" / f"{cohort}.json"

    def metrics(self, cohort: str) -> Path:
        """The figures alone, for `dvc metrics`."""
        return self.root / "metrics" / f"{cohort}.json"
