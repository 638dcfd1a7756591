"""Recordings of held-out utterances, to listen to: single ones out of a cohort's shards."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from stages.atomic import sha256_bytes
from stages.consent import refusal
from stages.shards import MAX_MEMBER_BYTES, Member


def read_recordings(shards: Iterable[Path], wanted: Mapping[str, str]) -> dict[str, bytes]:
    """{utterance: FLAC bytes} of ``wanted`` ({utterance: SHA-256 of these bytes}).

    Left out: what is not there, what has other bytes by now, and what has no consent. Only headers of the other utterances
    are read. A shard that breaks off or cannot be opened gives what it has: a page without a player is still a page.
    """
    found: dict[str, bytes] = {}
    for shard in shards:
        if len(found) == len(wanted):
            break
        with suppress(tarfile.TarError, OSError, EOFError), tarfile.open(shard, "r:", tarinfo=Member) as archive:
            found |= _of_shard(archive, {name: digest for name, digest in wanted.items() if name not in found})
    return found


def _of_shard(archive: tarfile.TarFile, wanted: Mapping[str, str]) -> dict[str, bytes]:
    import json

    audio: dict[str, bytes] = {}
    allowed: set[str] = set()
    for member in archive:
        name, _, suffix = member.name.partition(".")
        if name not in wanted or not member.isreg() or member.size > MAX_MEMBER_BYTES:
            continue
        stream = archive.extractfile(member)
        content = stream.read() if stream else b""
        if suffix == "flac" and sha256_bytes(content) == wanted[name]:
            audio[name] = content
        elif suffix == "json":
            with suppress(ValueError):
                fields = json.loads(content)
                consent = fields.get("consent") if isinstance(fields, dict) else None
                if isinstance(consent, dict) and not refusal(consent, "personal"):
                    allowed.add(name)
    return {name: content for name, content in audio.items() if name in allowed}
