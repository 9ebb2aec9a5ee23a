"""Every error RenalCore raises on purpose, as one tree.

    RenalError
    ├── InputError                a file or value from outside cannot be used
    │   ├── UnreadableFile        not an image, truncated, empty
    │   ├── TooLarge              over a pixel or byte limit
    │   └── UnknownName           a class, model, grade or cut-off nobody knows
    ├── ModelError                weights missing, altered, or not fitting the network
    │   └── DeviceUnavailable     the asked-for device or back end is not on this machine
    └── StorageError              database or file store cannot do what was asked
        ├── NotFound
        ├── Conflict              a duplicate, or a state that forbids the action
        ├── StorageFull
        ├── DamagedFile           a stored file is not what was stored
        └── AuditBroken           the audit chain does not verify

A message names the file or record, says what happened and what to do about it. It never holds a
patient's name.
"""


class RenalError(Exception):
    """Base of every error raised on purpose; `str(error)` may be shown to a technologist."""


class InputError(RenalError):
    """A file or a value from outside cannot be used."""


class UnreadableFile(InputError):
    """The file is not what it claims to be, is cut off, or is empty."""


class TooLarge(InputError):
    """The file exceeds a limit that protects the installation."""


class UnknownName(InputError):
    """A class, model, grade or table that nobody knows."""


class ModelError(RenalError):
    """Weights are missing, altered, or do not fit the network."""


class DeviceUnavailable(ModelError):
    """The asked-for device or back end is not on this machine."""


class StorageError(RenalError):
    """The database or the file store cannot do what was asked."""


class NotFound(StorageError):
    """No such record or file."""


class Conflict(StorageError):
    """A duplicate, or a state that forbids the action."""


class StorageFull(StorageError):
    """No space is left where files are stored."""


class DamagedFile(StorageError):
    """A stored file is not what was stored: its disk or somebody changed it."""


class AuditBroken(StorageError):
    """The audit chain does not verify."""
