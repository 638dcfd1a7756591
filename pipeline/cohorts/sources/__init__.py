"""What people have: folders, tables and data sets in other forms, each read as rows that point at recordings."""

from pipeline.cohorts.sources.detect import find_source
from pipeline.cohorts.sources.row import Source, SourceRow

__all__ = ["Source", "SourceRow", "find_source"]
