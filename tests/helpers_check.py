"""Made-up indices of cohorts, for tests of `edgealign cohort check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.cohorts.index import write_index
from pipeline.cohorts.store import CohortRecord, UserRecord, write_record
from pipeline.project import Project
from stages.schema import INDEX

TEXTS = (
    "turn on the kitchen light",
    "what will the weather be like tomorrow",
    "play some quiet jazz in the living room",
    "remind me to call the doctor at nine",
    "how long does it take to boil an egg",
    "close the window before it rains",
)
"""Of a length that is said in about three seconds."""


def index_table(utterances: int = 24, users: int = 4, **columns: Sequence[Any] | Any) -> pa.Table:
    """A good cohort's index; ``columns`` replace whole columns: a list, or one value for all rows."""
    numbers = range(utterances)
    table: dict[str, Any] = {
        "utterance": [f"user{n % users}-{n:06d}" for n in numbers],
        "user": [f"user{n % users}" for n in numbers],
        "text": [TEXTS[n // users % len(TEXTS)] for n in numbers],
        "language": "en",
        "shard": [f"shard-{n // 64:05d}.tar" for n in numbers],
        "duration_s": [3.0 + n % 7 / 10 for n in numbers],
        "source_sha256": [f"{n:064x}" for n in numbers],
        "audio_sha256": [f"a{n:063x}" for n in numbers],
        "granted": True,
        "scope": "all",
        "consent_date": "2026-10-01",
        "source_rate_hz": 44_100,
        "source_channels": 1,
        "source_format": "WAV",
        "level_dbfs": [-26.0 - n % 5 for n in numbers],
        "peak": 0.5,
        "clipped_share": 0.0,
        "snr_db": [28.0 + n % 9 for n in numbers],
        "speech_share": 0.7,
    }
    table |= columns
    full = {name: value if isinstance(value, list) else [value] * utterances for name, value in table.items()}
    return pa.Table.from_pydict(full, schema=INDEX)


def put_cohort(project: Project, name: str, table: pa.Table, called: Mapping[str, str] | None = None) -> None:
    """A cohort in data/ that has an index and no recordings: nothing that `check` reads."""
    folder = project.cohort(name)
    folder.mkdir(parents=True)
    shards = dict.fromkeys(sorted(set(table.column("shard").to_pylist())), "0" * 64)
    write_index(table, folder, 0, shards)
    rows = list(zip(table.column("user").to_pylist(), table.column("duration_s").to_pylist(), strict=True))
    users = {
        user: UserRecord((called or {}).get(user, user), sum(row[0] == user for row in rows))
        for user in dict.fromkeys(row[0] for row in rows)
    }
    consent = {"granted": True, "scope": "all", "date": None}
    seconds = sum(row[1] for row in rows)
    record = CohortRecord(name, "en", consent, "a test", "0" * 64, table.num_rows, seconds, users, shards)
    write_record(folder, record)
