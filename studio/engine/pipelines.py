"""Loading, keeping and freeing a model, and drawing with it. Knows no job, no owner and no store.

`Engine` lives in one thread, the one that owns the device. It keeps one model; asking for another frees it first.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from studio.engine import choices, drawing, hub, memory
from studio.engine.components import Components
from studio.engine.families import accept
from studio.engine.loading import load_parts
from studio.engine.models import ModelInfo, resolve
from studio.engine.progress import Progress
from studio.errors import BadInput
from studio.settings import Settings
from studio.specs import Recipe

__all__ = ["Components", "Engine", "load"]


def load(info: ModelInfo, settings: Settings, on_note: Callable[[str], None] | None = None) -> Components:
    """Load a resolved model onto the device that `settings` ask for.

    `on_note` is told what takes time. Raises BadInput for a damaged model or one of another family (which is seen
    before its weights are downloaded) and OutOfMemory when it doesn't fit.
    """
    if info.path is None:
        half = choices.plan(settings, 0).dtype == torch.float16
        hub.get(info.reference, settings, on_note, half=half, accept=accept)
        info = resolve(info.reference, settings)
    if on_note is not None:
        on_note(f"loading {info.title}")
    decided = choices.plan(settings, info.size_bytes)
    components = Components(
        info=info, family=info.family, device=decided.device, dtype=decided.dtype, **load_parts(info, decided.dtype)
    )
    choices.apply(components, decided)
    return components


class Engine:
    """One device, at most one model on it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._components: Components | None = None

    def components(self, reference: str, on_note: Callable[[str], None] | None = None) -> Components:
        """The loaded model `reference`, from before when nothing of it changed; another one is freed first."""
        info = resolve(reference, self.settings)
        held = self._components
        if held is not None and held.info.reference == info.reference and held.info.hash == info.hash:
            return held
        del held
        self.free()
        self._components = load(info, self.settings, on_note)
        return self._components

    def free(self) -> None:
        """Give the memory of the loaded model back."""
        if self._components is None:
            return
        self._components = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def at_once(self, recipes: Sequence[Recipe], on_note: Callable[[str], None] | None = None) -> int:
        """How many of `recipes` (alike, as for `draw`) one batch takes, 1 at least, by the memory that is free now.

        Loads the model. A caller that draws so many at a time can let others draw in between and wastes no batch.
        """
        recipe = recipes[0]
        components = self.components(recipe.model, on_note)
        width, height = (-(-side // components.factor) * components.factor for side in (recipe.width, recipe.height))
        return memory.batch_size(components, width, height, recipe.guidance > 1, len(recipes))

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

    def status(self) -> dict[str, Any]:
        """Device, precision, model, choices and memory, as plain data for the System page."""
        held = self._components
        return {
            "loaded": held is not None,
            "device": str(held.device) if held else "",
            "dtype": str(held.dtype).removeprefix("torch.") if held else "",
            "model": held.info.reference if held else None,
            "choices": list(held.choices) if held else [],
            "memory_used": memory.resident(),
        }
