"""Several processes on a CPU, where `accelerate launch` was asked for them and starts only one.

With `--cpu --num_processes N` and no MPI it starts one process and says nothing; how many were asked for stands on its
own command line only. Knows command lines; nothing of training.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import psutil

# As a module or a path, with a dot before it and between its parts
_LAUNCHERS = (".accelerate", ".accelerate-launch", ".commands.launch", ".accelerate.commands.accelerate_cli")


def asked_for(command: Sequence[str]) -> int:
    """How many processes the command line `accelerate launch ...` asks for; 1 where it is another one."""
    from accelerate.commands.launch import launch_command_parser

    names = ["." + re.sub(r"[\\/]", ".", re.sub(r"\.(exe|py)$", "", part.lower())) for part in command]
    start = next((k for k, name in enumerate(names) if name.endswith(_LAUNCHERS)), None)
    if start is None:
        return 1
    rest = list(command[start + 1 :])
    if rest[:1] == ["launch"]:
        rest = rest[1:]
    parsed, _ = launch_command_parser().parse_known_args(rest)
    return int(parsed.num_processes or 1)


def asked_for_above() -> int:
    """As `asked_for`, of the processes above this one.

    The launcher needn't be the one right above: on Windows a virtual environment's Python is a program that starts
    another one and waits for it.
    """
    with suppress(psutil.Error):
        for parent in psutil.Process().parents():
            with suppress(psutil.Error):  # it ended meanwhile, or belongs to somebody else
                if (count := asked_for(parent.cmdline())) > 1:
                    return count
    return 1


def spread_over_processes(module: str) -> None:
    """Where this process is the only one of several that `accelerate launch --cpu` was asked for: become torchrun.

    `module` is this program, which is then started so many times with the same arguments. Otherwise nothing happens.
    """
    alone = "WORLD_SIZE" not in os.environ and os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    if not alone:
        return
    count = asked_for_above()
    if count > 1:
        command = [sys.executable, "-u", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command += ["-m", module, *sys.argv[1:]]
        if sys.platform == "win32":  # exec would end this process there, and whoever waits for it would go on
            sys.exit(subprocess.run(command).returncode)
        os.execv(sys.executable, command)
