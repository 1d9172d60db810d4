"""What a person reads of a job that failed."""

from __future__ import annotations

import logging
from pathlib import Path

from studio.core.errors import OutOfMemory, StudioError
from studio.store.pictures import write_error

log = logging.getLogger("studio.jobs.queue")  # whose jobs they are

BUG = "Something went wrong inside the studio ({}); the log says more. Other jobs are not affected."
DEADLY = "The studio ended {} times while it worked on this, so it isn't tried again; the log may say why."
STOPPED = BUG.format("the worker stopped")


def sentence_for(error: BaseException) -> str:
    """What a person reads when a job fails; a bug also goes to the log with its traceback."""
    if isinstance(error, StudioError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's; not imported here
        return str(OutOfMemory("The memory didn't suffice; try a smaller picture, or fewer at once."))
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        log.warning("a file couldn't be used: %s", error)
        return str(write_error(error, Path(str(error.filename)).parent))
    log.error("a job failed", exc_info=error)
    return BUG.format(type(error).__name__)
