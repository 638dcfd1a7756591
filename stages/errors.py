"""The errors that a person is meant to read.

Each message says what was got, what was needed and the remedy; the CLI prints it without a traceback.
"""


class EdgealignError(Exception):
    """A failure with a known cause. ``str(error)`` names the file or setting and the next command."""


class InputError(EdgealignError):
    """Bad input: a recording, a transcript, a shard or a table that cannot be used."""


class SettingsError(EdgealignError):
    """``params.yaml`` holds an unknown key, a wrong type or a value out of range."""


class ModelError(EdgealignError):
    """A model package or folder is missing, broken or of a kind that is not supported."""


class ClusterError(EdgealignError):
    """Ray cannot be reached, or no node can meet a demand."""


class TrackingError(EdgealignError):
    """MLflow cannot be reached or refused a record (the record stays in the spool)."""
