"""What a machine has to compute with, told without torch: cards and their driver, and for which of them torch is built.

For pages that are on the screen before the first job, and for `doctor`, which has to answer where torch can't.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from studio.core.settings import Settings
from studio.core.views import Trouble
from studio.engine import packages

_NVIDIA = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))  # the last one: WSL
_SMI = ("nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader,nounits")
LARGE = 20_000_000_000  # bytes of a card on which nothing has to be spared
INDEX = "https://download.pytorch.org/whl/"
# Oldest NVIDIA driver that each major version of CUDA runs with (CUDA's release notes, minor version compatibility)
DRIVERS = {12: 525, 13: 580}
# Compute capabilities that PyTorch's wheels since 2.11 hold kernels for, by CUDA version (pytorch/RELEASE.md)
OLDEST = {"12.6": (5, 0), "12.8": (7, 5), "12.9": (7, 5), "13.0": (7, 5), "13.2": (7, 5)}


@dataclass(frozen=True)
class Card:
    """An NVIDIA card as its driver describes it; `memory` in bytes."""

    name: str
    driver: str
    capability: tuple[int, int]
    memory: int


@dataclass(frozen=True)
class Wheel:
    """The torch that is installed. `cuda`: the version that it is built for, "" where it is built for none."""

    version: str
    cuda: str

    @property
    def build(self) -> str:
        return f"built for CUDA {self.cuda}" if self.cuda else "built without CUDA"


@lru_cache
def cards() -> tuple[Card, ...]:
    """The NVIDIA cards of this machine, whether or not torch can use them; none where there is no driver."""
    if shutil.which(_SMI[0]) is None:
        return ()
    try:
        listing = subprocess.run(_SMI, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    cards_there = []
    for line in listing.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and re.fullmatch(r"\d+\.\d+", parts[2]) and parts[3].isdigit():
            major, minor = map(int, parts[2].split("."))
            cards_there.append(Card(parts[0], parts[1], (major, minor), int(parts[3]) * 2**20))
    return tuple(cards_there)


@lru_cache
def wheel() -> Wheel | None:
    """Which torch is installed; None: none is."""
    try:
        there = version("torch")
    except PackageNotFoundError:
        return None
    tag = there.partition("+")[2]
    if named := re.fullmatch(r"cu(\d\d)(\d)", tag):
        return Wheel(there, f"{named[1]}.{named[2]}")
    if tag:
        return Wheel(there, "")  # "cpu", "xpu", "rocm7.0"
    # PyPI's names don't say; the package does, in a file that can be read without loading it
    spec = importlib.util.find_spec("torch")
    source = Path(str(spec and spec.origin)).with_name("version.py")
    text = source.read_text(encoding="utf-8") if source.is_file() else ""
    cuda = re.search(r"^cuda\b[^=]*= '([\d.]+)'", text, re.MULTILINE)
    return Wheel(there, cuda[1] if cuda else "")


def suitable(card: Card) -> str | None:
    """CUDA version of the wheels that a card and its driver can run, "12.6" for one; None: the driver is too old."""
    driver = int(card.driver.split(".")[0])
    if driver < DRIVERS[12]:
        return None
    if card.capability < (7, 5):
        return "12.6"
    if driver >= DRIVERS[13]:
        return "13.0"
    return "12.6" if card.capability < (10, 0) else None


def install(cuda: str) -> str:
    """The command that puts a torch for this CUDA version into this Python, of the version that is there now."""
    there, tag = wheel(), "cu" + cuda.replace(".", "")
    pinned = f"torch=={there.version.partition('+')[0]}+{tag}" if there else "torch"
    return packages.python_command(f"pip install {pinned} --index-url {INDEX}{tag}")


def troubles(settings: Settings) -> list[Trouble]:
    """What can be told without torch: cards that aren't used, and packages that are in the way."""
    old = packages.torchao()
    return card_troubles(settings) + ([old] if old is not None else [])


def card_troubles(settings: Settings, architectures: Collection[str] = ()) -> list[Trouble]:
    """Cards that torch can't use, each with the command that mends it.

    `architectures`: those that torch itself says it has kernels for ("sm_75", "compute_120"), where it was asked.
    """
    there = wheel()
    if settings.device in ("cpu", "mps") or there is None:
        return []
    each = (_trouble(card, there, architectures) for card in cards())
    return list(dict.fromkeys(trouble for trouble in each if trouble is not None))


def _trouble(card: Card, there: Wheel, architectures: Collection[str]) -> Trouble | None:
    right = suitable(card)
    if right is None:
        newest = DRIVERS[13] if card.capability >= (7, 5) else DRIVERS[12]
        return Trouble(
            what=f"The driver {card.driver} is too old for {card.name} and any torch that the studio works with; "
            f"install NVIDIA's driver {newest} or newer from https://www.nvidia.com/drivers."
        )
    mended = install(right)
    if not there.cuda:
        return Trouble(
            what=f"The card {card.name} isn't used: torch {there.version} is {there.build}, so the processor draws, "
            "many times slower.",
            command=mended,
        )
    driver, major = int(card.driver.split(".")[0]), int(there.cuda.split(".")[0])
    if driver < DRIVERS.get(major, 0):
        return Trouble(
            what=f"The card {card.name} isn't used: torch {there.version} is {there.build}, which needs a driver "
            f"{DRIVERS[major]} or newer, and {card.driver} is installed. A torch for CUDA {right} works with it.",
            command=mended,
        )
    if not runs(card.capability, there.cuda, architectures):
        arch = "sm_{}{}".format(*card.capability)
        return Trouble(
            what=f"torch {there.version}, {there.build}, has no kernels for the card {card.name} ({arch}): nothing can "
            f"be drawn on it. A torch for CUDA {right} has them.",
            command=mended,
        )
    return None


def runs(capability: tuple[int, int], cuda: str, architectures: Collection[str] = ()) -> bool:
    """Whether a torch has kernels for a card: one for its generation that isn't newer, or code to compile for it.

    By its own list of architectures where it is known, else by what is known of its wheels.
    """
    if not architectures:
        blackwell = capability < (10, 0) or tuple(map(int, cuda.split("."))) >= (12, 8)
        return capability >= OLDEST.get(cuda, (5, 0)) and blackwell
    for name in architectures:
        kind, _, number = name.partition("_")
        digits = re.sub(r"\D", "", number)
        if len(digits) < 2:
            continue
        built = (int(digits[:-1]), int(digits[-1]))
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def training_kind(settings: Settings) -> str:
    """What would train here: "processor", "small card" or "large card", as `presets.distill_defaults` calls them."""
    if expected(settings) != "cuda":
        return "processor"
    best = max(cards(), key=lambda card: card.memory, default=None)
    if best is None:  # its driver can't be asked
        return "small card"
    return "large card" if best.memory >= LARGE and best.capability >= (8, 0) else "small card"


def expected(settings: Settings) -> str:
    """`cuda`, `mps` or `cpu`: what STUDIO_DEVICE asks for, or what `auto` will most likely turn out to be.

    The engine asks torch when it starts and has the last word (`optimizations.plan`).
    """
    if settings.device != "auto":
        return settings.device
    if sys.platform == "darwin":
        return "mps" if platform.machine() == "arm64" else "cpu"
    try:
        build = version("torch").partition("+")[2]  # "cpu", "cu128", or nothing on PyPI
    except PackageNotFoundError:
        return "cpu"
    if build == "cpu" or build.startswith("xpu"):
        return "cpu"
    return "cuda" if (sys.platform == "win32" and build) or any(path.exists() for path in _NVIDIA) else "cpu"
