"""Models and LoRAs that can be chosen, and LoRAs that people bring."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.core.specs import LoraRef
from studio.engine.models import captioners, catalogue, upscalers
from studio.engine.models.captioners import CaptionerInfo
from studio.engine.models.catalogue import LoraInfo, ModelInfo
from studio.engine.models.upscalers import UpscalerInfo
from studio.prompting.triggers import trigger_words as trigger_words_of
from studio.runs.rundir import write_failure
from studio.service import ownership


class ModelLibrary:
    """What there is on this machine, and what can be downloaded."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loras: tuple[Sequence[tuple[str, int, int]], Sequence[LoraInfo]] | None = (
            None  # as the files were, what they are
        )

    def list(self) -> Sequence[ModelInfo]:
        """Every model that can be chosen, with its state; those that can't be used say why."""
        return catalogue.catalogue(self._settings)

    def loras(self) -> Sequence[LoraInfo]:
        """Every LoRA that can be used. Files are read again only when one of them has changed: pages ask often."""
        stamps = []
        for file in catalogue.lora_files(self._settings, (".safetensors", ".json", ".info")):
            with suppress(OSError):  # deleted since it was listed
                stat = file.stat()
                stamps.append((str(file), stat.st_mtime_ns, stat.st_size))
        known = self._loras
        if known is None or known[0] != stamps:
            self._loras = known = (stamps, catalogue.loras(self._settings))
        return tuple(known[1])

    def loras_of(self, owner: str) -> Sequence[LoraInfo]:
        """Every LoRA that this owner may use: all but those that another key of the API has trained."""
        return [info for info in self.loras() if not ownership.theirs(info.path, owner, self._settings)]

    def refused_loras(self) -> Sequence[tuple[str, str]]:
        """File name and reason of every file that lies where LoRAs do and can't be used."""
        return catalogue.refused_loras(self._settings)

    def lora(self, reference: str) -> LoraInfo:
        """A LoRA by path, file name or title, in the list or not. Raises `NotFound` and `BadInput`."""
        return catalogue.find_lora(reference, self._settings)

    def trigger_words(self, refs: Iterable[LoraRef]) -> tuple[str, ...]:
        """Trigger words of all these LoRAs. Raises `NotFound` and `BadInput` for one that isn't here."""
        return trigger_words_of(refs, self.lora)

    def captioners(self) -> Sequence[CaptionerInfo]:
        """Who can write first captions (a `CaptionSpec` job) without a download: the judge first, then taggers."""
        return captioners.catalogue(self._settings)

    def upscalers(self) -> Sequence[UpscalerInfo]:
        """What pictures can be enlarged with: the studio's own network, a filter, files in `models/upscalers/`."""
        return upscalers.catalogue(self._settings)

    def refused_upscalers(self) -> Sequence[tuple[str, str]]:
        """File name and reason of every file that lies where upscalers do and can't be used."""
        return upscalers.refused(self._settings)

    def import_lora(self, data: bytes, name: str, trigger_words: Sequence[str] = (), weight: float = 1.0) -> LoraInfo:
        """Put a LoRA from elsewhere into the LoRA folder, with its trigger words and weight beside it.

        One of the same name stays: a different file gets a number behind its name and title, the same one new words.
        Raises BadInput for anything but a plain LoRA in a safetensors file; nothing is kept of it then.
        """
        stem = re.sub(r"[^\w .-]+", "-", Path(name).stem).strip(" .-") or "lora"
        if Path(name).suffix.lower() != ".safetensors":
            raise BadInput(f"{Path(name).name} is not a .safetensors file; LoRAs in other formats can hold code.")
        folder = self._settings.models_dir / "loras"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".import-", dir=folder) as fresh:
                file = Path(fresh) / f"{stem}.safetensors"
                file.write_bytes(data)
                info = catalogue.find_lora(str(file), self._settings)
                final, number = _free(folder, stem, data)
                facts = {
                    "title": info.title if number == 1 else f"{info.title} ({number})",
                    "trigger_words": list(trigger_words) or list(info.trigger_words),
                    "weight": weight,
                    "base": info.base,
                }
                (Path(fresh) / f"{stem}.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
                for suffix in (".json", ".safetensors"):
                    os.replace(Path(fresh) / f"{stem}{suffix}", folder / f"{final}{suffix}")
        except OSError as error:
            raise write_failure("The LoRA can't be kept", folder, error) from error
        return catalogue.find_lora(str(folder / f"{final}.safetensors"), self._settings)


def _free(folder: Path, stem: str, data: bytes) -> tuple[str, int]:
    """A name in `place` for the LoRA `data` (`stem`, `stem-2`, ...) that no other content has, and its number."""
    number = 1
    while True:
        name = stem if number == 1 else f"{stem}-{number}"
        there = folder / f"{name}.safetensors"
        if not there.exists() or (there.stat().st_size == len(data) and there.read_bytes() == data):
            return name, number
        number += 1
