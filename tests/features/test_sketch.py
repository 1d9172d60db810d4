"""A sketch as a job and on the command line: parts shared, control stored, LoRA and fast path with it."""

from __future__ import annotations

import errno
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from fastapi.testclient import TestClient
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from support.checkpoints import tiny_sd

from benchmarks import sketch as benchmark
from studio.core.errors import BadInput, DiskFull, NotFound
from studio.core.settings import Settings, settings
from studio.core.specs import ControlSpec, GenerateSpec, LoraRef, Recipe
from studio.engine.diffusion import sampling, schedulers, text
from studio.engine.diffusion.control import STRICTER, Control
from studio.engine.engine import Engine
from studio.engine.media import control_images as control
from studio.engine.models.catalogue import resolve
from studio.engine.models.controlnets import controlnet
from studio.features.sketch.spec import SketchSpec
from studio.interfaces.api import app
from studio.interfaces.cli.main import main
from studio.service import Studio

BASE = Recipe(
    model="tiny", model_hash="", prompt="1girl, happy", negative="sad", seed=1, steps=3, guidance=3.0,
    sampler="dpmpp_2m", width=64, height=64,
)  # fmt: skip


BLANK = GenerateSpec(model="tiny")


def drawing(side: int = 128) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((side * 0.2, side * 0.2, side * 0.8, side * 0.85), outline="black", width=3)
    pen.line((side * 0.3, side * 0.5, side * 0.7, side * 0.5), fill="black", width=3)
    return image


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("sketch")
    fast = {"adapter": "lcm_lora", "steps": 2, "guidance": 1.0, "sampler": "lcm"}
    folder = tiny_sd(home / "models" / "tiny", controlnet=True, studio={"fast": fast})
    drawing().save(home / "drawing.png")
    rng = torch.Generator().manual_seed(0)
    for path in (folder / "lcm_lora" / "lora.safetensors", home / "models" / "loras" / "style.safetensors"):
        path.parent.mkdir(parents=True, exist_ok=True)
        layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
        save_file(
            {
                f"{layer}.lora_down.weight": torch.randn(2, 32, generator=rng),
                f"{layer}.lora_up.weight": torch.randn(32, 2, generator=rng),
                f"{layer}.alpha": torch.tensor(2.0),
            },
            path,
        )
    return home


@pytest.fixture(scope="module")
def engine(home: Path) -> Engine:
    return Engine(Settings(home=home, device="cpu", preview_every=0))


def pixels(engine: Engine, recipe: Recipe) -> np.ndarray:
    ((_, image),) = engine.draw([recipe])
    return np.asarray(image).astype(int)


def steered(home: Path, **changes) -> Recipe:
    return BASE.model_copy(update={"control": ControlSpec(image=str(home / "drawing.png"), **changes)})


