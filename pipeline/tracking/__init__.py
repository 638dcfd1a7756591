"""MLflow records of every stage run: spool first, send second. Start at :class:`pipeline.tracking.tracker.Tracker`."""

from pipeline.tracking.tracker import Run, Sent, Tracker

__all__ = ["Run", "Sent", "Tracker"]
