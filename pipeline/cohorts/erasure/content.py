"""What is in a file, whatever it is called, and whether it holds the person: in the workspace, in DVC's stores, in MLflow."""

from __future__ import annotations

import base64
import binascii
import codecs
import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pipeline.cohorts.erasure.person import Matcher, Person
from stages.shards import Member

HEAD_BYTES = 4096
TEXT_LIMIT_BYTES = 512_000_000
"""A larger text is none of ours; it is searched by its bytes."""

ORDER = ("cohort", "shard", "table", "json", "text", "weights", "recording", "picture", "database", "other")
"""Kinds in the order in which they are searched: the first ones tell what the later ones are searched for."""

_SEPARATORS = re.compile(r"[\s/\\:;,'\"()]+")
_EMBEDDED = re.compile(rb"data:[\w/+.-]+;base64,([A-Za-z0-9+/]+=*)")
_SOUNDS = (b"fLaC", b"RIFF", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3")


@dataclass(frozen=True)
class Blob:
    """A file somewhere: on this disk, in a DVC remote, among a run's artifacts."""

    name: str
    """Its path, for people."""
    open: Callable[[], IO[bytes]]
    """Opens it for reading; the caller closes."""
    cohort: str | None = None
    """The cohort that it belongs to, where its place tells."""


@dataclass
class Notes:
    """What a search learns by the way."""

    adapters: list[dict[str, Any]] = field(default_factory=list)
    """Every ``adapter.json`` that was seen."""
    manifests: dict[str, dict[str, str]] = field(default_factory=dict)
    """{name of the blob: {path: object id}} of every DVC directory object that was seen."""

    def take(self, blob: Blob, content: Any) -> None:
        """Look at parsed JSON."""
        if is_adapter(content):
            self.adapters.append(content)
        manifest = manifest_of(content)
        if manifest is not None:
            self.manifests[blob.name] = manifest


def blob_of(path: Path, cohort: str | None = None) -> Blob:
    """A file on this disk."""
    return Blob(str(path), lambda: path.open("rb"), cohort)


def kind_of(head: bytes) -> str:
    """One of ORDER, by a file's first HEAD_BYTES."""
    if head[257:262] == b"ustar":
        return "shard"
    if head.startswith(b"PAR1"):
        return "table"
    if head.startswith(b"\x89PNG"):
        return "picture"
    if head.startswith(b"SQLite format 3\0"):
        return "database"
    if head.startswith(_SOUNDS):
        return "recording"
    if len(head) > 8 and head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 100_000_000:
        return "weights"
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return "other"
    if "\0" in text:
        return "other"
    if text.startswith("name: ") and "\ncreated_from: " in text:
        return "cohort"
    return "json" if text.lstrip()[:1] in ("{", "[") else "text"


def read_kind(blob: Blob) -> str:
    """The kind of a file's content. Raises OSError."""
    with blob.open() as file:
        return kind_of(file.read(HEAD_BYTES))


def holds(blob: Blob, kind: str, person: Person, matcher: Matcher, notes: Notes) -> bool:
    """Whether the file holds the person's data or name. Shards and tables add to ``person`` what they tell of it.

    Raises OSError where the file cannot be read; one that is broken is searched as text.
    """
    if kind == "shard":
        return _in_shard(blob, person, matcher)
    if kind == "table":
        return _in_table(blob, person, matcher)
    if kind == "picture":
        return False
    with blob.open() as file:
        if kind == "recording":
            return _sha256(file) in _recordings_of(person)
        if kind == "weights":
            if _sha256(file) in person.adapters:
                return True
            file.seek(0)
            size = int.from_bytes(file.read(8), "little")
            return matcher.in_text(file.read(size).decode("utf-8", "replace"), blob.cohort)
        content = file.read(TEXT_LIMIT_BYTES)
    if kind == "text":
        content, embedded = without_embedded(content)
        if not _recordings_of(person).isdisjoint(hashlib.sha256(item).hexdigest() for item in embedded):
            return True
    if kind == "json":
        parsed = parse_json(content)
        if parsed is not None:
            notes.take(blob, parsed)
            return False if is_proof(parsed) else matcher.in_json(parsed, blob.cohort)
    if kind == "cohort":
        record = parse_cohort(content)
        if record is not None:
            return any(_is_entry(matcher, record["name"], slug, user) for slug, user in record["users"].items())
    if kind in ("json", "cohort", "text"):
        return matcher.in_text(content.decode("utf-8", "replace"), blob.cohort)
    needles = matcher.loud()
    return any(needle.encode(code) in content for needle in needles for code in ("utf-8", "utf-16-le"))


def _recordings_of(person: Person) -> set[str]:
    return (person.sources - person.shared_sources) | person.audio


def without_embedded(page: bytes) -> tuple[bytes, list[bytes]]:
    """A page without the files in its data URIs, and these files.

    Base64 spells every short name sooner or later: it is no text to search for one.
    """
    found = []
    for item in _EMBEDDED.finditer(page):
        with suppress(binascii.Error):
            found.append(base64.b64decode(item.group(1), validate=True))
    return _EMBEDDED.sub(b"data:", page), found


def _is_entry(matcher: Matcher, cohort: str, slug: str, user: Any) -> bool:
    called = user.get("name") if isinstance(user, Mapping) else None
    return matcher.is_user(slug, cohort) or matcher.is_user(called, cohort)


def parse_json(content: bytes) -> Any:
    """Parsed JSON; None where it is none."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def parse_cohort(content: bytes) -> dict[str, Any] | None:
    """A ``cohort.yaml`` of any version: at least name and users; None where it is none."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        parsed = yaml.load(content, Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    if isinstance(parsed, dict) and isinstance(parsed.get("name"), str) and isinstance(parsed.get("users"), dict):
        return parsed
    return None


def is_proof(content: Any) -> bool:
    """Whether JSON is the proof of an erasure, which holds hashes of recordings on purpose."""
    return isinstance(content, dict) and "erasure" in content and "recordings" in content


def is_adapter(content: Any) -> bool:
    """Whether JSON is an ``adapter.json``."""
    return isinstance(content, dict) and {"kind", "weights_sha256", "train_utterances"} <= set(content)


def manifest_of(content: Any) -> dict[str, str] | None:
    """{path: object id} of a DVC directory object; None where JSON is none."""
    if not isinstance(content, list) or not content:
        return None
    if not all(isinstance(item, dict) and isinstance(item.get("relpath"), str) for item in content):
        return None
    return {item["relpath"]: str(item.get("md5", "")) for item in content}


def iter_members(file: IO[bytes]) -> Iterator[tuple[str, dict[str, Any], Callable[[], bytes]]]:
    """(utterance, JSON fields, a reader of the audio) of each utterance in a tar; also of halves and broken ones.

    The audio is read only where the reader is called, while the tar is open. A tar that breaks off ends the iteration.
    """
    parts: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=Member) as archive:
            for member in archive:
                key, _, suffix = member.name.partition(".")
                parts.setdefault(key, {})[suffix] = member

            def read(member: tarfile.TarInfo | None) -> bytes:
                stream = archive.extractfile(member) if member and member.isreg() else None
                return stream.read() if stream else b""

            for key, members in parts.items():
                fields = parse_json(read(members.get("json")))
                audio = next((member for suffix, member in members.items() if suffix != "json"), None)
                yield key, fields if isinstance(fields, dict) else {}, lambda member=audio: read(member)  # type: ignore[misc]
    except (tarfile.TarError, EOFError):
        return


