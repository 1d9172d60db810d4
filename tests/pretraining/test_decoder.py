"""The decoder's training against an adversary: its losses by hand, and an interrupted run to the same bytes."""

import contextlib
import json
import random
import sys

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from studio.core.settings import EMBEDDED_MODEL, Settings
from studio.engine.engine import load
from studio.engine.models.catalogue import resolve
from studio.evaluation import metrics
from studio.pretraining import HELD_OUT, decoder, mistakes
from studio.pretraining.latents import encode
from studio.pretraining.painter import paint, sample_spec, tags

VAE = EMBEDDED_MODEL / "vae"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Folders of one shard: paintings that are noise, and latents that say their own row."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = HELD_OUT + 4
    rng = np.random.default_rng(0)
    np.save(folder / "p120.npy", rng.integers(0, 255, (rows, 256, 256, 3), np.uint8))
    (folder / "m120.json").write_text(json.dumps([{}] * rows))
    said = torch.arange(rows, dtype=torch.float16).view(-1, 1, 1, 1).expand(-1, 16, 16, 16).contiguous()
    save_file(
        {"clean": said, "mended": torch.stack([said, said, said], 1), "drawn": said.clone()},
        folder / "x120.safetensors",
    )
    return folder


def test_only_paintings_that_are_not_held_out_are_learnt_from(corpus) -> None:
    found = decoder.Corpus(corpus, corpus)
    seen = {round(float(row.mean())) for step in range(12) for row in found.batch(8, 0, step).z}
    assert max(seen) <= 4
    painted, latents = found.held(10)
    assert len(painted) == 10
    assert latents["clean"][:, 0, 0, 0].tolist() == list(range(4, 14))


def test_a_batch_hangs_on_seed_and_step_alone(corpus) -> None:
    found = decoder.Corpus(corpus, corpus)
    once, twice, other = found.batch(4, 7, 3), found.batch(4, 7, 3), found.batch(4, 7, 4)
    assert torch.equal(once.x, twice.x)
    assert torch.equal(once.z, twice.z)
    assert once.trim == twice.trim
    assert not torch.equal(once.x, other.x)


def test_what_lies_at_a_border_of_the_crop_is_not_looked_at_but_the_picture_s_own_border_is(corpus) -> None:
    """Every painting tells where it was cut: red is the cell's column, green its row."""
    found = decoder.Corpus(corpus, corpus)
    ((painted, tensors),) = found.shards
    cells = np.arange(256, dtype=np.uint8) // 16
    placed = np.zeros_like(painted)
    placed[..., 0], placed[..., 1] = cells[None, None, :], cells[None, :, None]
    found.shards = [(placed, tensors)]
    sides = set()
    for step in range(200):
        batch = found.batch(1, 1, step)
        seen = ((batch.x[0, :2] + 1) * 127.5).round().int()
        left, top = int(seen[0, 0, 0]), int(seen[1, 0, 0])
        right, bottom = int(seen[0, -1, -1]), int(seen[1, -1, -1])
        assert (right - left, bottom - top) == (7, 7)
        assert batch.trim == (left > 0, right < 15, top > 0, bottom < 15)
        kept = ((batch.seen(batch.x)[0, :2] + 1) * 127.5).round().int()
        assert (int(kept[0].min()), int(kept[0].max())) == (left + (left > 0), right - (right < 15))
        assert (int(kept[1].min()), int(kept[1].max())) == (top + (top > 0), bottom - (bottom < 15))
        assert batch.seen(batch.z, 1).shape[-2:] == (8 - (top > 0) - (bottom < 15), 8 - (left > 0) - (right < 15))
        sides |= {("left", batch.trim[0]), ("right", batch.trim[1]), ("top", batch.trim[2]), ("bottom", batch.trim[3])}
    assert len(sides) == 8  # each was seen and left out


def test_unevenness_counts_only_where_the_painting_is_flat() -> None:
    flat = torch.zeros(1, 3, 32, 32)
    checks = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1
    lined = checks.expand(1, 3, 32, 32)
    assert float(decoder.flatness_loss(flat, flat)) == pytest.approx(1e-3, rel=0.01)  # the root's floor
    assert float(decoder.flatness_loss(lined, flat)) == pytest.approx(1, rel=0.01)
    assert float(decoder.flatness_loss(flat, lined)) == 0
    half = torch.cat([flat[..., :16], lined[..., 16:]], -1)
    assert 0.4 < float(decoder.flatness_loss(lined, half)) < 0.5


def test_the_adversary_s_gradient_is_as_long_as_its_share() -> None:
    y = torch.randn(2, 3, 8, 8, requires_grad=True)
    alone = decoder.balanced(y, y.square().sum(), None, 0.5)
    assert torch.allclose(alone, 2 * y.detach())
    both = decoder.balanced(y, y.square().sum(), (1000 * y).sum(), 0.5)
    assert float((both - alone).norm() / alone.norm()) == pytest.approx(0.5, rel=1e-4)


