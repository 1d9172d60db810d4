"""Pictures as tensors of pixels and back, and made to fit a size. Knows no latents and no file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image


def to_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures of one size to (pictures, 3, height, width) in -1..1, fp32."""
    stacked = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2) / 127.5 - 1


def mask_tensor(mask: Image.Image) -> torch.Tensor:
    """A mask (any mode; its brightness counts) to (1, 1, height, width) in 0..1, fp32."""
    return torch.from_numpy(np.array(mask.convert("L"), dtype=np.float32))[None, None] / 255


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """(pictures, 3, height, width) in -1..1 to pictures; outside values are cut, NaN becomes grey."""
    shares = (pixels.float() / 2 + 0.5).nan_to_num(0.5).clamp(0, 1)
    array = (shares.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype("uint8")
    return [Image.fromarray(picture) for picture in array]


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture scaled to cover width x height and cut at its centre; RGB."""
    image = image.convert("RGB")
    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def cut(image: Image.Image, width: int, height: int) -> Image.Image:
    """The centre of a picture that was drawn a little too large."""
    if image.size == (width, height):
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
