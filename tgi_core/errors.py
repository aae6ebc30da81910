"""The error tree. Every error says what happened and what to do about it.

TgiError
├── RequestError            the client's request; the server is fine
│   ├── ValidationError         a field has a bad value
│   ├── TemplateError           the chat template cannot render these messages
│   ├── ToolError               tools or tool_choice make no sense
│   └── Overloaded              too many requests at once
├── EngineError             the request was fine; producing tokens failed
│   ├── GenerationError         the model or the backend failed on this request
│   ├── NotReady                the model is still being loaded
│   │   └── ShuttingDown            the server takes nothing new any more
│   ├── IncompleteGeneration    the stream of tokens ended without an end
│   └── EngineLost              no engine is running, and none could be started
├── BackendError            what a backend raises; the engine turns it into one of the above
│   ├── Unsupported             asked for something that the capabilities exclude
│   ├── OutOfMemory             this step does not fit; the cache is unchanged
│   ├── RowsFailed              these rows failed; their cache is undefined
│   ├── BadAdapter              the files are no adapter of this model
│   ├── BadImage                the file is no image that this model can take
│   └── BackendDead             the device is gone
└── SetupError              the server cannot start; one paragraph and an exit code
    ├── UsageError              a bad flag or setting
    │   └── ArgumentValidation      TGI's launcher would refuse it too
    │       └── NotEnoughCUDADevices    a model should be shared by devices that are not there
    ├── ModelNotFound           the model reference leads nowhere
    ├── AccessDenied            the model is not for this user
    ├── HubUnavailable          the model cannot be fetched now
    ├── CacheUnwritable         the disk does not take what is fetched
    ├── BadModel                the model's files are damaged or incomplete
    ├── UnsupportedModel        the files are fine; this backend cannot run them
    ├── DoesNotFit              the memory does not hold the model, or one sequence
    ├── PortInUse               somebody listens on the address already
    ├── OutOfResources          the system gives no more files, processes or memory now
    ├── BackendUnavailable      no installed backend can serve this model here
    └── PluginError             something is wrong with an installed plugin
        ├── UnknownPlugin           no plugin has that name
        ├── PluginLoadError         importing it failed
        ├── PluginConflict          two distributions claim one name
        ├── PluginContractError     it was made for another version of the contract
        └── UnknownHook             it implements a hook that does not exist

Knows nothing of HTTP: `api/errors.py` maps classes to statuses and `error_type` strings.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence


class TgiError(Exception):
    """Root of every error that this project raises on purpose."""


class RequestError(TgiError):
    """The client's request cannot be served as it is."""


class ValidationError(RequestError):
    """A field of the request has a value outside its limits."""


class TemplateError(RequestError):
    """The chat template cannot render the messages."""


class ToolError(RequestError):
    """The request's tools or tool choice make no sense."""


class Overloaded(RequestError):
    """The server already holds as many requests as it may."""


class EngineError(TgiError):
    """The request was accepted, but its tokens could not be produced."""


class GenerationError(EngineError):
    """The model or the backend failed while working on this request."""


class NotReady(EngineError):
    """The model is still being loaded; trying again in a moment will help."""


class ShuttingDown(NotReady):
    """The server finishes what it has and takes nothing new; another one may."""


class IncompleteGeneration(EngineError):
    """The stream of tokens ended without a finish reason."""


class EngineLost(EngineError):
    """The engine is gone and could not be brought back."""


class BackendError(TgiError):
    """Base of the errors that a backend may raise from a contract call."""


class Unsupported(BackendError):
    """The backend was asked for something that it declared it cannot do."""

    def __init__(self, feature: str, message: str = "") -> None:
        super().__init__(message or f"this backend does not support {feature}")
        self.feature = feature
        """Short name of what is not supported."""


class OutOfMemory(BackendError):
    """The step does not fit in memory. The cache is as before; core may shrink the step."""


class RowsFailed(BackendError):
    """Some rows of a step failed; the others are as if the step had not been."""

    def __init__(self, rows: Sequence[int], message: str) -> None:
        super().__init__(message)
        self.rows = tuple(rows)
        """Indices into `Step.seq`. What the cache holds of them is undefined; core releases it."""


class BadAdapter(BackendError):
    """An adapter cannot be used: says what of it is wrong. The model is as it was."""


class BadImage(BackendError):
    """An image cannot be used: says what is wrong with it, in words for the client."""


class BackendDead(BackendError):
    """The device or its runtime is gone; the engine process has to be replaced."""


class SetupError(TgiError):
    """The server cannot start. The message is a paragraph for the operator."""

    exit_code = 1
    """Exit status of the command, after sysexits(3) where one fits."""


class UsageError(SetupError):
    """A flag, an environment variable or a line of the config file is wrong."""

    exit_code = 2


class ArgumentValidation(UsageError):
    """Flags of TGI's launcher contradict each other; the name is TGI's."""

    exit_code = 1


class NotEnoughCUDADevices(ArgumentValidation):
    """A model should be shared by more devices than there are; the name is TGI's."""


class ModelNotFound(SetupError):
    """The model reference is neither a path that exists nor anything else that resolves."""

    exit_code = 66


class AccessDenied(SetupError):
    """The model exists, but whoever asks may not have it."""

    exit_code = 77


class HubUnavailable(SetupError):
    """The hub did not answer, or may not be asked; trying again later may help."""

    exit_code = 69


class CacheUnwritable(SetupError):
    """The disk is full, or may not be written."""

    exit_code = 73


class BadModel(SetupError):
    """The model's files are damaged, incomplete or contradict each other."""

    exit_code = 65


class UnsupportedModel(SetupError):
    """The model's files are fine, but this backend cannot run such a model."""

    exit_code = 65


class DoesNotFit(SetupError):
    """Memory does not hold the model and a cache for at least one sequence."""

    exit_code = 78


class PortInUse(SetupError):
    """The address that the server should listen on is taken."""

    exit_code = 78


class OutOfResources(SetupError):
    """The system gives no more of something now; starting again later may help."""

    exit_code = 75

    @classmethod
    def behind(cls, error: OSError | MemoryError) -> OutOfResources | None:
        """The error for the operator, if that is what happened."""
        number = errno.ENOMEM if isinstance(error, MemoryError) else error.errno
        remedy = _SHORTAGES.get(number or 0)
        return None if remedy is None else cls(f"{remedy} ({error})" if str(error) else remedy)


_SHORTAGES = {
    errno.EMFILE: "no more files may be open: raise the limit with `ulimit -n`",
    errno.ENFILE: "this machine has no more open files to give: close some, or raise fs.file-max",
    errno.EAGAIN: "no more processes or threads may run: raise the limit with `ulimit -u`",
    errno.ENOMEM: "this machine has no more memory to give: end something, or take a smaller model",
    errno.ENOSPC: "the disk is full: make room on it",
}


class BackendUnavailable(SetupError):
    """No installed backend can serve this model on this machine."""

    exit_code = 78


class PluginError(SetupError):
    """Something is wrong with an installed plugin; names its distribution."""

    exit_code = 78


class UnknownPlugin(PluginError):
    """No installed plugin has the name that was asked for."""


class PluginLoadError(PluginError):
    """A plugin's module could not be imported."""


class PluginConflict(PluginError):
    """Two distributions offer a plugin of the same name."""


class PluginContractError(PluginError):
    """A plugin was made for a version of the contract that this core does not speak."""


class UnknownHook(PluginError):
    """A plugin implements a hook that no specification names."""