def test_the_same_pixels_as_the_pipeline_of_diffusers(engine: Engine, home: Path) -> None:
    components = engine.components("tiny")
    net = controlnet(components, "lines", engine.settings)
    pipeline = StableDiffusionControlNetPipeline(
        components.vae, components.text_encoder, components.tokenizer, components.unet, net,
        schedulers.make_scheduler("dpmpp_2m", components.scheduler_config), None, None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    spec = ControlSpec(image="x", weight=0.7, end=0.7)
    seen = control.control_image(drawing(), spec, (64, 64))
    positive, negative = text.encode_pair(components, [BASE.prompt], [BASE.negative])
    noise = sampling.noise(components, sampling.generators([1]), 64, 64)
    expected = pipeline(
        prompt_embeds=positive.embeddings, negative_prompt_embeds=negative.embeddings, image=seen, latents=noise,
        num_inference_steps=3, guidance_scale=3.0, controlnet_conditioning_scale=0.7, control_guidance_end=0.7,
        output_type="np", width=64, height=64,
    ).images[0]  # fmt: skip
    ours = pixels(engine, steered(home, weight=0.7, end=0.7))
    assert np.abs(ours - (expected * 255).round()).max() <= 1


def test_one_unet_one_vae_whatever_steers(engine: Engine, home: Path) -> None:
    before = engine.components("tiny")
    parts = {name: id(part) for name, part in before.modules.items() if not isinstance(part, ControlNetModel)}
    weights = {id(p) for p in before.unet.parameters()} | {id(p) for p in before.vae.parameters()}
    pixels(engine, steered(home))
    pixels(engine, steered(home, kind="canny"))
    after = engine.components("tiny")
    assert after is before
    assert {name: id(part) for name, part in after.modules.items() if name in parts} == parts
    assert {id(p) for p in after.unet.parameters()} | {id(p) for p in after.vae.parameters()} == weights
    assert len(after.controls) == 1  # lines and canny are one network here: loaded once
    net = next(iter(after.controls.values()))
    assert controlnet(after, "lines", engine.settings) is net
    assert not weights & {id(p) for p in net.parameters()}


def test_weight_and_span_say_how_much_and_when(engine: Engine, home: Path) -> None:
    plain, full = pixels(engine, BASE), pixels(engine, steered(home))
    assert np.abs(full - plain).max() > 0
    assert np.array_equal(pixels(engine, steered(home, weight=0)), plain)
    assert not np.array_equal(pixels(engine, steered(home, weight=0.5)), full)
    assert not np.array_equal(pixels(engine, steered(home, end=0.5)), full)
    late = pixels(engine, steered(home, start=0.9))  # a span shorter than a step
    assert not np.array_equal(late, plain)
    assert np.array_equal(late, pixels(engine, steered(home, start=0.6)))  # the last of three steps


@pytest.mark.parametrize(
    ("start", "end", "steps"),
    [(0, 1, [0, 1, 2, 3]), (0.25, 0.8, [1, 2]), (0, 0.1, [0]), (0.9, 1, [3]), (0.3, 0.4, [1]), (0.45, 0.55, [2])],
)
def test_a_span_has_at_least_one_step(start: float, end: float, steps: list[int]) -> None:
    assert list(Control(None, torch.zeros(1), start=start, end=end).steps(4)) == steps  # type: ignore[arg-type]


def test_what_matters_more(engine: Engine, home: Path) -> None:
    pictures = {favour: pixels(engine, steered(home, favour=favour)) for favour in ("both", "sketch", "prompt")}
    assert len({picture.tobytes() for picture in pictures.values()}) == 3
    components = engine.components("tiny")
    net = controlnet(components, "lines", engine.settings)
    z, t = torch.randn(2, 16, 4, 4), torch.tensor(500)
    both = text.encode_prompts(components, ["", "1girl"])
    lines = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        alone = Control(net, lines, mode="sketch").residuals(z, t, both, guided=True)
        plain = Control(net, lines).residuals(z, t, both, guided=True)
        soft = Control(net, lines, mode="prompt").residuals(z, t, both, guided=True)
    for layer, same, softer in zip(alone[0], plain[0], soft[0], strict=True):
        assert not layer[0].any()  # the unconditional half isn't steered: guidance amplifies the drawing
        assert torch.allclose(layer[1], softer[1], atol=1e-6)
        assert softer.abs().sum() < same.abs().sum()
    assert torch.equal(soft[1], plain[1])
    shares = [float(b.norm() / a.norm()) for a, b in zip(plain[0], soft[0], strict=True)]
    assert shares == sorted(shares)  # the finest layer weighs least


def test_a_model_says_how_its_drawings_weigh(home: Path) -> None:
    engine = Engine(Settings(home=home, device="cpu", preview_every=0))
    components = engine.components("tiny")
    net = controlnet(components, "lines", engine.settings)
    z, t, lines = torch.randn(2, 16, 4, 4), torch.tensor(500), torch.rand(1, 3, 64, 64)
    both = text.encode_prompts(components, ["", "1girl"])

    def finest(weight: float = 1.0, favour: str = "both", **model: float) -> torch.Tensor:
        control = Control(net, lines, weight, mode=favour, **model)  # type: ignore[arg-type]
        with torch.no_grad():
            return control.residuals(z, t, both, guided=True)[0][0]

    plain = finest()
    half = finest(unconditional=0.5)
    assert torch.allclose(half[0], 0.5 * plain[0])
    assert torch.equal(half[1], plain[1])
    alone = finest(unconditional=0.0)
    assert not alone[0].any()
    assert torch.allclose(alone[1], plain[1], atol=1e-6)  # all details, not as in the guess mode
    stricter = finest(favour="sketch", unconditional=0.0)
    assert torch.allclose(stricter[1], STRICTER * plain[1], atol=1e-5)
    assert torch.allclose(finest(guided=0.5)[1], finest(0.5)[1])
    weighed, twice = Control(net, lines, unguided=2.0), Control(net, lines, 2.0)
    with torch.no_grad():
        middle = [each.residuals(z, t, both)[1] for each in (weighed, twice)]
    assert torch.allclose(*middle)


def test_the_embedded_models_facts_are_read() -> None:
    said = resolve("embedded", Settings()).control
    assert set(said) == {"guided", "unguided", "unconditional"}
    assert said["unconditional"] < 1


def test_the_benchmark_is_not_won_by_noise() -> None:
    lines = Image.new("L", (128, 128))
    ImageDraw.Draw(lines).ellipse((30, 30, 100, 100), outline=255)
    follows, noise = Image.new("RGB", (128, 128), "white"), np.random.default_rng(0).integers(0, 255, (128, 128, 3))
    ImageDraw.Draw(follows).ellipse((30, 30, 100, 100), fill="navy")
    found = benchmark.closer([lines], [follows], [Image.fromarray(noise.astype(np.uint8))])
    assert found["chamfer_pixels"] < found["chamfer_without_pixels"] < 1  # an edge of the noise is near every line
    assert found["chamfer_result_to_drawing_pixels"] < 1
    assert found["chamfer_without_result_to_drawing_pixels"] > 10
    assert found["chamfer_without_symmetric_pixels"] > 5
    assert found["times_closer_symmetric"] > 10
    own = control.control_image(follows, ControlSpec(image="own", kind="canny"))
    assert benchmark.chamfer(own, follows) == (0, 0)  # a picture lies nowhere off its own edges


def test_with_a_lora_and_on_the_fast_path(engine: Engine, home: Path) -> None:
    lora = LoraRef(path=str(home / "models" / "loras" / "style.safetensors"), weight=0.8)
    styled = steered(home).model_copy(update={"loras": (lora,), "lora_hashes": ("x",)})
    plain = pixels(engine, steered(home))
    assert not np.array_equal(pixels(engine, styled), plain)
    quick = steered(home).model_copy(update={"fast": True, "steps": 2, "guidance": 1.0, "sampler": "lcm"})
    fast = pixels(engine, quick)
    assert not np.array_equal(fast, pixels(engine, quick.model_copy(update={"control": None})))
    assert np.array_equal(pixels(engine, steered(home)), plain)  # everything is detached again


def test_a_controlnet_of_another_model_is_refused(engine: Engine, home: Path) -> None:
    other = tiny_sd(home / "other", controlnet=True, cross_attention_dim=16)
    with pytest.raises(BadInput, match="made for another kind of model"):
        pixels(engine, steered(home, model=str(other / "controlnet")))


@pytest.fixture
def studio(home: Path) -> Iterator[Studio]:
    studio = Studio(Settings(home=home, device="cpu", preview_every=0, model="tiny", offline=True))
    yield studio
    studio.close()


def test_a_job_draws_several_and_keeps_what_the_model_saw(studio: Studio) -> None:
    image = studio.upload(png(drawing()), "me").id
    base = GenerateSpec(model="tiny", seed=4, count=3, steps=2, guidance=3, prompt="1girl", negative="")
    spec = SketchSpec(base=base, control=ControlSpec(image=image, kind="canny"))
    job = studio.submit(spec, "me")
    done = studio.wait(job.id, "me", 120)
    assert done.state == "done", done.error
    stored = studio.picture(done.result["control_image"], "me")
    assert (stored.kind, stored.width, stored.height) == ("control", 64, 64)
    assert done.result["low"] < done.result["high"]
    drawn = [id for id in done.pictures if id != stored.id]
    seeds = [studio.picture(id, "me").recipe.seed for id in drawn]
    assert seeds == [4, 5, 6]
    live = studio.control_image(png(drawing()), ControlSpec(image="live", kind="canny"), "tiny")
    with Image.open(io.BytesIO(live.png)) as shown, Image.open(stored.path) as kept:
        assert np.array_equal(np.asarray(shown), np.asarray(kept))  # what was shown is what was used
    assert stored.id not in {picture.id for picture in studio.gallery("me")}
    assert stored.details == {"drawing": image}
    again = studio.wait(studio.submit(spec, "me").id, "me", 120)
    assert set(again.pictures) == set(done.pictures)
    assert set(again.cached) == set(drawn)
    assert studio.delete(drawn[:2], "me") == 2
    assert studio.picture(stored.id, "me")
    studio.delete(drawn[2:], "me")  # the last one that follows this drawing
    with pytest.raises(NotFound):
        studio.picture(stored.id, "me")
    assert studio.undo_delete("me") == 1
    assert studio.picture(stored.id, "me")


@pytest.mark.parametrize("kind", ["lines", "canny"])
def test_a_sketch_computes_its_control_image_once(studio: Studio, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    real, computed = control._extract, []

    def counted(*given: object) -> control.ControlImage:
        computed.append(given)
        return real(*given)

    monkeypatch.setattr(control, "_extract", counted)
    data = png(drawing(144))
    shown = studio.control_image(data, ControlSpec(image="live", kind=kind), "tiny")  # while it is drawn
    base = GenerateSpec(model="tiny", seed=4, count=2, steps=2, guidance=3, prompt="1girl", negative="")
    spec = SketchSpec(base=base, control=ControlSpec(image=studio.upload(data, "me").id, kind=kind))
    done = studio.wait(studio.submit(spec, "me").id, "me", 120)
    assert done.state == "done", done.error
    assert len(computed) == 1
    stored = studio.picture(done.result["control_image"], "me")
    with Image.open(io.BytesIO(shown.png)) as before, Image.open(stored.path) as kept:
        assert np.array_equal(np.asarray(before), np.asarray(kept))
    another = studio.upload(png(drawing(160)), "me").id
    other = spec.model_copy(update={"control": ControlSpec(image=another, kind=kind)})
    assert studio.wait(studio.submit(other, "me").id, "me", 120).state == "done"
    assert len(computed) == 2, "another drawing is another control image"


def test_an_empty_drawing_is_refused_before_it_waits(studio: Studio) -> None:
    white = png(Image.new("RGB", (64, 64), "white"))
    with pytest.raises(BadInput, match="The drawing is empty"):
        studio.control_image(white, ControlSpec(image="live"), "tiny")
    image = studio.upload(white, "me").id
    before = len(studio.jobs("me"))
    sentence = "The drawing is empty; draw a few lines first, or choose another picture."
    for net in (None, str(studio.settings.home / "models" / "tiny" / "controlnet")):
        control = ControlSpec(image=image, model=net)
        for spec in (SketchSpec(base=BLANK, control=control), BLANK.model_copy(update={"control": control})):
            with pytest.raises(BadInput, match=sentence):
                studio.submit(spec, "me")
    assert len(studio.jobs("me")) == before
    behind = Studio(studio.settings.model_copy(update={"named_only": True}))
    client = TestClient(app.create(behind.settings, behind), "http://localhost")
    sent = client.post("/images", files={"file": ("white.png", white, "image/png")}).json()["id"]
    answer = client.post("/jobs", json={"kind": "sketch", "base": {"model": "tiny"}, "control": {"image": sent}})
    assert (answer.status_code, answer.json()["error"]) == (422, sentence)
    behind.close()


def test_a_canvas_is_kept_for_its_owner(studio: Studio) -> None:
    assert studio.canvas("me/../you") == {}
    studio.save_canvas({"strokes": {"objects": [1]}}, "me/../you")
    assert studio.canvas("me/../you") == {"strokes": {"objects": [1]}}
    assert studio.canvas("you") == {}
    with pytest.raises(BadInput, match="too many strokes"):
        studio.save_canvas({"strokes": "x" * 9_000_000}, "me/../you")
    assert studio.canvas("me/../you") == {"strokes": {"objects": [1]}}


def test_a_canvas_on_a_full_disk_is_one_sentence(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    studio.save_canvas({"strokes": 1}, "full")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DiskFull):
            studio.save_canvas({"strokes": 2}, "full")
    assert studio.canvas("full") == {"strokes": 1}


def test_two_tabs_may_keep_one_canvas_at_once(studio: Studio) -> None:
    faults: list[Exception] = []

    def keep(tab: int) -> None:
        try:
            for number in range(40):
                studio.save_canvas({"strokes": [tab, number]}, "tabs")
        except Exception as fault:
            faults.append(fault)

    tabs = [threading.Thread(target=keep, args=(tab,)) for tab in range(4)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert not faults
    assert studio.canvas("tabs")["strokes"][1] == 39


def test_the_verb(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    out = home / "out"
    for name, value in (("HOME", home), ("DEVICE", "cpu"), ("MODEL", "tiny"), ("OFFLINE", "true")):
        monkeypatch.setenv(f"STUDIO_{name}", str(value))
    settings.cache_clear()

    def run(*arguments: str) -> tuple[int, list[str], list[str]]:
        capfd.readouterr()
        code = main(["sketch", *arguments, "--json"])
        said = capfd.readouterr()
        return code, said.out.strip().splitlines(), said.err.strip().splitlines()

    code, shown, errors = run(
        "--image", str(home / "drawing.png"), "--prompt", "1girl", "--seed", "7", "--steps", "2", "--count", "2",
        "--control", "canny", "--weight", "0.8", "--guidance", "3", "--negative", "hat", "--out", str(out),
    )  # fmt: skip
    assert code == 0, errors
    answer = json.loads(shown[-1])
    assert [image["seed"] for image in answer["images"]] == [7, 8]
    with Image.open(answer["control_image"]) as lines:
        assert lines.size == (64, 64)
        assert Path(answer["control_image"]).parent == out.resolve()
    with Image.open(answer["images"][0]["path"]) as drawn:
        recipe = json.loads(drawn.info["studio"])
    assert (recipe["guidance"], recipe["negative"]) == (3, "hat")

    Image.new("RGB", (64, 64), "black").save(home / "black.png")
    code, _, errors = run("--image", str(home / "black.png"))
    assert code == 2
    assert errors[-1].startswith("The drawing is black; draw a few lines first")
    settings.cache_clear()
