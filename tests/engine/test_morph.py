"""Morphing on a small real model: what is shared is equal, what is attached goes, what is given comes back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image
from support.checkpoints import tiny_sd

from studio.core.errors import OutOfMemory
from studio.core.settings import Settings
from studio.core.specs import Recipe
from studio.engine import judging
from studio.engine.diffusion import inversion, latents, sampling, schedulers, text
from studio.engine.diffusion.attention import anchored
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.diffusion.frames import Pinned, SharedNoise, Track, advance
from studio.engine.diffusion.pixels import fit, to_tensor
from studio.engine.engine import Engine
from studio.engine.models.components import Components
from studio.engine.motion import morph, timing
from studio.engine.motion.lease import CPU_BATCH, frames_per_batch
from studio.evaluation.judge import Verdict
from studio.evaluation.metrics import gini

PROMPTS = ("1girl, happy, smile, red hair, blue eyes", "1girl, sad, frown, tears, red hair, blue eyes")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    home = tmp_path_factory.mktemp("morph")
    tiny_sd(home / "models" / "tiny")
    return Engine(Settings(home=home, device="cpu", preview_every=0))


@pytest.fixture(scope="module")
def components(engine: Engine) -> Components:
    return engine.components("tiny")


def recipes(sampler: str = "dpmpp_2m", prompts: tuple[str, ...] = PROMPTS, **changes) -> list[Recipe]:
    values = {
        "model": "tiny", "model_hash": "", "negative": "long", "seed": 11, "steps": 5, "guidance": 3.0,
        "sampler": sampler, "width": 64, "height": 64,
    } | changes  # fmt: skip
    return [Recipe(prompt=prompt, **values) for prompt in prompts]


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image).astype(int) for image in images])


def test_shared_words_come_first_and_stay_equal_in_the_text_encoder(components: Components) -> None:
    a, b = text.shared_tags_first(["1girl, happy, (smile, grin:1.2), red hair", "1girl, sad, frown, red hair"])
    assert a == "1girl, red hair, happy, (smile, grin:1.2)"
    assert b == "1girl, red hair, sad, frown"
    a, b = text.shared_tags_first(PROMPTS)
    encoded = text.encode_prompts(components, [a, b]).embeddings
    shared = len(components.tokenizer("1girl, red hair, blue eyes").input_ids) - 1
    assert torch.equal(encoded[0, :shared], encoded[1, :shared])
    assert not torch.allclose(encoded[0, shared + 1], encoded[1, shared + 1])


def test_the_colour_of_eyes_is_stressed_in_a_picture_that_keeps_its_character() -> None:
    said = text.emphasize("1girl, Blue eyes, closed eyes, (green eyes:1.2), blue hair, [hat, pink eyes]", morph.EYES)
    assert said == "1girl, (Blue eyes:1.6), closed eyes, (green eyes:1.2), blue hair, [hat, pink eyes]"


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "lcm", "euler_a", "unipc"])
def test_the_ends_are_the_pictures_that_generate_draws(engine: Engine, components: Components, sampler: str) -> None:
    asked = recipes(sampler, tuple(text.shared_tags_first(PROMPTS)))
    ends = list(morph.PromptMorph(components, asked, shared_steps=0).draw([0.0, 1.0]))
    drawn = [image for _, image in engine.draw(asked)]
    assert np.abs(pixels(ends) - pixels(drawn)).max() <= 1


def test_frames_in_between_move_steadily_and_extrapolate(components: Components) -> None:
    whole = morph.PromptMorph(components, recipes(), shared_steps=0)
    clean = whole.latents(timing.positions(5))
    away = (clean - clean[:1]).flatten(1).norm(dim=1)
    assert (away.diff() > 0).all()
    further = morph.PromptMorph(components, recipes(), amount=1.5, shared_steps=0).latents([1.0])
    assert (further - clean[:1]).norm() > away[-1]


def test_the_first_steps_are_drawn_once_for_all_frames(components: Components) -> None:
    done: list[int] = []
    whole = morph.PromptMorph(components, recipes(), shared_steps=0.4, on_step=done.append)
    assert done == [1, 1]
    held = whole.latents([0.0, 0.5, 1.0])
    assert done[2:] == [3, 3, 3]
    free = morph.PromptMorph(components, recipes(), shared_steps=0).latents([0.0, 0.5, 1.0])
    assert (held[2] - held[0]).norm() < (free[2] - free[0]).norm()
    again = morph.PromptMorph(components, recipes(), shared_steps=0.4).latents([1.0])
    assert torch.allclose(again, held[2:], atol=1e-4)  # in whatever company


def test_anchored_attention_is_exactly_removed_and_a_row_beside_itself_is_unchanged(components: Components) -> None:
    unet = components.unet
    before = dict(unet.attn_processors)
    x = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    denoiser = Denoiser(unet, text.encode_prompts(components, list(PROMPTS)))
    t = torch.tensor([500, 500])
    plain = denoiser(x, t)
    with anchored(unet, cross=True) as anchors:
        assert torch.equal(denoiser(x, t), plain)
        anchors.first = torch.tensor([0, 1])
        assert torch.allclose(denoiser(x, t), plain, atol=1e-5)
        anchors.first = torch.tensor([0, 0])
        beside = denoiser(x, t)
        assert torch.allclose(beside[0], plain[0], atol=1e-5)
        assert not torch.allclose(beside[1], plain[1], atol=1e-3)
        anchors.first, anchors.second, anchors.weight = torch.tensor([1, 1]), torch.tensor([0, 0]), torch.ones(2)
        assert torch.allclose(denoiser(x, t), beside, atol=1e-5)
        anchors.first, anchors.second, anchors.weight = torch.tensor([0, 0]), None, None
        guided = Denoiser(unet, denoiser.conditioning, text.encode_prompts(components, ["long"]), 3.0)
        _, conditional = guided.branches(x, t)  # each branch among its own rows
        assert torch.allclose(conditional, beside, atol=1e-5)
    assert all(unet.attn_processors[name] is processor for name, processor in before.items())
    assert torch.equal(denoiser(x, t), plain)
    with pytest.raises(RuntimeError, match="stop"), anchored(unet):
        raise RuntimeError("stop")
    assert all(isinstance(processor, AttnProcessor2_0) for processor in unet.attn_processors.values())


def test_interpolated_attention_keeps_the_ends_and_changes_the_middle(components: Components) -> None:
    places = [0.0, 0.5, 1.0]
    plain = morph.PromptMorph(components, recipes(), shared_steps=0).latents(places)
    fused = morph.PromptMorph(components, recipes(), shared_steps=0, attention=True).latents(places)
    assert torch.allclose(fused[[0, 2]], plain[[0, 2]], atol=1e-3)
    assert not torch.allclose(fused[1], plain[1], atol=1e-3)


def test_latent_morph_is_a_straight_line(components: Components) -> None:
    whole = morph.LatentMorph(components, recipes(), batch=2)
    images = list(whole.draw([0.0, 0.5, 1.0]))
    assert images[0].size == (64, 64)
    middle = latents.decode(components, torch.cat(whole.ends).mean(0, keepdim=True))
    assert np.array_equal(pixels(images)[1], pixels(middle)[0])
    given = Image.new("RGB", (90, 80), (200, 30, 40))
    uploaded = morph.LatentMorph(components, recipes(), first=given)
    assert torch.equal(uploaded.ends[0], latents.encode(components, [fit(given, 64, 64)]))


def test_a_chain_passes_through_every_emotion(components: Components) -> None:
    three = recipes(prompts=(*PROMPTS, "1girl, angry, red hair, blue eyes"))
    whole = morph.PromptMorph(components, three, shared_steps=0)
    middle = whole.latents([0.5])
    alone = Track(*_start(components, three[1]), whole.texts[1])
    advance(components.unet, [alone], whole.negative, 3.0, whole.noise)
    assert torch.allclose(middle, alone.latents, atol=1e-4)
    frames = list(morph.strip(whole, 4))
    assert frames[0][0] == 0
    assert 0.5 in [place for place, _ in frames]


def _start(components: Components, recipe: Recipe):
    scheduler = schedulers.make_scheduler(recipe.sampler, components.scheduler_config)
    timesteps = schedulers.set_timesteps(scheduler, recipe.steps)
    return scheduler, timesteps, SharedNoise(components, recipe.seed, 64, 64).first * scheduler.init_noise_sigma


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_inversion_leads_back_to_the_picture(tmp_path: Path, prediction: str) -> None:
    shape = {"factor": 8, "latent_channels": 4, "addition_embed_type": None} if prediction == "epsilon" else {}
    tiny_sd(tmp_path / "models" / "m", prediction, **shape)  # the first has the shape of SD 1.5
    components = Engine(Settings(home=tmp_path, device="cpu")).components("m")
    whole = morph.PictureMorph(components, recipes(), Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 60))
    clean = whole.inversion.path[-1:]
    back = inversion.replay(components, whole.inversion, whole.texts[0], whole.negative, whole.guidance)
    assert (back - clean).abs().max() < 1e-3 * clean.abs().max()
    texts = whole.texts[1]
    other = inversion.replay(components, whole.inversion, texts, whole.negative, whole.guidance)
    assert (other - clean).abs().max() > 1e-2 * clean.abs().max()
    left = torch.zeros_like(clean[:, :1])
    left[..., :2] = 1
    half = inversion.replay(components, whole.inversion, texts, whole.negative, whole.guidance, left)
    assert torch.equal(half[..., 2:], clean[..., 2:])
    assert not torch.equal(half[..., :2], clean[..., :2])


@pytest.fixture
def halved(tmp_path: Path) -> Components:
    """A model in the precision that a card computes in."""
    tiny_sd(tmp_path / "models" / "m", "epsilon", factor=8, latent_channels=4, addition_embed_type=None)
    components = Engine(Settings(home=tmp_path, device="cpu")).components("m")
    for module in components.modules.values():
        module.half()
    components.dtype = torch.float16
    return components


def test_half_precision_knows_the_lowest_noise_levels(halved: Components) -> None:
    scheduler = schedulers.make_scheduler("ddim", halved.scheduler_config)
    sigma = (1 - scheduler.alphas_cumprod.double()).sqrt()[:4].flip(0).view(-1, 1, 1, 1)  # 0.047 to 0.029
    clean = torch.zeros(1, 4, 8, 8, dtype=torch.float16)
    noise = torch.randn((4, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    source, negative = text.encode_prompts(halved, ["1girl"]), text.encode_prompts(halved, [""])
    found = inversion.invert(halved, clean, source, negative, 3.0, 1000, 0.004, 3)
    assert found.path.dtype == found.residuals.dtype == torch.float16
    assert torch.allclose(found.path[:-1].double(), sigma * noise, rtol=2e-3, atol=1e-6)
    back = inversion.replay(halved, found, source, negative, 3.0)
    assert back.dtype == torch.float16
    assert back.abs().max() < 1e-3

    timesteps = schedulers.set_timesteps(scheduler, 1000, strength=0.004)
    for place in range(4):
        begin = schedulers.start_latents(scheduler, noise[:1].half(), timesteps[place:], clean)
        assert begin.dtype == torch.float16
        assert torch.allclose(begin.double(), sigma[place] * noise[:1], rtol=2e-3, atol=1e-6)

    seen: list[torch.Tensor] = []
    handle = halved.unet.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with anchored(halved.unet) as anchors:
        track, pinned = Track(scheduler, timesteps, noise[:1].half(), source), Pinned(clean, noise[:1].half(), source)
        advance(halved.unet, [track], None, 1.0, lambda _: noise[:1], anchors=anchors, pinned=pinned)
    handle.remove()
    attended = torch.cat([rows[:1] for rows in seen])  # the picture that every frame attends to, at each level
    assert torch.allclose(attended.double(), sigma * noise[:1], rtol=2e-3, atol=1e-6)


def test_picture_morph_holds_what_the_emotion_does_not_touch(components: Components) -> None:
    image = Image.effect_mandelbrot((80, 64), (-2, -1, 1, 1), 60).convert("RGB")
    whole = morph.PictureMorph(components, recipes(), image)
    whole.region = torch.zeros_like(whole.region)
    whole.region[..., 1:3, 1:3] = 1
    first, last = whole.draw([0.0, 1.0])
    wanted = pixels([fit(image, 64, 64)])[0]
    assert np.abs(pixels([last])[0][:4] - wanted[:4]).max() <= 2  # the soft edge reaches a little further
    assert not np.array_equal(pixels([last])[0][24:40, 24:40], pixels([first])[0][24:40, 24:40])


def test_a_picture_that_shows_another_emotion_is_inverted_with_that_one(components: Components) -> None:
    image = Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 60).convert("RGB")
    (angry,) = recipes(prompts=("1girl, angry, red hair, blue eyes",))
    whole = morph.PictureMorph(components, recipes(), image, shown=angry)
    whole.region = torch.ones_like(whole.region)
    assert torch.equal(whole.before.embeddings, text.encode_prompts(components, whole.prompts[:1]).embeddings)
    assert "angry" in whole.prompts[0]
    (first,) = whole.draw([0.0])
    as_it_is = latents.decode(components, whole.inversion.path[-1:])
    assert np.abs(pixels([first]) - pixels(as_it_is)).max() > 10, "frame 1 is the first emotion and not the picture"
    plain = morph.PictureMorph(components, recipes(), image)
    plain.region = torch.ones_like(plain.region)
    assert np.abs(pixels(plain.draw([0.0])) - pixels(as_it_is)).max() <= 2


@pytest.mark.parametrize("method", ["prompt", "latent", "picture", "direction"])
def test_a_model_given_back_and_lent_again_draws_the_same(components: Components, method) -> None:
    image = Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 60).convert("RGB")
    through, halting = (morph.make(method, components, recipes("euler_a"), image) for _ in range(2))
    drawn = []
    for place in (0.3, 0.8):
        halting.release()
        with pytest.raises(AssertionError, match="without a model"):
            list(halting.draw([place]))
        halting.acquire(components)
        drawn += halting.draw([place])
    assert np.abs(pixels(drawn) - pixels(through.draw([0.3, 0.8]))).max() <= 1


def test_a_direction_moves_the_picture_and_its_means_are_kept(components: Components) -> None:
    done: list[int] = []
    image = Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 60).convert("RGB")
    asked = recipes(negative="short")
    raw = morph.DirectionMorph(components, asked, amount=1.5, first=image, refine_strength=0, on_step=done.append)
    assert sum(done) == 2 * morph.MEAN_OF * 5
    source = latents.encode(components, [image])
    means = []
    for prompt in text.shared_tags_first([recipe.prompt for recipe in asked]):
        means.append(sampling.sample_latents(
            components, [prompt] * morph.MEAN_OF, range(morph.MEAN_OF), sampler="dpmpp_2m", steps=5, guidance=3.0,
            size=(64, 64), negatives=["short"] * morph.MEAN_OF,
        ))  # fmt: skip
    way = latents.direction(*means)
    assert way.abs().max() > 1e-3
    moved = raw.latents([0.0, 0.5, 1.0])
    assert torch.equal(moved[:1], source)
    assert torch.allclose(moved[2:] - source, 1.5 * way, atol=1e-4)
    assert torch.allclose(moved[1:2] - source, 0.75 * way, atol=1e-4)

    done.clear()
    tidied = morph.DirectionMorph(components, asked, first=image, shown=asked[1], on_step=done.append)
    assert done == [], "the means of these emotions are known"
    end = tidied.latents([0.0, 1.0])
    assert torch.equal(end[1:], source), "it shows the second emotion already: no way to go, no redrawing"
    assert not torch.allclose(end[:1], source - way, atol=1e-3), "what was moved is drawn clean again"
    alone = tidied.latents([0.0])
    assert torch.allclose(alone, end[:1], atol=1e-4)  # in whatever company


def test_the_region_is_where_the_texts_disagree(components: Components) -> None:
    whole = morph.PictureMorph(components, recipes(), Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 60))
    arguments = (components, whole.inversion, whole.texts[0])
    same = inversion.changed_region(*arguments, whole.texts[:1])
    assert float(same.max()) == 0
    box = (0.75, 0.75, 1.0, 1.0)
    within = inversion.changed_region(*arguments, whole.texts[1:], box)
    assert float(within[..., 0, :].max()) == 0
    assert float(within.max()) > 0


class Steep:
    """A morph whose pictures change only between 0.6 and 0.7."""

    legs = 1
    drawn = 0

    def draw(self, places):
        for place in places:
            self.drawn += 1
            level = min(max((place - 0.6) / 0.1, 0.0), 1.0)
            yield Image.new("RGB", (16, 16), (round(255 * level), 0, 0))


def test_retimed_frames_look_equally_far_apart() -> None:
    steep = Steep()
    final = [image for _, image in morph.strip(steep, 9, morph.pixel_distance)]
    assert len(final) == 9
    assert gini(morph.pixel_distance(final[:-1], final[1:])) < 0.15
    plain = [image for _, image in morph.strip(Steep(), 9)]
    assert gini(morph.pixel_distance(plain[:-1], plain[1:])) > 0.7
    assert steep.drawn <= 4 * 9
    assert final[0].getpixel((0, 0)) == (0, 0, 0)
    assert final[-1].getpixel((0, 0)) == (255, 0, 0)


def test_a_direction_is_the_difference_of_means() -> None:
    a, b = torch.zeros(3, 1, 2, 2), torch.ones(2, 1, 2, 2)
    assert torch.equal(latents.direction(a, b), torch.ones(1, 1, 2, 2))


def test_slerp_goes_along_the_great_arc_and_keeps_the_length_of_noise() -> None:
    x, y = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert torch.allclose(latents.slerp(x, y, 0.5), torch.full((1, 2), 2**0.5), atol=1e-6)
    assert torch.allclose(latents.slerp(x, y, 1 / 3), torch.tensor([[3**0.5, 1.0]]), atol=1e-6)
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 16, 16, 16, generator=draw)
    assert torch.allclose(latents.slerp(a, b, 0.0), a, atol=1e-5)
    assert torch.allclose(latents.slerp(a, b, 1.0), b, atol=1e-5)
    assert latents.slerp(a, b, 0.5).std() == pytest.approx(1, abs=0.02)
    assert a.lerp(b, 0.5).std() < 0.75
    b[1] = a[1]  # each row has an angle of its own
    assert torch.allclose(latents.slerp(a, b, 0.3)[1], a[1], atol=1e-5)
    assert torch.isfinite(latents.slerp(a, -a, 0.5)).all()


def test_a_spherical_cross_fade_has_the_same_ends_and_another_middle(components: Components) -> None:
    places = [0.0, 0.5, 1.0]
    straight, arc = (morph.LatentMorph(components, recipes(), spherical=yes) for yes in (False, True))
    a, b = (torch.cat([made.between(made.ends, place) for place in places]) for made in (straight, arc))
    assert torch.allclose(a[[0, 2]], b[[0, 2]], atol=1e-4)
    assert b[1].norm() > a[1].norm()


class Identity:
    """An autoencoder whose latents are its pixels, half as large: what is lost comes from the code around it."""

    dtype = torch.float32

    config = SimpleNamespace(scaling_factor=0.18215)

    def encode(self, pixels):
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: pixels / 2))

    def decode(self, latents, return_dict=True):
        return (latents * 2,)


def test_a_picture_comes_back_from_its_latents() -> None:
    alone = SimpleNamespace(vae=Identity(), vae_dtype=torch.float32, device=torch.device("cpu"), dtype=torch.float32)
    picture = Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 60).convert("RGB")
    clean = latents.encode(alone, [picture])
    assert torch.allclose(clean, to_tensor([picture]) / 2 * 0.18215)
    assert np.array_equal(pixels(latents.decode(alone, clean)), pixels([picture]))


def test_a_description_names_only_what_the_judge_is_sure_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "gender": ("boy", 0.6), "emotion": ("sad", 0.3), "style": ("formal", 0.4), "hair_color": ("red", 0.95),
        "hair_length": ("long", 0.7), "eye_color": ("hidden", 1.0), "background": ("sky", 0.92),
    }  # fmt: skip

    class Doubtful:
        values = said

        def __call__(self, images):
            labels = {name: [label] for name, (label, _) in said.items()}
            sure = {name: torch.tensor([[share, 1 - share]]) for name, (_, share) in said.items()}
            return Verdict(labels, sure, torch.zeros(1, 1))

    monkeypatch.setattr(judging, "_judge", lambda folder: Doubtful())
    seen = judging.describe(Path(), Image.new("RGB", (8, 8)))
    assert (seen.emotion, seen.style) == ("sad", "formal"), "a prompt needs both: the best guess"
    assert seen.tags == ["1boy", "red hair", "sky, clouds"]
    assert judging.tags(Path(), [Image.new("RGB", (8, 8))]) == [["red hair", "sky, clouds"]]


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch):
    """UNet calls with more rows than `most` are out of memory; gives the numbers of rows of those that weren't."""
    rows: list[int] = []

    def limit(components: Components, most: int) -> list[int]:
        original = components.unet.forward

        def forward(sample, *rest, **options):
            if len(sample) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            rows.append(len(sample))
            return original(sample, *rest, **options)

        monkeypatch.setattr(components.unet, "forward", forward)
        return rows

    return limit


