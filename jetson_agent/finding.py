"""One thing that the doctor looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do where it is bad."""

    good: bool
    what: str
    remedy: str = ""

    def line(self) -> str:
        return f"ok    {self.what}" if self.good else f"FAIL  {self.what}. {self.remedy}"
