"""Shards: deterministic WebDataset tars of utterances, read without trusting what is in them.

A shard holds ``<utterance>.flac`` (mono, 16 kHz, 16 bit) and ``<utterance>.json`` with ``user``, ``text`` (or null),
``language``, ``consent``, ``source_sha256`` and ``duration_s``. Nothing is ever extracted to disk.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stages.atomic import sha256_bytes
from stages.audio import read_header
from stages.errors import InputError
from stages.schema import SAMPLE_RATE_HZ

UTTERANCE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$")
"""Utterance ids: no dot (WebDataset cuts a name at its first one) and nothing that a path could be made of."""

MAX_ITEMS = 64
"""Utterances a shard: small enough for a device's memory, and enough shards to share out among nodes."""

MAX_BYTES = 64_000_000
"""Bytes a shard after which the next one begins, for long recordings."""

MAX_MEMBER_BYTES = 64_000_000
"""A larger member is refused unread: 30 s of 16 kHz FLAC is under a megabyte."""


MAX_HEADER = 1_000_000  # bytes of an extended header: a hostile one says terabytes


class Member(tarfile.TarInfo):
    """A member whose header can neither send the reader backwards nor ask for terabytes (CVE-2025-8194 in Python < 3.13.6).

    ReadError, as tarfile takes an InvalidHeaderError in the middle for the end.
    """

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.ReadError("a negative size")
        return super()._block(count)  # type: ignore[misc]  # what the standard library's own fix changes

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type not in tarfile.REGULAR_TYPES and member.size > MAX_HEADER:
            raise tarfile.ReadError("a size that cannot be")
        return member


@dataclass(frozen=True)
class Problem:
    """One item that was refused: which one, and why in a person's words."""

    item: str
    reason: str


@dataclass(frozen=True)
class ShardItem:
    """One utterance of a shard; where ``problem`` is set, the rest may be empty and must not be used."""

    utterance: str
    user: str
    text: str | None
    language: str
    consent: dict[str, Any]
    source_sha256: str
    duration_s: float
    audio: bytes
    audio_sha256: str
    problem: str | None = None


def refused(utterance: str, reason: str) -> ShardItem:
    """An item that carries nothing but the reason why it was refused."""
    return ShardItem(utterance, "", None, "", {}, "", 0.0, b"", "", reason)


def list_shards(folder: Path) -> list[Path]:
    """The shards of a cohort's folder, sorted by name. Raises InputError where there are none."""
    shards = sorted(Path(folder).glob("shard-*.tar"))
    if not shards:
        raise InputError(
            f"{folder}: holds no shard-*.tar. Run `edgealign cohort add {Path(folder).name} ...`, or `dvc pull`."
        )
    return shards


def iter_shard(path: Path) -> Iterator[ShardItem]:
    """The utterances of one shard, in the shard's order, one in memory at a time.

    A bad member, half an item, broken JSON or audio gives an item with ``problem`` set; the others go on.
    Raises InputError where the file is missing or is no tar at all.
    """
    path = Path(path)
    remedy = "Run `edgealign cohort add` with --replace, or `dvc pull`, to get it back."
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}). {remedy}") from error
    with file:
        try:
            archive = tarfile.open(fileobj=file, mode="r:", tarinfo=Member)  # noqa: SIM115  (closed by the with below)
        except (tarfile.TarError, EOFError) as error:
            raise InputError(f"{path}: not a readable tar ({error}). {remedy}") from error
        with archive:
            yield from _items(archive, path.name)


def _items(archive: tarfile.TarFile, shard: str) -> Iterator[ShardItem]:
    """Group neighbouring members of one utterance; refuse what is not a plain file of a plain name."""
    current = ""
    parts: dict[str, bytes] = {}
    seen: set[str] = set()
    try:
        for member in archive:
            reason = _refusal(member)
            if reason:
                yield refused(member.name, reason)
                continue
            key, _, suffix = member.name.partition(".")
            if key != current and parts:
                yield _item(current, parts, seen)
                parts = {}
            current = key
            stream = archive.extractfile(member)
            parts[suffix] = stream.read() if stream else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        yield refused(current or shard, f"the shard breaks off here ({error}); what comes after it is lost")
        return
    if parts:
        yield _item(current, parts, seen)
    if not ends_well(archive):
        yield refused(shard, f"the shard breaks off after {current or 'its start'}; what comes after it is lost")


def ends_well(archive: tarfile.TarFile) -> bool:
    """Whether the tar stops at its end mark: tarfile stops without a word at a broken header as well."""
    file = archive.fileobj
    if file is None:
        return False
    file.seek(archive.offset)
    block = file.read(tarfile.BLOCKSIZE)
    return len(block) == tarfile.BLOCKSIZE and not any(block)


