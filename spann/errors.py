"""Every error that spann raises on purpose; the commands map each to an exit code."""

from __future__ import annotations


class SpannWarning(UserWarning):
    """Base of all warnings: spann did, or left undone, something that the caller may not expect."""


class RepeatWarning(SpannWarning):
    """The same build or append was done before, so nothing was done now."""


class UnlikeWarning(SpannWarning):
    """The queries differ from those of the calibration, so settings may find more or fewer neighbours than it says."""


class NarrowingWarning(SpannWarning):
    """Vectors are of a wider type than an index holds, as float64, and are rounded to float32."""


class RecallWarning(SpannWarning):
    """No measured setting reached the recall asked for. The message says which recall was reached, and what helps."""


class SpannError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what a command ends with."""

    exit_code = 1


class InputError(SpannError, ValueError):
    """The caller's data or parameters cannot be used. The message names the value, the limit and the file."""

    exit_code = 2


class MissingError(SpannError, FileNotFoundError):
    """A file is missing: an input, the index at a path, or one file of an index."""

    exit_code = 2

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ExistsError(SpannError, FileExistsError):
    """The output path is taken and overwriting was not asked for."""

    exit_code = 2

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class FormatError(SpannError):
    """An index file does not have the form of docs/FORMAT.md, or needs a newer spann."""


class CorruptionError(FormatError):
    """An index file has the right form but its bytes are damaged: a checksum or an invariant does not hold."""


class StorageError(SpannError, OSError):
    """The operating system refused a read or a write: disk full, read-only, I/O error."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""
