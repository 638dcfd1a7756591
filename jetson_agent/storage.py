"""What a person reads when this device's disk does not take what is to be written."""

from __future__ import annotations

import errno

from stages.errors import EdgealignError

FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(EdgealignError):
    """No space is left on the device's disk; everything that was there before is whole."""


def disk_full(error: OSError) -> DiskFull | None:
    """The error for people where the disk is full; None where it is something else."""
    if error.errno not in FULL:
        return None
    where = error.filename or "this device"
    return DiskFull(
        f"{where}: the disk is full ({error.strerror}). What was remembered and what is in use are as they were. "
        "Free some space and do the same again."
    )
