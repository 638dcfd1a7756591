"""The real memory cap of a virtual device: what stands in for 8 GB must not quietly use the 64 GB of a workstation.

The kernel's limit on a process's own writable memory (RLIMIT_DATA) refuses the allocation that goes beyond: the item fails
with a message, the node and everything else on the machine go on. A real device has less memory than a task could take by
mistake, and its unit in docs/device.md says MemoryMax.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.errors import ClusterError

STATUS = Path("/proc/self/status")


@contextmanager
def memory_cap(cap_bytes: int | None) -> Iterator[None]:
    """Within the block this process may hold ``cap_bytes`` in memory, what it holds already included; None: no cap.

    Raises ClusterError where the block asks for more, in the place of MemoryError or PyTorch's RuntimeError. Without Linux's
    /proc there is no cap.
    """
    held = _bytes_of("VmRSS", "VmData") if cap_bytes is not None else None
    if cap_bytes is None or held is None:
        yield
        return
    resident, reserved = held
    before = resource.getrlimit(resource.RLIMIT_DATA)
    # threads' stacks and arenas are reserved and hardly touched: they are not what the cap is about
    limit = reserved + max(0, cap_bytes - resident)
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        raise ClusterError(
            f"more memory was needed than the {cap_bytes / 1e9:.2f} GB that this virtual device offers ({_first_line(error)}). "
            "Offer more (ray.jetson_memory_bytes, `edgealign-agent join --memory-bytes`), or give it less to do at once."
        ) from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _bytes_of(*names: str) -> list[int] | None:
    """Fields of this process's status in bytes; None where the system does not tell."""
    try:
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        return [int(lines[name].split()[0]) * 1024 for name in names]
    except (OSError, KeyError, ValueError, IndexError):
        return None
