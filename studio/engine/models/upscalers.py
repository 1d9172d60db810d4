"""Networks that make pictures larger: which there are, and what their files are. Reads headers only, loads no torch.

The studio's own comes with it; anybody's lie in `models/upscalers/` as `.safetensors`. Two layouts are read here, which
most upscalers for drawings have: SRVGGNetCompact (Real-ESRGAN, 2107.10833) and RRDBNet (ESRGAN, 1809.00219), the latter
under both of its names. All others are left to spandrel, where somebody has installed it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from studio.core.errors import BadInput, NotFound, StudioError
from studio.core.i18n import N_
from studio.core.settings import EMBEDDED_UPSCALER, Settings
from studio.engine.models.file_kinds import has_lora, kind_of
from studio.engine.models.places import candidates
from studio.engine.models.weights import PICKLES, Header, fingerprint, keep_in, read_header

EMBEDDED = "embedded"
LANCZOS = "lanczos"  # no network: a filter, which every picture can be enlarged with
NEEDED = ("spandrel", "torchvision")  # for the other architectures
UNKNOWN = (
    "{name} is not an upscaler that the studio knows: it reads SRVGGNetCompact (such as realesr-animevideov3) and "
    "RRDBNet (ESRGAN) saved as .safetensors."
)
MORE = " Other architectures need the packages spandrel and torchvision, which aren't installed."
BROKEN = " The package spandrel reads more, but can't be loaded here ({})."
OTHER = "{name} is {kind}, not an upscaler."
SCALES = (1, 2, 4, 8)
_PREFIX = re.compile(r"^(params_ema|params|module)\.")
_LAST = re.compile(r"body\.(\d+)\.weight")
_OLD = re.compile(r"model\.(\d+)\.weight")

Layout = Literal["compact", "rrdb", "spandrel"]


@dataclass(frozen=True)
class Shape:
    """What a network is built from. `channels` in its body, `depth` convolutions or blocks, `growth` of a dense block.

    `scale` 0: only the loaded network says (spandrel's). `folded`: how many pixels of a side are channels at first.
    """

    layout: Layout
    scale: int
    channels: int = 0
    depth: int = 0
    growth: int = 0
    folded: int = 1


@dataclass(frozen=True)
class UpscalerInfo:
    """One upscaler that can be chosen. `path` is None for the filter; `scale` 0: not known before it is loaded."""

    reference: str
    title: str
    path: Path | None = None
    scale: int = 0
    size_bytes: int = 0
    hash: str = ""
    layout: str = ""


def find(reference: str, settings: Settings) -> UpscalerInfo:
    """What `reference` means: `embedded`, `lanczos`, a file or its name in `models/upscalers/`.

    Raises NotFound when there is nothing of that name, BadInput for a pickle, a damaged file or another architecture.
    """
    name = reference.strip()
    if name == LANCZOS:
        return UpscalerInfo(LANCZOS, "Lanczos (no network)")
    keep_in(settings.hashes)
    if name == EMBEDDED:
        if not EMBEDDED_UPSCALER.is_file():
            raise NotFound("The studio's upscaler is missing from this installation; get assets/models/upscaler again.")
        return _file(EMBEDDED, N_("The studio's own"), EMBEDDED_UPSCALER)
    path = _local(name, settings)
    if path is None:
        raise NotFound(
            f"There is no upscaler {reference[:80]!r}: give embedded, lanczos or a .safetensors file in "
            f"{folder(settings)}."
        )
    return _file(path.stem if path.parent == folder(settings) else str(path), path.stem, path)


def catalogue(settings: Settings) -> list[UpscalerInfo]:
    """Every upscaler that can be used, the studio's own first."""
    found = []
    for reference in (EMBEDDED, LANCZOS, *map(str, _files(settings))):
        try:
            found.append(find(reference, settings))
        except StudioError:
            continue  # `refused` says why
    return found


def refused(settings: Settings) -> list[tuple[str, str]]:
    """File name and reason of every file that lies where upscalers do and can't be used."""
    reasons = []
    place = folder(settings)
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if path.suffix.lower() not in (".safetensors", *PICKLES):
            continue
        try:
            shape_of(read_header(path), path.name)
        except StudioError as error:
            reasons.append((path.name, str(error)))
    return reasons


def folder(settings: Settings) -> Path:
    """Where upscalers of other people lie."""
    return settings.models_dir / "upscalers"


def with_spandrel() -> bool:
    """Whether the other architectures can be read."""
    return all(find_spec(name) is not None for name in NEEDED)


def _files(settings: Settings) -> list[Path]:
    place = folder(settings)
    return sorted(path for path in place.iterdir() if path.suffix.lower() == ".safetensors") if place.is_dir() else []


def _local(name: str, settings: Settings) -> Path | None:
    try:
        for named in (name, f"{name}.safetensors"):
            for path in candidates(named, settings, folder(settings)):
                if name and path.is_file():
                    return path
    except (OSError, RuntimeError, ValueError):  # too long for the file system, no home folder for `~`, a NUL in it
        pass
    return None


def _file(reference: str, title: str, path: Path) -> UpscalerInfo:
    shape = shape_of(read_header(path), path.name)
    return UpscalerInfo(reference, title, path, shape.scale, path.stat().st_size, fingerprint(path), shape.layout)


def plain_names(names: Mapping[str, object]) -> dict[str, str]:
    """The tensors' names in a file, by what both layouts call them: without a prefix, old ESRGAN names as the new."""
    found = {name: _PREFIX.sub("", name) for name in names}
    if "model.1.sub.0.RDB1.conv1.0.weight" in found.values():
        found = {name: _renamed(plain, found.values()) for name, plain in found.items()}
    return {plain: name for name, plain in found.items()}


def _renamed(name: str, names: Collection[str]) -> str:
    """One old name of ESRGAN's as the new: `model.1.sub.0.RDB1.conv1.0` is `body.0.rdb1.conv1`."""
    if inner := re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(weight|bias)", name):
        return f"body.{inner[1]}.rdb{inner[2]}.conv{inner[3]}.{inner[4]}"
    if trunk := re.fullmatch(r"model\.1\.sub\.\d+\.(weight|bias)", name):
        return f"conv_body.{trunk[1]}"
    numbers = sorted(int(found[1]) for other in names if (found := _OLD.fullmatch(other)))
    called = {numbers[0]: "conv_first", numbers[-2]: "conv_hr", numbers[-1]: "conv_last"}
    called |= {number: f"conv_up{place}" for place, number in enumerate(numbers[1:-2], 1)}
    if outer := re.fullmatch(r"model\.(\d+)\.(weight|bias)", name):
        return f"{called.get(int(outer[1]), outer[1])}.{outer[2]}"
    return name


def shape_of(header: Header, name: str) -> Shape:
    """Which network a file holds. Raises BadInput for what is no upscaler, or one that can't be read here."""
    names = plain_names(header.tensors)
    sizes = {plain: header.tensors[real].shape for plain, real in names.items()}
    if has_lora(header.tensors) or kind_of(header.tensors):
        raise BadInput(OTHER.format(name=name, kind=kind_of(header.tensors) or "a LoRA"))
    shape = _compact(sizes) or _rrdb(sizes)
    if shape is not None:
        return shape
    if with_spandrel():
        return Shape("spandrel", 0)
    raise BadInput(UNKNOWN.format(name=name) + MORE)


def _compact(sizes: Mapping[str, tuple[int, ...]]) -> Shape | None:
    if any(not name.startswith("body.") for name in sizes):
        return None
    numbers = sorted(int(found[1]) for key in sizes if (found := _LAST.fullmatch(key)))
    convolutions = [number for number in numbers if len(sizes[f"body.{number}.weight"]) == 4]
    if len(convolutions) < 2:
        return None
    first, last = (sizes[f"body.{number}.weight"] for number in (convolutions[0], convolutions[-1]))
    scale = round((last[0] / 3) ** 0.5)
    if first[1] != 3 or 3 * scale * scale != last[0] or scale not in (1, 2, 3, 4):
        return None
    return Shape("compact", scale, int(first[0]), len(convolutions) - 2)


def _rrdb(sizes: Mapping[str, tuple[int, ...]]) -> Shape | None:
    first, dense = sizes.get("conv_first.weight", ()), sizes.get("body.0.rdb1.conv1.weight", ())
    if len(first) != 4 or len(dense) != 4 or "conv_last.weight" not in sizes:
        return None
    ups = sum(bool(re.fullmatch(r"conv_up\d\.weight", name)) for name in sizes)
    blocks = {name.split(".")[1] for name in sizes if name.startswith("body.")}
    folded = round((first[1] / 3) ** 0.5)
    if 3 * folded * folded != first[1] or 2**ups % folded or (scale := 2**ups // folded) not in SCALES:
        return None
    return Shape("rrdb", scale, int(first[0]), len(blocks), int(dense[0]), folded)
