"""Files for workers: by path where they share this machine's disk (the embedded session), by content where they do not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.atomic import atomic_folder, atomic_path, sha256_file, sha256_json


@dataclass(frozen=True)
class Shipment:
    """A file or a folder on its way to a worker."""

    path: Path
    content: dict[str, bytes] | None  # None where the worker can read ``path`` itself
    key: str

    def unpack(self) -> Path:
        """The file or folder on the worker's own disk; written once a content, whole or not at all."""
        if self.content is None:
            return self.path
        from platformdirs import user_cache_path

        home = user_cache_path("edgealign") / "shipped" / self.key
        target = home / self.path.name
        if target.exists():
            return target
        if list(self.content) == [""]:
            with atomic_path(target) as temporary:
                temporary.write_bytes(self.content[""])
            return target
        with atomic_folder(target) as temporary:
            for name, content in self.content.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_bytes(content)
        return target


def ship(path: Path, *, shared_disk: bool) -> Shipment:
    """``path`` as something that a worker can unpack."""
    if shared_disk:
        return Shipment(path, None, "")
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    names = ["" if path.is_file() else item.relative_to(path).as_posix() for item in files]
    key = sha256_json([[name, sha256_file(item)] for name, item in zip(names, files, strict=True)])
    return Shipment(path, {name: item.read_bytes() for name, item in zip(names, files, strict=True)}, key)
