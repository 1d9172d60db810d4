"""What the studio's own modules can't have on Windows, refused on Linux. Libraries keep theirs."""

import builtins
import errno
import os
import subprocess
import sys
from pathlib import Path

_import, _open, _fsync, _popen = builtins.__import__, os.open, os.fsync, subprocess.Popen.__init__
_rename, _replace, _unlink = os.rename, os.replace, os.unlink
HOME = os.environ["STUDIO_HOME"]


def asked_by_studio():
    return sys._getframe(2).f_globals.get("__name__", "").startswith("studio")


def no_import(name, globals=None, locals=None, fromlist=(), level=0):
    if name in ("fcntl", "resource") and (globals or {}).get("__name__", "").startswith("studio"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return _import(name, globals, locals, fromlist, level)


def open_no_folder(path, flags, *rest, **named):
    if asked_by_studio() and os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return _open(path, flags, *rest, **named)


def sync_what_may_be_written(handle):
    if asked_by_studio():
        number = handle if isinstance(handle, int) else handle.fileno()
        flags = Path(f"/proc/self/fdinfo/{number}").read_text().splitlines()[1].split()[1]
        if not int(flags, 8) & os.O_ACCMODE:
            raise OSError(errno.EBADF, "Bad file descriptor")
    return _fsync(handle)


def start(self, *arguments, **named):
    if asked_by_studio() and (named.get("pass_fds") or named.get("start_new_session")):
        raise ValueError("pass_fds and start_new_session are not there")
    named.pop("creationflags", None) if asked_by_studio() else None
    return _popen(self, *arguments, **named)


def refuse_open(path):
    real = os.path.realpath(path)
    if not real.startswith(HOME):
        return
    for handle in os.listdir("/proc/self/fd"):
        if os.path.realpath(f"/proc/self/fd/{handle}") == real:
            raise PermissionError(errno.EACCES, "used by another process", str(path))


def closed_only(function):
    def guarded(path, *rest, **named):
        if not isinstance(path, int) and not named:
            refuse_open(path)
        return function(path, *rest, **named)

    return guarded


def no_exec(*arguments):
    raise OSError("a program can't be replaced")


builtins.__import__ = no_import
os.open, os.fsync, os.execv = open_no_folder, sync_what_may_be_written, no_exec
os.rename, os.replace, os.unlink = closed_only(_rename), closed_only(_replace), closed_only(_unlink)
subprocess.Popen.__init__ = start
del os.setsid, os.nice
