"""Every sentence that a person may be shown starts here.

`StudioError` is the one base class that pages, command line and API turn into words. Anything else that escapes is a
bug and is shown as one ("something went wrong inside the studio"), with its traceback in the log only. This module
knows no exit codes by number and no HTTP: `__main__` and `api` map the classes.
"""


class StudioError(Exception):
    """A problem that the person in front of the studio can understand and act on.

    The message is one sentence (or two): what is wrong, and what to do.
    """


class BadInput(StudioError):
    """The request itself is wrong: exit code 2 on the command line, 4xx in the API, nothing was written."""


class NotFound(BadInput):
    """A picture, job, run, model or file that isn't there, or is somebody else's (404 in the API)."""


class Offline(StudioError):
    """A file has to be downloaded and there is no network."""


class OutOfMemory(StudioError):
    """The device has not enough memory for this request; the message names a smaller one that fits."""


class DiskFull(StudioError):
    """Nothing could be written; everything written before is intact."""


class Busy(StudioError):
    """The queue or the device is taken and the request can't wait."""


class Cancelled(Exception):
    """Raised by a progress callback to unwind a job whose owner cancelled it."""
