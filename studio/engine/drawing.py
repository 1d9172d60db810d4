"""From recipes to pictures on a loaded model: batches, adapters, sampling, decoding. Knows no store and no job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from studio.core.errors import BadInput, OutOfMemory, is_out_of_memory
from studio.core.imaging import to_rgb
from studio.core.settings import Settings
from studio.core.specs import Recipe
from studio.engine import allocator, gate, memory, optimizations
from studio.engine.diffusion import latents, masking, sampling
from studio.engine.diffusion.control import Control
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.diffusion.pixels import cut, fit, to_images, to_tensor
from studio.engine.media import upscaling
from studio.engine.models import controlnets, upscalers
from studio.engine.models.components import Components
from studio.engine.progress import Progress, Step
from studio.engine.recipe import attached, encode, free, guidance_of, latent_size, sampler_of

if TYPE_CHECKING:
    from studio.engine.media.retouch import Area

ATTEMPTS = "attempts"  # in a picture's `info`, as in its labels: in how many drawings it was come by, from 2 on
SEAM = "seam"  # likewise: how visible the edge of what was drawn anew is (see `media.retouch.seam`)


def shared(recipe: Recipe) -> Any:
    """What recipes that are drawn together have in common: everything but prompt, negative prompt, seed and labels."""
    return recipe.model_copy(update={"prompt": "", "negative": "", "seed": 0, "labels": {}})


def noter(on_step: Progress | None, recipes: Sequence[Recipe]) -> Callable[[str], None] | None:
    """A function that reports what happens before the first step, as progress of a drawing of `recipes`."""
    if on_step is None:
        return None
    total = len(recipes) * recipes[0].steps
    return lambda note: on_step(Step(0, total, note))


def make_room(components: Components, recipe: Recipe, wanted: int, settings: Settings) -> int:
    """Free the ControlNet of an earlier sketch before `wanted` plain pictures that would be short of memory beside it.

    While there is enough of it the next sketch finds its ControlNet loaded. Returns the bytes that are left for them.
    """
    left = free(components, recipe, settings)
    if components.controls and (recipe.control is None or recipe.control.weight == 0):
        size = latent_size(components, recipe)
        if memory.short(components, *size, recipe.guidance > 1, wanted, left):
            controlnets.drop(components)
            left = free(components, recipe, settings)
    return left


def draw(
    components: Components,
    recipes: Sequence[Recipe],
    settings: Settings,
    on_step: Progress | None,
    files: Callable[[str], Path],
) -> Iterator[tuple[int, Image.Image]]:
    """See `Engine.draw`. A second pass begins from the first one's picture, enlarged; the finished one is enlarged."""
    recipe, count = recipes[0], len(recipes)
    passes = {"first": 0, "second": 0}  # steps that each has done

    def counted(name: str, before: int = 0) -> Progress | None:
        if on_step is None or recipe.hires == 1:
            return on_step

        def report(step: Step) -> None:
            passes[name] = max(passes[name], before + step.done)
            on_step(replace(step, done=sum(passes.values()), total=count * recipe.all_steps))

        return report

    for done, (index, image) in enumerate(_drawn(components, recipes, settings, counted("first"), files)):
        facts = image.info
        if recipe.hires > 1:
            start = enlarge(image, recipe.upscaler, recipe.hires, settings, components.device)
            again = _second_pass(recipes[index], start)
            tell = counted("second", done * again.steps)
            ((_, image),) = _drawn(components, [again], settings, tell, files, start)
        if recipe.upscale > 1:
            image = enlarge(image, recipe.upscaler, recipe.upscale, settings, components.device)
        image.info |= facts
        yield index, image


def enlarge(
    image: Image.Image, upscaler: str, scale: float, settings: Settings, device: torch.device,
    on_tile: Callable[[int, int], None] | None = None,
) -> Image.Image:  # fmt: skip
    """A picture `scale` times as large on each side, by the network of this name. Raises NotFound and BadInput."""
    return upscaling.upscale(image, upscaling.network_of(upscalers.find(upscaler, settings), device), scale, on_tile)


def _second_pass(recipe: Recipe, start: Image.Image) -> Recipe:
    """The recipe of a second pass (img2img) over `start`, its first one's picture in the size of the second."""
    changes = {
        "width": start.width, "height": start.height, "steps": recipe.hires_steps or recipe.steps,
        "strength": recipe.hires_strength, "hires": 1, "upscale": 1, "redraw": False,
    }  # fmt: skip
    return recipe.model_copy(update=changes)


