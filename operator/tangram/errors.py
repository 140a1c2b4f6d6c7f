"""The exception tree.

::

    TangramError
    ├── InvalidInput          what somebody wrote cannot be used: names object, field, value, what is allowed
    │   ├── UnknownField      a field that the kind does not have
    │   └── InvalidTrace      a trace file: names file, line and column
    ├── Missing               what somebody asked about is not there
    ├── NotReachable          a server, a file or a tool that is needed does not answer
    │   ├── MissingTool       a program that is needed is not there
    │   └── ProbeFailed       a GPU driver cannot be asked at all
    ├── ClusterError          the API server answered with an error
    │   ├── Conflict          a precondition (uid, resourceVersion) no longer holds
    │   ├── NotFound          the object is gone
    │   ├── Gone              the resource version is too old: list again
    │   └── TooManyRequests   slow down for ``retry_after`` seconds
    ├── PluginError           a plugin that is unknown, registered twice, or failed
    └── SandboxError          the local cluster could not be started or stopped

"Does not fit" is not an error anywhere in tangram: it is an answer with a reason code (see ``plan``).
"""


class TangramError(Exception):
    """Root of everything that tangram raises on purpose; its text is fit for a user's terminal."""


class InvalidInput(TangramError):
    """Something that a person wrote cannot be used."""

    def __init__(self, where: str, field: str, value: object, allowed: str) -> None:
        self.where, self.field, self.value, self.allowed = where, field, value, allowed
        super().__init__(f"{where}: {field}: {value!r} is not allowed; allowed: {allowed}")


class UnknownField(InvalidInput):
    """A field that the kind does not have."""

    def __init__(self, where: str, field: str, others: str = "") -> None:
        super().__init__(where, field, None, "fields of the kind")
        self.args = (f'{where}: unknown field "{field}"{others}',)


class InvalidTrace(InvalidInput):
    """A row of a trace file is broken; nothing of the file has been used."""

    def __init__(self, file: str, line: int, column: str, value: object, allowed: str) -> None:
        self.file, self.line, self.column = file, line, column
        super().__init__(f"{file}:{line}", f"column {column}", value, allowed)


class Missing(TangramError):
    """What somebody asked about is not there."""


class NotReachable(TangramError):
    """A server, file or tool that is needed does not answer."""


class MissingTool(NotReachable):
    """A program that is needed is not installed and could not be built."""


class ProbeFailed(NotReachable):
    """A GPU driver cannot be asked at all: no library, no driver, or one that has failed."""


class ClusterError(TangramError):
    """The API server answered with an error status."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(message)


class Conflict(ClusterError):
    """A precondition on uid or resourceVersion no longer holds (HTTP 409)."""


class NotFound(ClusterError):
    """The object does not exist (HTTP 404)."""


class Gone(ClusterError):
    """The resource version asked for is no longer kept (HTTP 410): list again."""


class TooManyRequests(ClusterError):
    """The API server asks for a pause of ``retry_after`` seconds (HTTP 429 or 503)."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float) -> None:
        super().__init__(status, reason, message)
        self.retry_after = retry_after


class PluginError(TangramError):
    """A plugin is unknown, registered twice, or raised."""


class PluginTimeout(BaseException):
    """A plugin has not answered in the time that it has.

    Raised in the midst of it, past its own ``except Exception``.
    """


class SandboxError(TangramError):
    """The local cluster could not be started or stopped."""