def _refusal(member: tarfile.TarInfo) -> str:
    """Why a member is not even read; empty for a good one."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        return "its path leaves the shard's folder"
    if not member.isreg():
        return "not a plain file (a link, a folder or a device)"
    if not UTTERANCE_NAME.match(member.name.partition(".")[0]):
        return "its name is not an utterance id (letters, digits, _ and -)"
    if member.size > MAX_MEMBER_BYTES:
        return f"{member.size} bytes; at most {MAX_MEMBER_BYTES} are read"
    return ""


def _item(utterance: str, parts: dict[str, bytes], seen: set[str]) -> ShardItem:
    """Check one utterance's two members against the contract."""
    if utterance in seen:
        return refused(utterance, "the utterance is in the shard twice; the first one counts")
    seen.add(utterance)
    missing = [suffix for suffix in ("flac", "json") if suffix not in parts]
    if missing:
        return refused(utterance, f"half an item: {utterance}.{missing[0]} is missing")
    try:
        fields = json.loads(parts["json"])
    except (ValueError, UnicodeDecodeError) as error:
        return refused(utterance, f"{utterance}.json is not JSON ({error})")
    reason = _field_problem(fields)
    if reason:
        return refused(utterance, f"{utterance}.json: {reason}")
    audio = parts["flac"]
    try:
        header = read_header(audio, f"{utterance}.flac")
    except InputError as error:
        return refused(utterance, str(error))
    if header.rate_hz != SAMPLE_RATE_HZ or header.channels != 1 or header.duration_s <= 0:
        return refused(
            utterance,
            f"{utterance}.flac: {header.rate_hz} Hz, {header.channels} channel(s), {header.duration_s:.2f} s; "
            f"needed {SAMPLE_RATE_HZ} Hz, 1 channel",
        )
    return ShardItem(
        utterance=utterance,
        user=fields["user"],
        text=fields["text"],
        language=fields["language"],
        consent=fields["consent"],
        source_sha256=fields["source_sha256"],
        duration_s=header.duration_s,  # measured, not believed
        audio=audio,
        audio_sha256=sha256_bytes(audio),
    )


FIELDS: dict[str, tuple[type, ...]] = {
    "user": (str,),
    "text": (str, type(None)),
    "language": (str,),
    "consent": (dict,),
    "source_sha256": (str,),
    "duration_s": (int, float),
}
"""The JSON member's fields and the types that each may have."""


def _field_problem(fields: Any) -> str:
    """What is wrong with the JSON member's fields; empty where they keep the contract."""
    if not isinstance(fields, dict):
        return f"holds {type(fields).__name__}, needed an object"
    for name, types in FIELDS.items():
        if name not in fields:
            return f"lacks {name!r}"
        if not isinstance(fields[name], types) or isinstance(fields[name], bool):
            return f"{name} is {type(fields[name]).__name__}, needed {' or '.join(t.__name__ for t in types)}"
    if not UTTERANCE_NAME.match(fields["user"]):
        return f"user {fields['user']!r} is not a name of letters, digits, _ and -"
    return ""


def _metadata(item: ShardItem) -> bytes:
    """The JSON member: sorted keys, so that the same item has the same bytes (ShardWriter does not sort)."""
    fields = {name: getattr(item, name) for name in FIELDS} | {"duration_s": round(item.duration_s, 6)}
    return json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()


def write_shards(
    items: Iterable[ShardItem], folder: Path, max_items: int = MAX_ITEMS, max_bytes: int = MAX_BYTES
) -> list[Path]:
    """Write ``shard-00000.tar`` ... into ``folder`` and return them; the same items give the same bytes.

    ``items`` come in ascending order of their ids and are streamed: one shard's worth of disk cache, one item of memory.
    Raises InputError for an id out of order, twice, or with a dot, and for an item that carries a problem. The caller
    makes the folder appear whole (``stages.atomic.atomic_folder``).
    """
    import webdataset

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    last = ""
    # the writer opens its first tar at once: without items there must be none
    writer = None
    try:
        for item in items:
            _check_writable(item, last)
            last = item.utterance
            if writer is None:
                pattern = str(folder / "shard-%05d.tar")
                writer = webdataset.ShardWriter(pattern, maxcount=max_items, maxsize=max_bytes, mtime=0, verbose=0)
            writer.write({"__key__": item.utterance, "flac": item.audio, "json": _metadata(item)})
    finally:
        if writer is not None:
            writer.close()
    return sorted(folder.glob("shard-*.tar"))


def pack_shard(items: Iterable[ShardItem]) -> bytes:
    """The bytes of one shard, the same as ``write_shards`` writes, without webdataset.

    webdataset imports torch: seconds and 600 MB in every process that converts recordings. A test holds the two together.
    """
    buffer = io.BytesIO()
    last = ""
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for item in items:
            _check_writable(item, last)
            last = item.utterance
            for suffix, content in (("flac", item.audio), ("json", _metadata(item))):
                member = tarfile.TarInfo(f"{item.utterance}.{suffix}")
                member.size = len(content)
                member.mode = 0o444
                member.uname, member.gname = "bigdata", "bigdata"
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _check_writable(item: ShardItem, last: str) -> None:
    if item.problem is not None:
        raise InputError(f"{item.utterance}: has a problem ({item.problem}) and does not go into a shard.")
    if not UTTERANCE_NAME.match(item.utterance):
        raise InputError(f"utterance id {item.utterance!r}: use letters, digits, _ and - (no dots).")
    reason = _field_problem({name: getattr(item, name) for name in FIELDS})
    if reason:
        raise InputError(f"{item.utterance}: {reason}.")
    if item.utterance <= last:
        raise InputError(f"utterance {item.utterance!r} follows {last!r}: give each once, in ascending order.")