def _drawn(
    components: Components,
    recipes: Sequence[Recipe],
    settings: Settings,
    on_step: Progress | None,
    files: Callable[[str], Path],
    start_from: Image.Image | None = None,
) -> Iterator[tuple[int, Image.Image]]:
    """One pass. Sizes that the model can't make exactly are drawn larger and cut.

    What is drawn in a mask is put back into its picture, whatever the size of that. `start_from` is a picture in the
    recipes' size that isn't in their `source`.
    """
    recipe = recipes[0]
    width, height = latent_size(components, recipe)
    guided = recipe.guidance > 1
    make_room(components, recipe, len(recipes), settings)
    area = None if recipe.mask is None else _area(recipe, files, (width, height))
    control = _control(components, recipe, settings, files, area, (width, height), noter(on_step, recipes))
    left = free(components, recipe, settings)  # beside the control network
    size = memory.batch_size(components, width, height, guided, len(recipes), left)
    optimizations.tiling(components, width, height)
    if start_from is None and recipe.source is not None:
        start_from = open_picture(files(recipe.source))
    source = None if start_from is None else fit(start_from, width, height)
    if area is not None:
        source = area.start
    sampled = partial(_sample, components, source, None if area is None else area.change, control)
    start = 0
    while start < len(recipes):
        # pictures of one batch have prompts of equally many chunks: padding would change them
        count = 1
        tokens = _tokens(components, recipes[start])
        while count < min(size, len(recipes) - start) and _tokens(components, recipes[start + count]) == tokens:
            count += 1
        report = _reporter(components, settings, on_step, start, count, len(recipes), recipe.steps)
        try:
            # attached for one batch only: between pictures the consumer has the control, and may never come back
            with attached(components, recipe, settings):
                clean = sampled(recipes[start : start + count], report)
            if not torch.isfinite(clean).all() and components.dtype != torch.float32:
                # 16 bits end at 65504, which some models and strong LoRAs pass
                with in_full_precision(components), attached(components, recipe, settings):
                    clean = sampled(recipes[start : start + count], report)
            clean, attempts = _gated(components, recipes[start : start + count], clean, sampled, settings, report)
            decoded = [
                sampling.finite(latents.decode_pixels(components, sampling.finite(row))) for row in clean.split(1)
            ]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            error.__traceback__ = None  # its frames hold the tensors that are in the way
            components.merged = None
            if components.device.type != "cpu":
                allocator.release()
            if count == 1:
                native = components.info.native_size
                raise OutOfMemory(
                    f"There was not enough memory for {width} x {height}; choose {native} x {native} or smaller."
                ) from None
            size = count // 2
            continue
        for offset, pixels in enumerate(decoded):
            if on_step is not None and settings.preview_every:
                latents.previewer(components).learn(clean[offset : offset + 1], pixels)
            [image] = to_images(pixels)
            if area is None:
                image = cut(image, recipe.width, recipe.height)
            else:
                image, seam = area.paste(image)
                image.info[SEAM] = f"{seam:.2f}"
            if attempts[offset] > 1:
                image.info[ATTEMPTS] = str(attempts[offset])
            yield start + offset, image
        start += count


@contextmanager
def in_full_precision(components: Components) -> Iterator[None]:
    """Text encoder, UNet and ControlNets in 32 bits inside the block, exactly as before after it.

    The autoencoder looks after itself (`latents.decode_pixels`).
    """
    parts = [module for name, module in components.modules.items() if name != "vae"]
    before, text_key = components.dtype, components.text_key
    try:
        for part in parts:
            part.to(torch.float32)
        components.dtype, components.text_key = torch.float32, (*text_key, "fp32")
        yield
    finally:
        for part in parts:
            part.to(before)  # exact: these numbers came from 16 bits
        components.merged = None  # it is twice as large in 32
        components.dtype, components.text_key = before, text_key


def _tokens(components: Components, recipe: Recipe) -> int:
    """Tokens of the longer one of a recipe's two prompts: recipes of one length can be drawn together."""
    return encode(components, recipe, [recipe.prompt], [recipe.negative])[0].embeddings.shape[1]


