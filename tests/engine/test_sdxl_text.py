"""What SDXL's two text encoders make of a prompt: diffusers' encodings, layer by layer, chunk by chunk."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.engine.diffusion import text
from studio.engine.engine import Engine
from studio.engine.models.components import Components

PROMPT = "1girl, red hair, blue eyes"


@pytest.fixture(scope="module")
def components(sdxl: Path) -> Components:
    return Engine(Settings(home=sdxl.parent.parent, device="cpu", offline=True)).components("sdxl")


def theirs(components: Components, prompt: str, clip_skip: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(embeddings, summary) by diffusers' pipeline, of the same networks."""
    made = StableDiffusionXLPipeline(
        components.vae, components.text_encoder, components.text_encoder_2, components.tokenizer,
        components.tokenizer_2, components.unet, scheduler=None, add_watermarker=False,
    )  # fmt: skip
    found = made.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False, clip_skip=clip_skip)
    return found[0], found[2]


@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_both_encodings_and_the_summary_are_the_pipelines(components: Components, prompt: str) -> None:
    row = text.encode_prompts(components, [prompt], (832, 1216))
    embeddings, pooled = theirs(components, prompt)
    assert torch.equal(row.embeddings, embeddings)
    assert torch.equal(row.pooled, pooled)
    assert row.added["time_ids"].tolist() == [[1216, 832, 0, 0, 1216, 832]]


@pytest.mark.parametrize(("clip_skip", "of_diffusers"), [(1, None), (2, None), (3, 1)])
def test_clip_skip_counts_from_the_last_layer_and_the_last_is_never_read(
    components: Components, clip_skip: int, of_diffusers: int | None
) -> None:
    """Pictures of Pony and Illustrious say "Clip skip: 2", and mean the layer that SDXL always reads."""
    row = text.encode_prompts(components, [PROMPT], clip_skip=clip_skip)
    embeddings, pooled = theirs(components, PROMPT, of_diffusers)
    assert torch.equal(row.embeddings, embeddings)
    assert torch.equal(row.pooled, pooled)
    weighted = text.encode_prompts(components, [f"({PROMPT}:1.00001)"], clip_skip=clip_skip)  # another way to encode
    assert torch.allclose(weighted.embeddings, embeddings, atol=1e-3)


def test_a_layer_that_one_of_them_does_not_have_is_refused(components: Components) -> None:
    assert components.info.text_layers == 3
    with pytest.raises(BadInput, match="take 3 or less"):
        text.encode_prompts(components, [PROMPT], clip_skip=4)


def test_weights_change_both_encodings_and_not_the_summary(components: Components) -> None:
    plain, heavy = (
        text.encode_prompts(components, [prompt]) for prompt in (PROMPT, "1girl, (red hair:1.4), blue eyes")
    )
    width = components.text_encoder.config.hidden_size
    for part in (slice(None, width), slice(width, None)):
        assert float((plain.embeddings - heavy.embeddings)[..., part].abs().max()) > 1e-3
    assert torch.equal(plain.pooled, heavy.pooled)


def test_more_than_77_tokens_are_chunks_of_both(components: Components) -> None:
    """Each chunk is what the pipeline encodes; the summary is that of the first; the negative is as long."""
    tags = ["red hair", "blue eyes", "long dress", "happy", "smile"]
    first = ", ".join(tags * 3)
    row = text.encode_prompts(components, [f"{first} BREAK {PROMPT}"])
    assert row.embeddings.shape[1] == 2 * 77
    for chunk, prompt in enumerate((first, PROMPT)):
        embeddings, pooled = theirs(components, prompt)
        assert torch.equal(row.embeddings[:, 77 * chunk : 77 * (chunk + 1)], embeddings)
        assert torch.equal(row.pooled, pooled) == (chunk == 0)
    long, negative = text.encode_pair(components, [", ".join(tags * 40)], [""])
    assert long.embeddings.shape == negative.embeddings.shape
    assert long.embeddings.shape[1] % 77 == 0
    assert long.embeddings.shape[1] > 77
    assert torch.isfinite(long.embeddings).all()


def test_encoders_of_different_lengths_are_filled_up(components: Components) -> None:
    """A word that one tokenizer takes for more: the shorter encoding gets an empty chunk, as its pipeline pads it."""
    few = replace(components, tokenizer_2=Wordy(components.tokenizer_2), text_cache=OrderedDict())
    row = text.encode_prompts(few, [", ".join([PROMPT] * 8)])
    assert row.embeddings.shape[1] == 2 * 77
    width = components.text_encoder.config.hidden_size
    empty = text.encode_prompts(components, [""]).embeddings[..., :width]
    assert torch.equal(row.embeddings[:, 77:, :width], empty)


class Wordy:
    """A tokenizer that says each text twice."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, texts: Any, **options: Any) -> Any:
        twice = f"{texts}, {texts}" if isinstance(texts, str) else [f"{each}, {each}" for each in texts]
        return self._tokenizer(twice, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)
