"""The maths and the chance of a training step, against diffusers and against hand-worked numbers."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.training_utils import compute_snr
from support.checkpoints import tiny_sd, tiny_tokenizer
from support.training_sets import write_set
from transformers import CLIPTextModel

from studio.core.specs import LoraSpec
from studio.engine.diffusion.parameterization import NoiseSchedule
from studio.runs import dataset as files
from studio.training.lora import dataset, texts
from studio.training.runtime import steps
from studio.training.runtime.average import MovingAverage
from studio.training.runtime.loss import min_snr_weights

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture
def scheduler() -> DDPMScheduler:
    return DDPMScheduler(**SCHEDULE)


def test_min_snr_weights(scheduler: DDPMScheduler) -> None:
    t = torch.tensor([0, 100, 400, 999])
    snr = compute_snr(scheduler, t)
    torch.testing.assert_close(NoiseSchedule.from_alphas_cumprod(scheduler.alphas_cumprod).snr(t), snr)
    assert float(snr[0]) > 5 > float(snr[-1])
    epsilon = min_snr_weights(snr, 5.0, "epsilon")
    torch.testing.assert_close(epsilon, snr.clamp(max=5) / snr)
    torch.testing.assert_close(min_snr_weights(snr, 5.0, "v_prediction"), snr.clamp(max=5) / (snr + 1))
    # a loss of x_0 is one of epsilon times the ratio
    torch.testing.assert_close(min_snr_weights(snr, 5.0, "sample"), epsilon * snr)
    assert min_snr_weights(snr, None, "epsilon").tolist() == [1, 1, 1, 1]
    # a schedule that ends in pure noise: epsilon's weight is finite there
    ends = torch.tensor([1.0, 0.0])
    assert min_snr_weights(ends, 5.0, "epsilon").tolist() == [1.0, 1.0]
    assert min_snr_weights(ends, 5.0, "v_prediction").tolist() == [0.5, 0.0]


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [steps.learning_rate(k, 100, 2e-4, 0.1) for k in range(100)]
    assert rates[0] == pytest.approx(2e-5)
    assert rates[9] == rates[10] == pytest.approx(2e-4)
    assert rates[55] == pytest.approx(1e-4)
    assert 0 < rates[-1] < 1e-7
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    assert steps.learning_rate(0, 10, 1.0, 0.0) == 1.0


def test_places_are_independent_and_repeatable() -> None:
    def numbers(*place: int | str) -> list[float]:
        return torch.rand(3, generator=steps.generator(7, *place)).tolist()  # type: ignore[no-any-return]

    assert numbers("step", 1, 2) == numbers("step", 1, 2)
    different = [numbers("step", 1, 2), numbers("step", 2, 1), numbers("step", 12), numbers("order", 1, 2)]
    assert len({tuple(n) for n in different}) == 4


def test_an_average_forgets_its_start() -> None:
    weights = {"w": torch.ones(1)}
    average = MovingAverage(weights, 0.9, tensors={"w": torch.zeros(1)})
    for step in range(50):
        average.update(step)
    assert float(average.tensors["w"]) > 0.99
    weights["w"].zero_()
    average.update(1000)
    assert float(average.tensors["w"]) == pytest.approx(0.9, abs=0.01)


def test_a_constant_average_has_its_decay_from_the_first_step() -> None:
    weights = {"w": torch.ones(1)}
    average = MovingAverage(weights, 0.9, constant=True, tensors={"w": torch.zeros(1)})
    average.update(0)
    assert float(average.tensors["w"]) == pytest.approx(0.1)


def test_the_average_takes_the_weights_place_only_inside() -> None:
    layer = torch.nn.Linear(2, 2, bias=False)
    weights = dict(layer.named_parameters())
    average = MovingAverage(weights, 0.9)
    with torch.no_grad():
        layer.weight.add_(1)
    trained = layer.weight.data_ptr()
    with average.applied():
        assert torch.equal(layer.weight, average.tensors["weight"])
    assert layer.weight.data_ptr() == trained


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 512), (512, 512)), ((600, 800), (448, 576)), ((3000, 300), (1024, 256)), ((500, 512), (512, 512))],
)
def test_buckets(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert dataset.bucket(*size, 512, 64) == expected
    width, height = dataset.bucket(*size, 512, 64)
    assert width % 64 == height % 64 == 0
    assert width * height <= 512 * 512


def test_an_epoch_shows_every_picture_its_repeats_in_batches_of_one_size() -> None:
    sizes = ((64, 64),) * 5 + ((128, 64),) * 3
    repeats = (3,) * 5 + (2,) * 3
    order = dataset.epoch_order(sizes, repeats, 4, seed=1, epoch=0)
    assert Counter(p for step in order for p in step) == Counter({p: repeats[p] for p in range(8)})
    mixed = [step for step in order if len({sizes[p] for p in step}) > 1]
    assert len(mixed) <= 1  # what is left over
    assert order == dataset.epoch_order(sizes, repeats, 4, seed=1, epoch=0)
    assert order != dataset.epoch_order(sizes, repeats, 4, seed=1, epoch=1)
    assert order != dataset.epoch_order(sizes, repeats, 4, seed=2, epoch=0)


def test_caption_variants_shuffle_and_drop_but_keep_the_trigger() -> None:
    prompt = "style_1, a, b, c, d, e, f"
    variants = dataset.caption_variants(prompt, 8, keep=1, dropout=0.3, seed=0)
    assert variants[0] == prompt
    assert all(v.startswith("style_1, ") for v in variants)
    assert len(set(variants)) >= 6
    assert any(len(files.split_tags(v)) < 7 for v in variants)
    assert variants == dataset.caption_variants(prompt, 8, keep=1, dropout=0.3, seed=0)
    assert dataset.caption_variants("a photo of one", 4, keep=1, dropout=0.0, seed=0) == ["a photo of one"]


def test_chance_survives_the_caches(tmp_path: Path) -> None:
    """Caching must not freeze what is random: posterior, flip, caption variant, dropout, noise, timestep."""
    model = tiny_sd(tmp_path / "model")
    vae = AutoencoderKL.from_pretrained(model / "vae")
    report = files.check(write_set(tmp_path / "data", 2), 64)
    sizes = dataset.sizes(report.entries, 64, 32, buckets=True)
    latents = dataset.cache_latents(vae, report.folder, report.entries, sizes, flip=True)
    assert latents[0].mean.shape == (16, 4, 4)
    assert float(latents[0].std.min()) > 0
    assert latents[0].flipped is not None
    assert not torch.equal(latents[0].flipped[0], latents[0].mean)
    spec = LoraSpec(data="x", flip=True, caption_dropout=0.5, noise_offset=0.0)
    draws = [dataset.step_noise(0, latents[0], 4, spec, 0.5, 1000, step, 0) for step in range(64)]
    again = dataset.step_noise(0, latents[0], 4, spec, 0.5, 1000, 3, 0)
    assert torch.equal(again.z_0, draws[3].z_0)
    assert torch.equal(again.epsilon, draws[3].epsilon)
    assert {d.caption for d in draws} == {-1, 0, 1, 2, 3}
    assert 16 < sum(d.caption == -1 for d in draws) < 48
    assert 16 < sum(d.flip for d in draws) < 48
    assert len({d.t for d in draws}) > 50
    unflipped = [d.z_0 for d in draws if not d.flip]
    assert not torch.equal(unflipped[0], unflipped[1])  # mean and deviation, not one frozen sample
    # scaled as the pipeline scales: mean * 0.5 within the posterior's own deviation
    spread = (torch.stack(unflipped).mean(0) - 0.5 * latents[0].mean).abs().mean() / (0.5 * latents[0].std).mean()
    assert float(spread) < 0.5
    never = dataset.step_noise(0, latents[0], 4, spec.model_copy(update={"flip": False}), 0.5, 1000, 3, 0)
    assert never.flip is False
    offset = dataset.step_noise(0, latents[0], 4, spec.model_copy(update={"noise_offset": 0.2}), 0.5, 1000, 3, 0)
    shift = offset.epsilon - again.epsilon
    torch.testing.assert_close(shift, shift.mean((1, 2), keepdim=True).expand_as(shift), atol=1e-6, rtol=0)


def test_captions_are_letters_not_weights(tmp_path: Path) -> None:
    """The predecessor trained on empty prompts; and brackets in a tag are part of its name."""
    model = tiny_sd(tmp_path / "model")
    encoder, tokenizer = CLIPTextModel.from_pretrained(model / "text_encoder"), tiny_tokenizer()
    encode = texts.TextEncoders([tokenizer], [encoder])
    rows = texts.cache_texts(encode, ["", "happy girl", "(happy) girl", "happy girl"])
    assert len(rows) == 3
    assert rows[""].embeddings.shape == (1, 77, 32)
    assert not torch.allclose(rows["happy girl"].embeddings, rows[""].embeddings)
    assert not torch.allclose(rows["happy girl"].embeddings, rows["(happy) girl"].embeddings)
    ids = texts.tokenize(tokenizer, ["happy girl", "sad"])
    assert ids.shape == (2, 77)
    assert int((ids != tokenizer.pad_token_id).sum()) > 4
    assert texts.too_long(tokenizer, ["happy", "girl " * 90]) == ["girl " * 90]
