"""Errors that the user can fix, with messages that explain how.

The command line prints these without a traceback and exits with their `exit_code`.
"""


class UserError(Exception):
    """Base of every error a user can fix: the given value, its place, and what is valid."""

    exit_code = 2


class ConfigError(UserError):
    """An invalid configuration. Lists all faults, one per line."""

    def __init__(self, faults: list[str], source: str = "config") -> None:
        self.faults = faults
        self.source = source
        super().__init__("\n".join([f"{source}: {len(faults)} error(s)", *(f"  {f}" for f in faults)]))


class DataError(UserError):
    """A data set that is missing, incomplete or damaged; the message names the file."""


class CheckpointError(UserError):
    """Weights that cannot be loaded completely and safely; the message names file and keys."""


class ExperimentError(UserError):
    """An experiment directory that is missing, taken, locked or damaged."""


class SearchFailed(UserError):
    """A search or confirmation in which no trial completed; the reason and a trial's log are named."""

    exit_code = 1


class HeldError(ExperimentError):
    """An experiment directory that another process has locked."""


class StoreError(UserError):
    """An object store that cannot be reached, or refuses; the message has its answer."""


class ResourceError(UserError):
    """More GPUs, CPUs, memory or disk requested than available."""


class FullDiskError(ResourceError):
    """A disk or quota without room for what is to be written; nothing was torn, and writing can be repeated."""


class MissingPackageError(UserError):
    """An optional package that is not installed; the message names the extra that installs it."""
