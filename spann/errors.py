"""Every error that spann raises on purpose; the commands map each to an exit code."""

from __future__ import annotations


class SpannWarning(UserWarning):
    """Base of all warnings: something was done, or not, in a way that the caller may not expect."""


class RepeatWarning(SpannWarning):
    """A build or an append was asked for that is done already, and nothing was done."""


class UnlikeWarning(SpannWarning):
    """Queries lie otherwise than what a calibration was made with, so settings may find more or less than it says."""


class RecallWarning(SpannWarning):
    """A recall that is asked for was not seen to be had: says what was, and what helps."""


class SpannError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what a command ends with."""

    exit_code = 1


class InputError(SpannError, ValueError):
    """The caller's data or parameters cannot be used: names the value, the limit and the file."""

    exit_code = 2


class MissingError(SpannError, FileNotFoundError):
    """A file that should be there is not: no such input, no index at this path, or an index file that is gone."""

    exit_code = 2

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ExistsError(SpannError, FileExistsError):
    """The output path is taken and overwriting was not asked for."""

    exit_code = 2

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class FormatError(SpannError):
    """An index file is not of the form docs/FORMAT.md describes, or needs a newer spann."""


class CorruptionError(FormatError):
    """An index file has the right form but its bytes are damaged: a checksum or an invariant does not hold."""


class StorageError(SpannError, OSError):
    """The operating system refused a read or a write: disk full, read-only, I/O error."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""