@pytest.mark.parametrize("method", ["prompt", "latent", "picture", "direction"])
def test_a_full_memory_halves_the_batch(components: Components, cramped, method) -> None:
    places = timing.positions(5)
    image = Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 60).convert("RGB")
    chain = recipes(prompts=(*PROMPTS, "1girl, angry, red hair, blue eyes"), seed=31)
    wanted = pixels(morph.make(method, components, chain, image if method == "picture" else None).draw(places))
    components.emotion_means.clear()
    cramped(components, 4)  # two frames with guidance
    made = morph.make(method, components, chain, image if method == "picture" else None)
    made.batch = 16
    assert np.abs(pixels(made.draw(places)) - wanted).max() <= 1
    if method != "latent":
        assert made.batch == 2
    cramped(components, 0)
    with pytest.raises(OutOfMemory, match="64 x 64"):
        list(morph.make("prompt", components, chain).draw(places))


def test_only_the_ends_of_a_leg_are_drawn_beside_its_frames(components: Components, cramped) -> None:
    chain = recipes(prompts=tuple(f"1girl, {word}, red hair" for word in ("happy", "sad", "angry", "calm", "cat")))
    made = morph.PromptMorph(components, chain, attention=True, shared_steps=0, batch=2)
    rows = cramped(components, 99)
    made.latents([0.05, 0.1])
    assert set(rows) == {2 * (2 + 2)}


