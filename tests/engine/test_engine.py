"""The engine from recipes to pictures, on small real models: seeds, batches, cancelling, memory, the fast path."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from support.checkpoints import SD15_UNET_PARAMETERS, full_sd15, tiny_sd, to_single_file

from studio.core.errors import BadInput, Cancelled, NotFound, OutOfMemory
from studio.core.samplers import SAMPLERS
from studio.core.settings import Settings
from studio.core.specs import ControlSpec, LoraRef, Recipe
from studio.engine import memory, optimizations
from studio.engine.diffusion import latents, schedulers, text
from studio.engine.diffusion.pixels import fit, to_tensor
from studio.engine.engine import Engine
from studio.engine.progress import Step


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("engine")
    tiny = tiny_sd(home / "models" / "tiny", controlnet=True)
    # a few-step adapter: rank 2 on one layer of the UNet
    (tiny / "lcm_lora").mkdir()
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    draw = torch.Generator().manual_seed(0)
    halves = {
        ".lora_A.weight": torch.randn(2, 32, generator=draw),
        ".lora_B.weight": torch.randn(32, 2, generator=draw),
    }
    save_file({layer + key: value for key, value in halves.items()}, tiny / "lcm_lora" / "adapter.safetensors")
    facts = json.loads((tiny / "studio.json").read_text())
    facts["fast"] = {"adapter": "lcm_lora", "steps": 2, "guidance": 1.0, "sampler": "lcm"}
    (tiny / "studio.json").write_text(json.dumps(facts))
    return home


@pytest.fixture(scope="module")
def engine(home: Path) -> Engine:
    return Engine(Settings(home=home, device="cpu", preview_every=2))


def recipe(**changes) -> Recipe:
    values = {
        "model": "tiny", "model_hash": "", "prompt": "1girl, happy", "negative": "sad", "seed": 5, "steps": 4,
        "guidance": 3.0, "sampler": "auto", "width": 64, "height": 64,
    }  # fmt: skip
    return Recipe(**values | changes)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def one(engine: Engine, on_step: Callable[[Step], None] | None = None, files=Path, **changes) -> np.ndarray:
    return pixels(dict(engine.draw([recipe(**changes)], on_step, files))[0])


@pytest.mark.parametrize("sampler", ["auto", *SAMPLERS])
def test_a_picture_can_be_made_again_alone_with_the_same_pixels(engine: Engine, sampler: str) -> None:
    many = dict(engine.draw([recipe(sampler=sampler, seed=5 + k) for k in range(3)]))
    assert sorted(many) == [0, 1, 2]
    assert many[0].size == (64, 64)
    assert not np.array_equal(pixels(many[0]), pixels(many[1]))
    assert np.array_equal(pixels(many[2]), one(engine, sampler=sampler, seed=7))


def test_a_picture_does_not_depend_on_what_was_drawn_before(engine: Engine) -> None:
    fresh = one(Engine(engine.settings), seed=7, sampler="unipc")
    one(engine, seed=8, sampler="euler_a", prompt="cat")
    assert np.array_equal(one(engine, seed=7, sampler="unipc"), fresh)


def test_pictures_of_a_batch_differ_from_single_ones_by_rounding_only(engine: Engine, monkeypatch) -> None:
    """What a GPU does: several at once. Not equal in every bit, and nobody would see it."""
    recipes = [recipe(seed=k, prompt=prompt) for k, prompt in enumerate(["1girl", "1boy, sad", "cat"])]
    alone = [pixels(image).astype(int) for _, image in engine.draw(recipes)]
    monkeypatch.setattr(memory, "batch_size", lambda *arguments: 3)
    steps: list[Step] = []
    together = [pixels(image).astype(int) for _, image in engine.draw(recipes, steps.append)]
    assert max(np.abs(a - b).max() for a, b in zip(alone, together, strict=True)) <= 2
    assert [step.done for step in steps] == [3, 6, 9, 12]
    assert steps[0].note == "pictures 1 to 3 of 3"


def test_prompts_of_different_length_are_never_padded_to_one_batch(engine: Engine, monkeypatch) -> None:
    recipes = [recipe(prompt="cat"), recipe(prompt=", ".join(["red hair"] * 60))]
    alone = [pixels(image).astype(int) for _, image in engine.draw(recipes)]
    monkeypatch.setattr(memory, "batch_size", lambda *arguments: 2)
    together = [pixels(image).astype(int) for _, image in engine.draw(recipes)]
    assert max(np.abs(a - b).max() for a, b in zip(alone, together, strict=True)) == 0


def test_the_same_picture_as_the_pipeline_of_diffusers(engine: Engine) -> None:
    parts = engine.components("tiny")
    pipeline = StableDiffusionPipeline.from_pretrained(
        parts.info.path,
        safety_checker=None,
        requires_safety_checker=False,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
    )
    pipeline.scheduler = schedulers.make_scheduler("dpmpp_2m", parts.scheduler_config)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "1girl, happy", negative_prompt="sad", num_inference_steps=4, guidance_scale=3.0, width=64, height=64,
        generator=torch.Generator().manual_seed(5),
    ).images[0]  # fmt: skip
    # its convolutions have another memory layout, so the last bit of a float may differ
    assert np.abs(pixels(theirs).astype(int) - one(engine).astype(int)).max() <= 1


def test_progress_counts_every_step_and_shows_previews(engine: Engine) -> None:
    steps: list[Step] = []
    list(engine.draw([recipe(seed=k) for k in range(2)], steps.append))
    assert [step.done for step in steps] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {step.total for step in steps} == {8}
    assert [step.preview is not None for step in steps] == [False, True, False, False] * 2
    assert steps[1].preview.size == (16, 16)
    assert steps[4].note == "picture 2 of 2"


def test_previews_look_like_the_picture(engine: Engine) -> None:
    parts = engine.components("tiny")
    draw = torch.Generator().manual_seed(9)
    cells = torch.nn.functional.interpolate(torch.randn(1, 16, 2, 2, generator=draw), size=(8, 8), mode="bicubic")
    decoded = latents.decode_pixels(parts, cells)
    small = torch.nn.functional.adaptive_avg_pool2d(decoded.clamp(-1, 1), (32, 32))

    def unlike() -> float:
        """Error of the preview, as a share of what there is to see."""
        seen = to_tensor([latents.previewer(parts).draw(cells)])
        return float((seen - small).pow(2).mean() / small.var())

    before = unlike()
    assert before < 1, "already before it has seen a picture; a VAE with random weights is far from linear"
    for _ in range(5):
        latents.previewer(parts).learn(cells, decoded)
    assert unlike() < 0.6 * before


def test_cancelled_within_one_step_and_nothing_left_behind(engine: Engine) -> None:
    before = one(engine)
    seen: list[int] = []

    def cancel(step: Step) -> None:
        seen.append(step.done)
        if step.done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(engine.draw([recipe(fast=True, steps=4, seed=k) for k in range(3)], cancel))
    assert seen == [1, 2]
    assert np.array_equal(one(engine), before)


def test_a_reader_that_goes_away_leaves_nothing_attached(engine: Engine) -> None:
    before = one(engine)
    frames = engine.draw([recipe(fast=True, steps=2, seed=k) for k in range(3)])
    next(frames)
    assert np.array_equal(one(engine), before), "the first picture is out, the second not asked for yet"


def test_the_fast_path_is_for_few_steps(engine: Engine) -> None:
    parts = engine.components("tiny")
    weight = parts.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
    seen: list[int] = []
    plain = weight.data_ptr()
    watch = lambda step: seen.append(weight.data_ptr() != plain)  # noqa: E731
    one(engine, watch, fast=True, steps=2, guidance=1.0)
    one(engine, watch, fast=True, steps=5, guidance=1.0)
    one(engine, watch, fast=False, steps=2, guidance=1.0)
    assert seen == [True] * 2 + [False] * 5 + [False] * 2
    assert np.array_equal(one(engine, fast=True, steps=2), one(engine, fast=True, steps=2, sampler="lcm"))
    assert np.array_equal(one(engine, steps=2), one(engine, steps=2, sampler="dpmpp_2m"))


def test_a_model_without_a_fast_path_says_so(home: Path, tmp_path: Path) -> None:
    tiny_sd(tmp_path / "models" / "plain")
    with pytest.raises(BadInput, match="no fast path"):
        one(Engine(Settings(home=tmp_path, device="cpu")), model="plain", fast=True)


def test_a_size_between_two_cells_is_drawn_larger_and_cut(engine: Engine) -> None:
    image = dict(engine.draw([recipe(width=72, height=88)]))[0]
    assert image.size == (72, 88)


def test_image_to_image_keeps_more_the_weaker_it_is(engine: Engine, tmp_path: Path) -> None:
    source = Image.new("RGB", (100, 64), (200, 30, 30))
    source.save(tmp_path / "source.png")
    files = {"abc": tmp_path / "source.png"}.__getitem__
    parts = engine.components("tiny")
    same = pixels(latents.decode(parts, latents.encode(parts, [fit(source, 64, 64)]))[0]).astype(int)
    far = [
        np.abs(one(engine, files=files, source="abc", strength=strength, steps=10).astype(int) - same).mean()
        for strength in (0.1, 0.5, 1.0)
    ]
    assert far[0] < far[1] < far[2]


def test_a_drawing_steers_and_its_weight_counts(engine: Engine, tmp_path: Path) -> None:
    drawing = Image.new("RGB", (128, 128), "white")
    drawing.paste((0, 0, 0), (30, 30, 98, 40))
    drawing.paste((0, 0, 0), (30, 30, 40, 98))
    drawing.save(tmp_path / "drawing.png")
    control = ControlSpec(image=str(tmp_path / "drawing.png"), kind="lines")
    plain = one(engine)
    steered = one(engine, control=control)
    assert not np.array_equal(steered, plain)
    assert np.array_equal(one(engine, control=control.model_copy(update={"weight": 0.0})), plain)
    assert not np.array_equal(one(engine, control=control.model_copy(update={"weight": 0.5})), steered)
    assert len(engine.components("tiny").controls) == 1


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nrubbish", None])
def test_a_source_that_is_no_picture_is_a_sentence(engine: Engine, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match="picture"):
        one(engine, source=str(path), strength=0.5)


def test_what_cannot_be_used_is_a_sentence_and_the_engine_lives_on(engine: Engine, tmp_path: Path) -> None:
    before = one(engine)
    for changes in ({"model": "gone"}, {"loras": (LoraRef(path="gone"),)}):
        with pytest.raises(NotFound):
            one(engine, **changes)
    broken = Path(shutil.copytree(engine.components("tiny").info.path, engine.settings.models_dir / "broken"))
    config = json.loads((broken / "unet" / "config.json").read_text())
    (broken / "unet" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 48}))
    with pytest.raises(BadInput, match="unet of Tiny random model can't be loaded"):
        one(engine, model="broken")
    with pytest.raises(BadInput, match="prompt and seed only"):
        list(engine.draw([recipe(), recipe(steps=5)]))
    assert np.array_equal(one(engine), before)


def test_missing_layers_are_not_filled_with_random_numbers(engine: Engine) -> None:
    from safetensors.torch import load_file

    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        holey = Path(shutil.copytree(engine.components("tiny").info.path, engine.settings.models_dir / f"holey-{part}"))
        weights = load_file(holey / part / f"{name}.safetensors")
        weights.pop(sorted(weights)[0])
        save_file(weights, holey / part / f"{name}.safetensors", {"format": "pt"})
        with pytest.raises(BadInput, match=f"{part} of Tiny random model can't be loaded"):
            one(engine, model=f"holey-{part}")


# --- memory ----------------------------------------------------------------------------------------------------------


def test_another_model_frees_the_one_before(tmp_path: Path) -> None:
    big = tiny_sd(tmp_path / "models" / "one", addition_embed_type=None)
    unet = UNet2DConditionModel(
        sample_size=4, in_channels=16, out_channels=16, block_out_channels=(128, 256), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=32, attention_head_dim=(4, 8),
    )  # fmt: skip
    size = sum(parameter.numel() for parameter in unet.parameters()) * 4
    assert size > 40e6
    unet.save_pretrained(big / "unet")
    del unet
    shutil.copytree(big, tmp_path / "models" / "two")
    engine = Engine(Settings(home=tmp_path, device="cpu"))
    process, used = psutil.Process(), []
    for name in ("one", "two", "one"):
        first = weakref.ref(engine.components(name).unet)
        one(engine, model=name, steps=1)
        gc.collect()
        used.append(process.memory_info().rss)
        assert first() is not None
        engine.components("two" if name == "one" else "one")
        assert first() is None, "nothing holds the model from before"
    assert used[2] < used[0] + size, "a leak of one model a switch would be four times its size"


def test_the_same_model_is_loaded_once_until_its_files_change(engine: Engine, home: Path) -> None:
    assert engine.components("tiny") is engine.components("tiny")
    copy = tiny_sd(home / "models" / "changing")
    before = engine.components("changing")
    config = json.loads((copy / "scheduler" / "scheduler_config.json").read_text())
    (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | {"beta_end": 0.02}))
    assert engine.components("changing") is not before
    assert engine.components("changing").scheduler_config["beta_end"] == 0.02


def test_running_out_of_memory_halves_the_batch_and_then_says_so(engine: Engine, monkeypatch) -> None:
    parts = engine.components("tiny")
    recipes = [recipe(seed=k) for k in range(4)]
    alone = [pixels(image).astype(int) for _, image in engine.draw(recipes)]
    monkeypatch.setattr(memory, "batch_size", lambda *arguments: 4)
    real, sizes, most = parts.unet.forward, [], 4

    def small(sample: torch.Tensor, *arguments, **options):
        sizes.append(len(sample))
        if len(sample) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(sample, *arguments, **options)

    monkeypatch.setattr(parts.unet, "forward", small)
    drawn = [pixels(image).astype(int) for _, image in engine.draw(recipes)]
    assert sizes[:2] == [8, 4], "guidance doubles a batch"
    assert max(np.abs(a - b).max() for a, b in zip(alone, drawn, strict=True)) <= 2
    most = 1
    with pytest.raises(OutOfMemory, match="choose 64 x 64 or smaller"):
        list(engine.draw([recipe(width=128)]))
    monkeypatch.undo()
    assert np.array_equal(one(engine, seed=0), alone[0])


def test_what_cannot_fit_is_refused_before_it_starts(engine: Engine, monkeypatch) -> None:
    monkeypatch.setattr(memory, "free", lambda device: 3_000_000)
    seen: list[Step] = []
    with pytest.raises(OutOfMemory, match=r"2048 x 2048 needs about .* GB .* choose 64 x 64"):
        one(engine, seen.append, width=2048, height=2048)
    assert seen == []


def test_the_estimate_is_near_what_is_really_used(engine: Engine) -> None:
    """Against torch's own profiler: the sum of what is alive at the worst moment."""
    from torch.profiler import ProfilerActivity, profile

    parts = engine.components("tiny")
    for estimate, run in (
        (memory.decode_bytes(parts, 512, 512), lambda: latents.decode_pixels(parts, torch.zeros(1, 16, 32, 32))),
        (memory.step_bytes(parts, 512, 512, False), lambda: _step(parts, 32)),
    ):
        run()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            run()
        alive = worst = 0
        for event in sorted(
            (event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"),
            key=lambda event: event.start_ns(),
        ):
            alive += event.nbytes()
            worst = max(worst, alive)
        assert worst > 1e6
        assert 0.6 * worst < estimate < 2.5 * worst


@torch.no_grad()
def _step(parts, side: int) -> None:
    parts.unet(torch.zeros(1, 16, side, side), torch.tensor(5), torch.zeros(1, 77, 32))


def test_decoding_in_tiles_only_when_a_whole_picture_does_not_fit(engine: Engine, monkeypatch) -> None:
    parts = engine.components("tiny")
    optimizations.tiling(parts, 512, 512)
    assert not parts.vae.use_tiling
    monkeypatch.setattr(memory, "free", lambda device: 1_000_000)
    optimizations.tiling(parts, 512, 512)
    assert parts.vae.use_tiling
    assert [choice.on for choice in parts.choices if choice.name == "VAE tiling"] == [True]
    monkeypatch.undo()
    optimizations.tiling(parts, 64, 64)
    assert not parts.vae.use_tiling


# --- what was chosen -------------------------------------------------------------------------------------------------


def test_every_choice_has_a_reason(engine: Engine) -> None:
    one(engine)
    status = engine.status()
    assert status["device"] == "cpu"
    assert status["model"] == "tiny"
    found = {choice.name: choice for choice in status["choices"]}
    assert {"GPU", "Half precision", "SDPA attention", "xformers", "channels_last", "CPU offload"} <= set(found)
    assert all(choice.reason.endswith(".") for choice in found.values())
    assert not found["Half precision"].on


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_device_that_is_not_there_is_a_sentence(home: Path) -> None:
    with pytest.raises(BadInput, match="no CUDA device"):
        Engine(Settings(home=home, device="cuda")).components("tiny")


# --- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("", []),
        ("a, b", [("a, b", 1.0)]),
        ("(a)", [("a", 1.1)]),
        ("((a))", [("a", 1.1 * 1.1)]),
        ("[a]", [("a", 1 / 1.1)]),
        ("(a:1.3), b", [("a", 1.3), (", b", 1.0)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        (r"a \(b\)", [("a (b)", 1.0)]),
        ("(a", [("a", 1.1)]),
        ("a) b]", [("a) b]", 1.0)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("()", []),
    ],
)
def test_weights_are_written_as_everybody_writes_them(prompt: str, pieces: list[tuple[str, float]]) -> None:
    found = text.parse_weights(prompt)
    assert [piece for piece, _ in found] == [piece for piece, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


def test_weights_strengthen_and_weaken(engine: Engine) -> None:
    parts = engine.components("tiny")

    def encoded(prompt: str) -> torch.Tensor:
        return text.encode_prompts(parts, [prompt]).embeddings

    plain, empty = encoded("1girl, happy"), encoded("")
    strong, weak = encoded("1girl, (happy:1.5)"), encoded("1girl, (happy:0.5)")
    assert not torch.equal(plain, strong)
    assert not torch.equal(plain, weak)
    assert torch.equal(encoded("(1girl, happy:1.0)"), plain)
    where = len(parts.tokenizer("1girl,").input_ids) - 1  # of "happy"
    assert torch.allclose(strong[0, where] - empty[0, where], 1.5 * (plain[0, where] - empty[0, where]), atol=1e-4)
    assert torch.isfinite(encoded("(happy:0), [[[sad]]], (cat:10)")).all()


def test_long_prompts_are_read_to_the_end(engine: Engine) -> None:
    parts = engine.components("tiny")
    long = ", ".join(["red hair, blue eyes"] * 30)
    positive, negative = (each.embeddings for each in text.encode_pair(parts, [long + ", happy", "cat"], ["sad", ""]))
    assert positive.shape == negative.shape == (2, positive.shape[1], 32)
    assert positive.shape[1] % 77 == 0
    assert positive.shape[1] > 77
    last = text.encode_prompts(parts, [long + ", sad"]).embeddings
    assert not torch.equal(last[0], positive[0]), "the last word counts"
    assert torch.equal(positive[1, :77], text.encode_prompts(parts, ["cat"]).embeddings[0])
    assert np.any(one(engine, prompt=long) != one(engine, prompt="cat"))


def test_break_begins_a_chunk(engine: Engine) -> None:
    parts = engine.components("tiny")
    whole = text.encode_prompts(parts, ["red hair, BREAK (blue eyes:1.2)"]).embeddings[0]
    one, two = text.encode_prompts(parts, ["red hair", "(blue eyes:1.2)"]).embeddings
    assert torch.equal(whole, torch.cat([one, two]))
    assert torch.equal(
        text.encode_prompts(parts, ["BREAK"]).embeddings[0], text.encode_prompts(parts, [""]).embeddings[0]
    )


# --- the real size ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stable_diffusion_15_as_a_folder_and_as_one_file_gives_the_same_picture(tmp_path: Path) -> None:
    """4.3 GB of random weights, twice, with no network: the shipped configurations and tokenizer are enough."""
    folder = full_sd15(tmp_path / "models" / "folder")
    to_single_file(folder, tmp_path / "models" / "file.safetensors")
    engine = Engine(Settings(home=tmp_path, device="cpu", offline=True, preview_every=0))
    drawn = {}
    for name in ("folder", "file.safetensors"):
        parts = engine.components(name)
        assert sum(parameter.numel() for parameter in parts.unet.parameters()) == SD15_UNET_PARAMETERS
        del parts
        drawn[name] = one(engine, model=name, width=256, height=256, steps=2, prompt="1girl, (smile:1.2), red hair")
        if name == "folder":
            shutil.rmtree(folder)
    assert drawn["folder"].std() > 1
    assert np.array_equal(drawn["folder"], drawn["file.safetensors"])