def _sample(
    components: Components,
    source: Image.Image | None,
    mask: Image.Image | None,
    control: Control | None,
    recipes: Sequence[Recipe],
    report: sampling.StepCallback,
) -> torch.Tensor:
    """Clean latents of recipes that are alike, on a model to which everything of theirs is attached."""
    recipe = recipes[0]
    extra = None
    if components.info.inpainting:
        if source is None or mask is None:
            raise BadInput(f"{components.info.title} only fills a mask in a picture; choose a text-to-image model.")
        extra = masking.inpainting_channels(components, source, mask)
        mask = None  # it is told; nothing has to be put back
        if recipe.strength == 1:  # it knows the rest of the picture without beginning from it
            source = None
    positive, negative = encode(
        components, recipe, [each.prompt for each in recipes], [each.negative for each in recipes]
    )
    return sampling.sample_denoiser(
        components,
        Denoiser(components.unet, positive, negative, guidance_of(recipe), control, extra),
        [each.seed for each in recipes],
        sampler=sampler_of(components.info, recipe),
        steps=recipe.steps,
        size=latent_size(components, recipe),
        source=source,
        strength=0.6 if recipe.strength is None else recipe.strength,
        mask=mask,
        on_step=report,
    )


def _gated(
    components: Components, recipes: Sequence[Recipe], clean: torch.Tensor, sampled: Callable[..., torch.Tensor],
    settings: Settings, report: sampling.StepCallback,
) -> tuple[torch.Tensor, list[int]]:  # fmt: skip
    """`clean` with the melted ones drawn again, if the recipes and the model are for it, and how often each was drawn.

    Progress stays at the last step meanwhile: the steps of a job are counted before anybody knows.
    """
    recipe, folder = recipes[0], components.info.quality
    if not recipe.redraw or folder is None:
        return clean, [1] * len(recipes)

    def again(rows: list[int], seeds: list[int]) -> torch.Tensor:
        later = [recipes[row].model_copy(update={"seed": seed}) for row, seed in zip(rows, seeds, strict=True)]
        with attached(components, recipe, settings):
            return sampled(later, lambda done, of, now: report(of, of, now))

    return gate.passed(gate.head(folder), clean, [each.seed for each in recipes], again)


def _reporter(
    components: Components,
    settings: Settings,
    on_step: Progress | None,
    start: int,
    count: int,
    pictures_wanted: int,
    steps: int,
) -> sampling.StepCallback:
    """What the sampling loop calls: counts steps of all pictures, shows a preview every few of them."""
    note = f"picture {start + 1} of {pictures_wanted}" if pictures_wanted > 1 else ""
    if count > 1:
        note = f"pictures {start + 1} to {start + count} of {pictures_wanted}"

    def report(done: int, of: int, clean: Callable[[], torch.Tensor]) -> None:
        if on_step is None:
            return
        preview = None
        if settings.preview_every and done % settings.preview_every == 0 and done < of:
            preview = latents.previewer(components).draw(clean())
        on_step(Step(start * steps + count * steps * done // of, pictures_wanted * steps, note, preview))

    return report


def open_picture(path: Path) -> Image.Image:
    """A picture file as RGB. Raises BadInput."""
    try:
        with Image.open(path) as opened:
            return to_rgb(opened)
    except FileNotFoundError:
        raise BadInput(f"There is no picture {path}.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path.name} is not a picture that can be read ({error}).") from None


def _area(recipe: Recipe, files: Callable[[str], Path], canvas: tuple[int, int]) -> Area:
    """What of the recipe's picture is drawn on `canvas` (width, height), and the way back. Raises BadInput."""
    from studio.engine.media import retouch  # OpenCV: only where something is retouched

    assert recipe.mask is not None
    assert recipe.source is not None
    picture = open_picture(files(recipe.source))
    mask = retouch.check(picture.size, open_picture(files(recipe.mask.image)), recipe.mask)
    return retouch.Area(picture, mask, recipe.mask, canvas)


def _control(
    components: Components,
    recipe: Recipe,
    settings: Settings,
    files: Callable[[str], Path],
    area: Area | None,
    size: tuple[int, int],
    on_note: Callable[[str], None] | None,
) -> Control | None:
    spec = recipe.control
    if spec is None or spec.weight == 0:
        return None
    from studio.engine.media import control_images  # OpenCV: only where something follows a drawing

    drawing = open_picture(files(spec.image))
    seen = control_images.extract(drawing, spec, size if area is None else area.picture.size)
    kind = seen.kind(components.info.controlnets)
    net = controlnets.controlnet(components, spec.model or kind, settings, on_note)
    shown = seen.image if area is None else area.seen(seen.image)
    image = (to_tensor([shown]) / 2 + 0.5).to(components.device, net.dtype)
    return Control(
        net, image, spec.weight, spec.start, spec.end, spec.control_mode, **components.info.control, kind=kind
    )