def test_the_discriminator_sees_wrinkles_of_two_of_255() -> None:
    """What the eye sees in a flat area is far below the contrast of a line, and must move a score all the same."""
    torch.manual_seed(0)
    judge = decoder.Discriminator(16)
    flat, z, told = torch.zeros(1, 3, 64, 64), torch.zeros(1, 16, 4, 4), torch.zeros(1)
    wrinkled = flat + 2 / 127.5 * (torch.rand(1, 3, 64, 64) - 0.5)
    line = flat.clone()
    line[..., 30:33] = -1
    with torch.no_grad():
        first, wrinkles, lines = (
            torch.cat([s.flatten() for s in judge(x, z, told)[0]]) for x in (flat, wrinkled, line)
        )
    assert float((wrinkles - first).abs().mean()) > 0.1 * float((lines - first).abs().mean())


def test_an_interrupted_training_goes_on_to_the_same_bytes(corpus, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(decoder, "ALONE", 1)
    monkeypatch.setattr(decoder, "look", lambda *args, **kwargs: {})

    def train(out, steps: int, save: int) -> None:
        options = ["--data", f"{corpus}", "--latents", f"{corpus}", "--vae", f"{VAE}", "--out", f"{out}"]
        options += ["--steps", "3", "--batch", "2", "--save", f"{save}", "--look", "100", "--processes", "1"]
        monkeypatch.setattr(sys, "argv", ["decoder", *options])
        monkeypatch.setattr(decoder, "rate_at", lambda step, args: 1.0)
        stopped = decoder.save_state

        def saved(folder, tensors, meta) -> None:
            stopped(folder, tensors, meta)
            if meta["step"] == steps:
                raise KeyboardInterrupt

        monkeypatch.setattr(decoder, "save_state", saved)
        with contextlib.suppress(KeyboardInterrupt):
            decoder.cli()
        monkeypatch.setattr(decoder, "save_state", stopped)

    train(tmp_path / "whole", 99, 1)
    train(tmp_path / "parts", 1, 1)
    train(tmp_path / "parts", 99, 1)
    states = [load_file(tmp_path / name / "state" / "state.safetensors") for name in ("whole", "parts")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    made, before = (AutoencoderKL.from_pretrained(p) for p in (tmp_path / "whole" / "vae", VAE))
    for (name, p), (_, q) in zip(made.named_parameters(), before.named_parameters(), strict=True):
        assert torch.equal(p, q) == name.startswith(("encoder.", "quant_conv.")), name


def test_mistakes_stay_closer_to_the_painting_the_later_they_begin() -> None:
    """With the real model: its student from two steps before the end, from three, and from nothing."""
    info = resolve("embedded", Settings())
    assert info.fast is not None
    artist = mistakes.Artist(load(info, Settings(device="cpu")), [999, 759, 499, 259])
    spec = sample_spec(random.Random(3))
    z = encode(artist.parts.vae, np.asarray(paint(spec, 256, 3))[None])
    captions, generator = [", ".join(tags(spec))], torch.Generator().manual_seed(0)
    found = mistakes.mistaken(artist, info.fast.adapter, z, captions, generator)
    assert found["mended"].shape == (1, 3, 16, 16, 16)
    assert found["begun"].shape == (1, 3, 16, 16, 16)
    two, three, _ = ((row - z[0]).square().mean() for row in found["mended"][0])
    nothing = (found["drawn"] - z).square().mean()
    assert 0 < two < three < nothing
    again = mistakes.mistaken(artist, info.fast.adapter, z, captions, torch.Generator().manual_seed(0))
    assert torch.equal(found["drawn"], again["drawn"])


def test_surface_of_pictures_whose_figures_are_known() -> None:
    flat = torch.zeros(1, 3, 64, 64)
    assert {k: float(v) for k, v in metrics.surface(flat).items()} == {"flat": 1.0, "strong": 0.0, "lines": 0.0}
    step = torch.ones(1, 3, 64, 64)
    step[..., 32:] = -1
    found = metrics.surface(step)
    assert float(found["flat"]) == pytest.approx(60 / 64)  # two columns on each side see the step
    assert float(found["strong"]) == pytest.approx(4 / 64)
    assert float(found["lines"]) == 255
    wrinkled = flat + 6 / 127.5 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert float(metrics.surface(wrinkled)["flat"]) < 0.01


def test_kernel_distance_and_manifolds_tell_equal_sets_from_others() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(300, 8, generator=generator) for _ in range(2))
    assert abs(metrics.kernel_distance(a, b)) < 0.02
    assert metrics.kernel_distance(a + 2, b) > 1
    precision, recall = metrics.precision_recall(a, b)
    assert precision > 0.8
    assert recall > 0.8
    narrow = 0.1 * a
    precision, recall = metrics.precision_recall(narrow, b)
    assert precision > 0.9
    assert recall < 0.2
    assert metrics.precision_recall(a + 20, b) == (0, 0)