def test_a_cross_fade_draws_no_more_pictures_at_once_than_its_batch(components: Components, cramped) -> None:
    rows = cramped(components, 99)
    chain = recipes(prompts=(*PROMPTS, "1girl, angry, red hair", "1girl, calm, red hair"))
    morph.LatentMorph(components, chain, batch=2)
    assert max(rows) == 2 * 2
    rows.clear()
    given = Image.new("RGB", (64, 64))
    morph.LatentMorph(components, recipes(), first=given, batch=2)
    assert max(rows) == 2 * 1, "the given picture's place isn't drawn"


def test_frames_come_in_small_portions_on_a_cpu_and_large_pictures_alone(components: Components) -> None:
    assert frames_per_batch(components, 64, 64, True) == CPU_BATCH <= 4
    assert frames_per_batch(components, 2048, 2048, True) == 1


def test_nothing_is_left_on_the_model(engine: Engine) -> None:
    """All methods one after another leave weights, attention and text as they were, to the bit."""
    components = engine.components("tiny")
    before = {name: value.clone() for part in components.modules.values() for name, value in part.state_dict().items()}
    processors = dict(components.unet.attn_processors)
    image = Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 60).convert("RGB")
    for method in ("prompt", "latent", "picture", "direction"):
        list(morph.make(method, components, recipes(), image, attention=True).draw([0.0, 0.6]))
    after = {name: value for part in components.modules.values() for name, value in part.state_dict().items()}
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(components.unet.attn_processors[name] is processor for name, processor in processors.items())
    assert components.text_key == ()
    assert not any(parameter.requires_grad for parameter in components.unet.parameters())
