"""Loading, keeping and freeing a model, and drawing with it. Knows no job, no owner and no store.

`Engine` lives in one thread, the one that owns the device. It keeps one model; asking for another frees it first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from studio.engine import light_imports  # isort: skip - before diffusers

import torch
from PIL import Image

from studio.core.errors import BadInput, Cancelled, StudioError
from studio.core.settings import Settings
from studio.core.specs import Recipe
from studio.engine import allocator, drawing, memory, optimizations
from studio.engine.models import controlnets, hub
from studio.engine.models.catalogue import (
    ModelInfo,
    file_family,
    find_lora,
    fingerprint,
    resolve,
)
from studio.engine.models.components import Components
from studio.engine.models.families import SD15, FastReference, accept
from studio.engine.models.few_steps import few_step
from studio.engine.models.loading import load_parts
from studio.engine.models.weights import component_weights, read_header
from studio.engine.progress import Progress
from studio.engine.recipe import latent_size

__all__ = ["Components", "Engine", "light_imports", "load"]


def load(info: ModelInfo, settings: Settings, on_note: Callable[[str], None] | None = None) -> Components:
    """Load a resolved model onto the device that `settings` ask for.

    `on_note` is told what takes time. Raises BadInput for a damaged model or one of another family (which is seen
    before its weights are downloaded) and OutOfMemory when it doesn't fit.
    """
    if info.path is None:
        fetch(info.reference, settings, on_note)
        info = resolve(info.reference, settings)
    if on_note is not None:
        on_note(f"loading {info.title}")
    decided = optimizations.plan(
        settings, 4 * info.parameters, 4 * _control_parameters(info, settings), unet_bytes=4 * info.unet_parameters
    )
    components = Components(
        info=info, family=info.family, device=decided.device, dtype=decided.dtype, **load_parts(info, decided.dtype)
    )
    optimizations.apply(components, decided)
    return components


def fetch(reference: str, settings: Settings, on_note: Callable[[str], None] | None = None) -> None:
    """Download a model of the hub in the precision that it will be loaded in. Raises as `hub.get`."""
    hub.get(reference, settings, on_note, half=_half(settings), accept=accept, accept_file=file_family)


def _fetch_few_step(known: FastReference, settings: Settings, on_note: Callable[[str], None]) -> None:
    """Download a published few-step adapter. Raises as `hub.get`, and BadInput where it is another file by now."""
    path = hub.get_file(known.reference, known.file, known.download_bytes, settings, on_note)
    if fingerprint(path) != known.sha256:
        path.unlink()  # a link into the Hub's cache: nobody takes it for the right one
        raise BadInput(
            f"{known.reference} isn't the file any more that the studio knows; get it yourself and put it into "
            f"{settings.models_dir}/loras, if you trust it."
        )


def _half(settings: Settings) -> bool:
    """Whether a model of the usual size will be drawn with in 16 bits."""
    return optimizations.plan(settings, SD15.download_bytes).dtype.itemsize == 2


def _in_turns(download: Callable[[Callable[[str], None]], object], on_note: Callable[[str], None]) -> Iterator[None]:
    """Work of a thread of its own, told as `Engine.fetched` says; leaving early ends it at its next note."""
    notes, over = [""], threading.Event()
    failed: list[BaseException] = []

    def note(text: str) -> None:
        if over.is_set():
            raise Cancelled
        notes[0] = text

    def work() -> None:
        try:
            download(note)
        except BaseException as error:  # raised again where somebody hears it
            failed.append(error)

    thread = threading.Thread(target=work, name="studio-download", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
            on_note(notes[0])
            yield
    finally:
        over.set()
    if failed:
        raise failed[0]


def _control_parameters(info: ModelInfo, settings: Settings) -> int:
    """Parameters of the largest ControlNet of this model that is on this machine: one at a time is loaded."""
    sizes = [0]
    for reference in set(info.controlnets.values()):
        with suppress(StudioError):  # a damaged one is refused when it is asked for
            path = controlnets.find(reference, settings)
            if path is not None:
                files = [path] if path.is_file() else component_weights(path.parent, path.name)
                sizes.append(sum(read_header(file).parameters() for file in files))
    return max(sizes)


class Engine:
    """One device, at most one model on it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._components: Components | None = None

    def components(self, reference: str, on_note: Callable[[str], None] | None = None) -> Components:
        """The loaded model `reference`, from before when nothing of it changed; another one is freed first."""
        info = resolve(reference, self.settings)
        loaded = self._components
        if loaded is not None and loaded.info.reference == info.reference and loaded.info.hash == info.hash:
            return loaded
        del loaded
        self.free()
        self._components = load(info, self.settings, on_note)
        return self._components

    def fetched(self, reference: str, on_note: Callable[[str], None]) -> Iterator[None]:
        """Download a model that isn't here yet; yields several times a second, so that others may draw meanwhile.

        `on_note` may raise, and closing the iterator ends the download. Raises as `hub.get`.
        """
        if resolve(reference, self.settings, with_hash=False).path is None:
            yield from _in_turns(lambda note: fetch(reference, self.settings, note), on_note)

    def fetched_control(self, reference: str, wanted: str, on_note: Callable[[str], None]) -> Iterator[None]:
        """As `fetched`, of the ControlNet `wanted` (see `controlnets.controlnet`) by the model `reference`."""
        known = resolve(reference, self.settings, with_hash=False).controlnets
        missing = controlnets.absent(known, wanted, self.settings)
        if missing is not None:
            yield from _in_turns(
                lambda note: controlnets.fetch(missing, self.settings, note, _half(self.settings)), on_note
            )

    def fetched_lora(self, reference: str, on_note: Callable[[str], None]) -> Iterator[None]:
        """As `fetched`, of a LoRA that is published for a whole family. Nothing is done for any other."""
        known = few_step(reference)
        if known is not None and find_lora(reference, self.settings).state == "download":
            yield from _in_turns(lambda note: _fetch_few_step(known, self.settings, note), on_note)

    def free(self) -> None:
        """Give the memory of the loaded model back."""
        if self._components is None:
            return
        self._components = None
        allocator.release()

    def at_once(self, recipes: Sequence[Recipe], on_note: Callable[[str], None] | None = None) -> int:
        """How many of `recipes` (alike, as for `draw`) one batch takes, 1 at least, by the memory that is free now.

        Loads the model. A caller that draws so many at a time can let others draw in between and wastes no batch.
        """
        recipe = recipes[0]
        components = self.components(recipe.model, on_note)
        left = drawing.make_room(components, recipe, len(recipes), self.settings)
        width, height = latent_size(components, recipe)
        return memory.batch_size(components, width, height, recipe.guidance > 1, len(recipes), left)

    def draw(
        self,
        recipes: Sequence[Recipe],
        on_step: Progress | None = None,
        files: Callable[[str], Path] = Path,
    ) -> Iterator[tuple[int, Image.Image]]:
        """(index, picture) of each recipe, as they are finished, in batches as large as memory allows.

        The recipes share everything but prompt, negative prompt and seed. `files` gives the file of a source or control
        picture. `on_step` may raise; everything attached is detached then. Raises StudioError subclasses.
        """
        if not recipes:
            return
        first = recipes[0]
        if any(drawing.shared(recipe) != drawing.shared(first) for recipe in recipes):
            raise BadInput("Pictures drawn together may differ in prompt and seed only.")
        components = self.components(first.model, drawing.noter(on_step, recipes))
        yield from drawing.draw(components, recipes, self.settings, on_step, files)

    def enlarge(
        self, image: Image.Image, upscaler: str, scale: float, on_tile: Callable[[int, int], None] | None = None
    ) -> Image.Image:
        """A picture `scale` times as large on each side; needs no model. See `drawing.enlarge`."""
        device = self._components.device if self._components else torch.device(optimizations.kind_of(self.settings))
        return drawing.enlarge(image, upscaler, scale, self.settings, device, on_tile)

    def status(self) -> dict[str, Any]:
        """Device, precision, model, choices and memory, as plain data for the System page.

        Without a model: the device that one would be loaded onto.
        """
        loaded = self._components
        device = loaded.device if loaded else torch.device(optimizations.kind_of(self.settings))
        return {
            "loaded": loaded is not None,
            "device": str(device),
            "dtype": str(loaded.dtype).removeprefix("torch.") if loaded else "",
            "model": loaded.info.reference if loaded else None,
            "choices": list(loaded.choices) if loaded else [],
            "memory_used": memory.resident(),
            **memory.card(device),
        }
