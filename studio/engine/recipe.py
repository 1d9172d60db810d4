"""What a recipe asks of a loaded model: size, sampler, adapters, encoded prompts. Draws nothing itself.

A recipe's field that pictures, morphs and animations all have to heed is read here, once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from studio.core.errors import BadInput, StudioError
from studio.core.settings import Settings
from studio.core.specs import Recipe
from studio.engine import memory
from studio.engine.diffusion import schedulers, text
from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.diffusion.denoiser import Guidance
from studio.engine.models import adapters
from studio.engine.models.catalogue import FAST_STEPS, FastPath, ModelInfo, find_lora
from studio.engine.models.components import Components


def fast_path(info: ModelInfo, recipe: Recipe) -> FastPath | None:
    """The model's few-step adapter where this recipe is drawn with it: it was trained for few steps only.

    Raises BadInput when the recipe asks for one that the model doesn't have.
    """
    if not recipe.fast:
        return None
    if info.fast is None:
        raise BadInput(f"{info.title} has no fast path on this machine; ask for its normal steps instead.")
    return info.fast if recipe.steps <= FAST_STEPS * info.fast.steps else None


def sampler_of(info: ModelInfo, recipe: Recipe) -> str:
    """The name of the sampler that a recipe means; `auto` is the model's own, or that of its fast path."""
    return recipe.sampler if recipe.sampler != "auto" else (fast_path(info, recipe) or info).sampler


def guidance_of(recipe: Recipe, scale: float | None = None) -> Guidance:
    """How a recipe is guided; `scale`: in place of its own."""
    return Guidance(recipe.guidance if scale is None else scale, recipe.guidance_rescale)


def latent_size(components: Components, recipe: Recipe) -> tuple[int, int]:
    """Width and height, in pixels, of whole latent cells: what is drawn before it is cut to the size of the recipe."""
    width, height = (-(-side // components.factor) * components.factor for side in (recipe.width, recipe.height))
    return width, height


def encode(
    components: Components, recipe: Recipe, prompts: Sequence[str], negatives: Sequence[str]
) -> tuple[Conditioning, Conditioning]:
    """Both as `text.encode_pair` does, for pictures of the size of `recipe`."""
    return text.encode_pair(components, prompts, negatives, latent_size(components, recipe), recipe.clip_skip)


def _files(components: Components, recipe: Recipe, settings: Settings) -> tuple[list[tuple[Path, float]], Path | None]:
    """The recipe's LoRAs with their weights, and its few-step adapter."""
    fast = fast_path(components.info, recipe)
    loras = [(find_lora(lora.path, settings).path, lora.weight) for lora in recipe.loras]
    return loras, fast.adapter if fast else None


def free(components: Components, recipe: Recipe, settings: Settings) -> int:
    """Bytes of the device that are left for drawing once the recipe's LoRAs are attached."""
    left = memory.free(components.device)
    with suppress(StudioError):  # `attached` says what is wrong
        left -= adapters.merging_bytes(components, *_files(components, recipe, settings))
    return left


@contextmanager
def attached(components: Components, recipe: Recipe, settings: Settings) -> Iterator[None]:
    """The recipe's LoRAs and its few-step adapter on the model inside the block; see `adapters.attached`.

    Inside of it the model also predicts what the recipe says that it does. What the adapters were added up to is kept
    for the next pictures like these, while there is room for it. Raises BadInput, also when the recipe asks for a fast
    path that the model doesn't have.
    """
    own = components.scheduler_config
    try:
        components.scheduler_config = schedulers.predicting(own, recipe.prediction)
        with adapters.attached(components, *_files(components, recipe, settings), keep=True):
            yield
    finally:
        components.scheduler_config = own
        merged = components.merged
        if merged is not None and merged.bytes > memory.free(components.device):
            components.merged = None