def is_members(key: str, fields: Mapping[str, Any], matcher: Matcher, cohort: str | None) -> bool:
    """Whether an utterance of a shard is the person's."""
    if matcher.is_user(fields.get("user"), cohort) or matcher.is_utterance(key, cohort):
        return True
    # in an old version of a cohort that cannot be told any more, the recording says whose namesake it is
    return (
        cohort is None and fields.get("user") in matcher.slugs and fields.get("source_sha256") in matcher.person.sources
    )


def _in_shard(blob: Blob, person: Person, matcher: Matcher) -> bool:
    found = False
    mine: set[str] = set()
    others: set[str] = set()
    with blob.open() as file:
        for key, fields, audio in iter_members(file):
            source = fields.get("source_sha256")
            sources = {source} if isinstance(source, str) else set()
            if is_members(key, fields, matcher, blob.cohort):
                found = True
                person.utterances.add(key)
                person.audio.add(hashlib.sha256(audio()).hexdigest())
                mine |= sources
            else:
                others |= sources
    person.sources |= mine
    person.shared_sources |= others & person.sources
    return found


def _in_table(blob: Blob, person: Person, matcher: Matcher) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with blob.open() as file:
        try:
            parquet = pq.ParquetFile(file)
            names = set(parquet.schema_arrow.names)
            columns = ["utterance", "user", "cohort", "source_sha256", "audio_sha256"]
            rows = parquet.read(columns=[name for name in columns if name in names]).to_pylist()
            metadata = parquet.schema_arrow.metadata or {}
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError):
            file.seek(0)
            content = file.read(TEXT_LIMIT_BYTES)
            return any(needle.encode() in content for needle in matcher.loud())
    found = False
    for row in rows:
        if is_row(row, matcher, blob.cohort):
            found = True
            if row.get("utterance"):
                person.utterances.add(row["utterance"])
            if row.get("source_sha256"):
                person.sources.add(row["source_sha256"])
            if row.get("audio_sha256"):
                person.audio.add(row["audio_sha256"])
    person.shared_sources |= {
        row["source_sha256"]
        for row in rows
        if row.get("source_sha256") in person.sources and not is_row(row, matcher, blob.cohort)
    }
    told = (value.decode("utf-8", "replace") for key, value in metadata.items() if key != b"ARROW:schema")
    return found or any(metadata_names(value, matcher, blob.cohort) for value in told)


def is_row(row: Mapping[str, Any], matcher: Matcher, cohort: str | None) -> bool:
    """Whether a row of features, transcripts, labels or an index is about the person."""
    cohort = row.get("cohort") or cohort
    return matcher.is_user(row.get("user"), cohort) or matcher.is_utterance(row.get("utterance"), cohort)


def metadata_names(value: str, matcher: Matcher, cohort: str | None) -> bool:
    """Whether a Parquet file's metadata (JSON or a plain word) names the person."""
    parsed = parse_json(value.encode()) if value[:1] in "{[" else None
    return matcher.in_json(parsed, cohort) if parsed is not None else matcher.in_text(value, cohort)


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def quarantined(row: Sequence[str], matcher: Matcher, cohort: str) -> bool:
    """Whether a line of the quarantine report names the person or their recording: ``line 7: ann/1.wav``, ``ann-7.wav``."""
    item, *reasons = [*row, ""]
    if matcher.in_text(item, cohort) or matcher.in_path(filter(None, _SEPARATORS.split(item)), cohort, prefix=True):
        return True
    # a reason is prose, in which a name may be a word
    words = (word.strip(".") for reason in reasons for word in _SEPARATORS.split(reason))
    return any(matcher.is_utterance(word, cohort) for word in words) or matcher.in_text("|".join(reasons), cohort)


def name_others(matcher: Matcher, users: Iterable[str]) -> set[str]:
    """Of other users' names, those that begin with one of the person's."""
    pattern = re.compile("|".join(map(re.escape, sorted(matcher.names))) or r"(?!)")
    return {user for user in users if user not in matcher.names and pattern.match(user)}
