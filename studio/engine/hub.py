"""The Hugging Face Hub: which models are on this machine already, and getting others, safetensors only.

Knows nothing of what a model means; loads no torch.
"""

from __future__ import annotations

from pathlib import Path

from studio.settings import Settings

WEIGHTED = ("unet", "vae", "text_encoder")


def _cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def snapshot(reference: str, settings: Settings) -> Path | None:
    """The folder of a complete copy of the hub model `reference` on this machine, or None."""
    repository = _cache() / ("models--" + reference.replace("/", "--"))
    for place in sorted(repository.glob("snapshots/*"), key=lambda folder: folder.stat().st_mtime, reverse=True):
        if (place / "model_index.json").is_file() and all(
            any((place / name).glob("*.safetensors")) for name in WEIGHTED
        ):
            return place
    return None


def cached_models() -> list[str]:
    """Ids of all complete text-to-image models in the Hub's cache."""
    cache = _cache()
    found = []
    for index in sorted(cache.glob("models--*--*/snapshots/*/model_index.json")):
        if (index.parent / "unet" / "config.json").is_file():
            reference = index.parent.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
            if reference not in found:
                found.append(reference)
    return found
