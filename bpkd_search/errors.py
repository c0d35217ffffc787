"""What goes wrong on the user's side, in words that let the user fix it.

The command line prints these without a traceback and exits with their `exit_code`.
"""


class UserError(Exception):
    """Base of every error a user can fix: what was got, where, and what is valid."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration that cannot be used. Holds every fault found, one line each."""

    def __init__(self, faults: list[str], source: str = "config") -> None:
        self.faults = faults
        self.source = source
        super().__init__("\n".join([f"{source}: {len(faults)} error(s)", *(f"  {f}" for f in faults)]))


class DataError(UserError):
    """A data set that is missing, incomplete or damaged; the file is named."""


class CheckpointError(UserError):
    """Weights that cannot be loaded completely and safely; file and keys are named."""


class ExperimentError(UserError):
    """An experiment folder that is missing, taken, locked or damaged."""


class SearchFailed(UserError):
    """A search or confirmation in which no trial completed; the reason and a trial's log are named."""

    exit_code = 1


class ResourceError(UserError):
    """More GPUs, CPUs, memory or disk asked for than there is."""


class MissingPackageError(UserError):
    """An optional package that is not installed; the message names the extra that installs it."""
