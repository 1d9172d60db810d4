"""What can caption a picture and where it is: the embedded model's judge, or a model of somebody else's.

Reads file names, `config.json` and headers only. Knows no torch and no picture: that is `captioning`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from studio.core.errors import BadInput, NotFound, Offline
from studio.core.files import read_regular
from studio.core.settings import Settings
from studio.engine.models import hub
from studio.engine.models.catalogue import resolve
from studio.engine.models.places import candidates
from studio.engine.models.weights import PICKLES, read_header

JUDGE = "judge"
# Those that need no question beside the picture; chat models want one, in a form of their own each.
WRITERS = ("BlipForConditionalGeneration", "GitForCausalLM", "VisionEncoderDecoderModel")
WANTED = "an image classifier or a captioner (BLIP, GIT, vision-encoder-decoder) in the format of transformers"


@dataclass(frozen=True)
class CaptionerInfo:
    """One captioner. A tagger classifies and names what it is sure of; a writer writes a sentence.

    `kind` and `path` are None while it isn't on this machine. `architecture` is a class of transformers, "" for the
    judge. Sizes in bytes.
    """

    reference: str
    title: str
    kind: Literal["judge", "tagger", "writer"] | None
    path: Path | None
    architecture: str = ""
    size_bytes: int = 0


def find(reference: str, settings: Settings) -> CaptionerInfo:
    """What `reference` means: `judge`, a folder, the name of a folder in `models/captioners/`, or a hub id.

    Raises NotFound when there is nothing of that name, BadInput when it can't caption or is a pickle, and Offline for
    one that would have to be downloaded where STUDIO_OFFLINE is on.
    """
    name = reference.strip()
    if name == JUDGE:
        judge = resolve("embedded", settings, with_hash=False).judge
        if judge is None:
            raise NotFound("The embedded model has no judge in this installation; choose a tagger.")
        return CaptionerInfo(JUDGE, "The embedded model's judge", "judge", judge)
    if (folder := _local(name, settings)) is not None:
        return _checked(str(folder), folder.name, folder)
    if not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name):
        raise NotFound(f"There is no captioner {reference[:80]!r}: give judge, a hub id or the folder of a tagger.")
    snapshot = hub.snapshot(name, ("",))
    if snapshot is not None:
        return _checked(name, name, snapshot)
    if settings.offline:
        raise Offline(f"{name} is not on this machine and STUDIO_OFFLINE is on; use the judge or a local folder.")
    return CaptionerInfo(name, name, None, None)


def catalogue(settings: Settings) -> list[CaptionerInfo]:
    """Every captioner that is on this machine: the judge, those in `models/captioners/`, those in the Hub's cache."""
    references = [JUDGE]
    if (own := settings.models_dir / "captioners").is_dir():
        references += [str(folder) for folder in sorted(own.iterdir()) if folder.is_dir()]
    for config in sorted(hub.cache().glob("models--*--*/snapshots/*/config.json")):
        references.append(config.parent.parent.parent.name.removeprefix("models--").replace("--", "/", 1))
    captioners = []
    for reference in dict.fromkeys(references):
        try:
            info = find(reference, settings)
        except (BadInput, Offline):
            continue  # the Hub's cache holds models of every kind
        if info.path is not None:
            captioners.append(info)
    return captioners


def kind_of(config: Mapping[str, Any], title: str) -> tuple[Literal["tagger", "writer"], str]:
    """What a model with this `config.json` does, and the class that loads it. Raises BadInput when it can't caption."""
    names = config.get("architectures")
    for name in names if isinstance(names, list) else ():
        if name in WRITERS:
            return "writer", name
        if isinstance(name, str) and "ForImageClassification" in name:
            return "tagger", name
    raise BadInput(f"{title} can't caption pictures; choose {WANTED}.")


def _local(reference: str, settings: Settings) -> Path | None:
    try:
        for folder in candidates(reference, settings, settings.models_dir / "captioners"):
            if reference and folder.is_dir():
                return folder.resolve()
            if folder.is_file():
                raise BadInput(f"{folder.name} is a file; give the folder that its config.json is in.")
    except (OSError, RuntimeError, ValueError):  # too long for the file system, no home folder for `~`, a NUL in it
        pass
    return None


def _checked(reference: str, title: str, folder: Path) -> CaptionerInfo:
    try:
        config = json.loads(read_regular(folder / "config.json"))
    except FileNotFoundError:
        raise BadInput(f"{title} has no config.json; choose {WANTED}.") from None
    except (OSError, ValueError, RecursionError):
        raise BadInput(f"The config.json of {title} is not readable JSON; get the model again.") from None
    kind, architecture = kind_of(config if isinstance(config, dict) else {}, title)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        if any(file.suffix in PICKLES for file in folder.iterdir()):
            raise BadInput(
                f"The weights of {title} are a pickle, which can run code when it is opened; "
                "use a version with .safetensors files."
            )
        raise BadInput(f"{title} has no weights; get the model again.")
    for file in weights:
        read_header(file)
    return CaptionerInfo(reference, title, kind, folder, architecture, sum(file.stat().st_size for file in weights))
