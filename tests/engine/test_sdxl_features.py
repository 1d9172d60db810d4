"""What a picture of SDXL can be made with beside its prompt: LoRAs, drawings, pictures to start from, frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from support.checkpoints import randomise, tiny_sd, unet_key
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.core.specs import MaskSpec, Recipe
from studio.engine.diffusion import sampling, schedulers, text
from studio.engine.diffusion.control import UNION, Control
from studio.engine.engine import Engine
from studio.engine.models import adapters, loading
from studio.engine.models.components import Components
from studio.engine.motion.animation import Animation, Still
from studio.engine.motion.morph import PromptMorph
from studio.engine.motion.timing import Mix

PROMPT, NEGATIVE = "1girl, red hair, blue eyes", "long dress"
SIZE = (64, 64)


@pytest.fixture(scope="module")
def engine(sdxl: Path) -> Engine:
    return Engine(Settings(home=sdxl.parent.parent, device="cpu", offline=True, preview_every=1))


@pytest.fixture(scope="module")
def components(engine: Engine) -> Components:
    return engine.components("sdxl")


def recipe(**fields: object) -> Recipe:
    values = {"prompt": PROMPT, "negative": NEGATIVE, "seed": 1, "steps": 3, "guidance": 3.0, "sampler": "ddim"}
    return Recipe(**{"model": "sdxl", "model_hash": "", "width": 64, "height": 64, **values, **fields})


def drawing() -> Image.Image:
    image = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(image).ellipse((12, 12, 50, 50), outline="black", width=3)
    return image


# --- LoRAs ------------------------------------------------------------------------------------------------------------

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "conv1", "time_emb_proj", "linear_1"]


@pytest.fixture(scope="module")
def trained(components: Components) -> dict[str, tuple[torch.nn.Module, dict[str, torch.Tensor]]]:
    """Of each part another copy with a LoRA attached by peft, and the tensors of that."""
    folder, made = components.info.path, {}
    parts: dict[str, tuple[Callable, list[str]]] = {
        "unet": (type(components.unet).from_pretrained, TARGETS),
        "text_encoder": (CLIPTextModel.from_pretrained, ["q_proj", "out_proj", "fc1"]),
        "text_encoder_2": (CLIPTextModelWithProjection.from_pretrained, ["q_proj", "out_proj", "fc1"]),
    }
    torch.manual_seed(3)
    for part, (load, targets) in parts.items():
        module = load(folder / part).eval()
        module.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=targets))
        made[part] = (module, get_peft_model_state_dict(module))
    return made


def diffusers_names(part: str, key: str) -> str:
    return f"{part}.{key}"


def kohya_names(part: str, key: str, original: bool) -> str:
    """kohya's name, for a UNet with the blocks of the original layout (SGM's) or with those of diffusers."""
    layer, half = key.removesuffix(".weight").rsplit(".", 1)
    if part == "unet" and original:
        layer = layer.replace("add_embedding.linear_1", "label_emb.0.0")
        layer = layer if layer.startswith("label_emb") else unet_key(f"{layer}.weight", 2, (True, True, False))
        layer = layer.removesuffix(".weight")
    if part != "unet" and not layer.startswith("text_model."):
        layer = f"text_model.{layer}"
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}[part]
    return f"{prefix}{layer.replace('.', '_')}.lora_{'down' if half == 'lora_A' else 'up'}.weight"


@pytest.mark.parametrize("style", ["diffusers", "kohya", "kohya, original names"])
def test_a_lora_on_all_three_parts(components: Components, trained, tmp_path: Path, style: str) -> None:
    tensors = {}
    for part, (_, layers) in trained.items():
        for key, value in layers.items():
            name = diffusers_names(part, key) if style == "diffusers" else kohya_names(part, key, "orig" in style)
            tensors[name] = value.contiguous()
    save_file(tensors, tmp_path / "ink.safetensors")
    torch.manual_seed(5)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor(500)
    ids = components.tokenizer(PROMPT, padding="max_length", return_tensors="pt").input_ids
    plain = text.encode_prompts(components, [PROMPT], SIZE)

    def outputs(unet, first, second) -> list[torch.Tensor]:
        with torch.no_grad():
            row = text.encode_prompts(components, [PROMPT], SIZE)
            noise = unet(x, t, plain.embeddings, added_cond_kwargs=plain.added_cond_kwargs).sample
            return [noise, first(ids)[0], second(ids).text_embeds, row.embeddings, row.pooled]

    before = outputs(components.unet, components.text_encoder, components.text_encoder_2)
    with adapters.attached(components, [(tmp_path / "ink.safetensors", 1.0)]):
        ours = outputs(components.unet, components.text_encoder, components.text_encoder_2)
    theirs = outputs(*(module for module, _ in trained.values()))
    for mine, other, was in zip(ours[:3], theirs[:3], before[:3], strict=True):
        assert float((mine - other).abs().max()) <= 1e-5
        assert float((mine - was).abs().max()) > 1e-3
    assert not torch.equal(ours[3], before[3])
    assert not torch.equal(ours[4], before[4])
    after = outputs(components.unet, components.text_encoder, components.text_encoder_2)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_a_lora_of_the_other_family_is_refused_by_name(components: Components, trained, tmp_path: Path) -> None:
    xl = {kohya_names(part, key, False): value.contiguous() for part, (_, own) in trained.items()
          for key, value in own.items()}  # fmt: skip
    save_file(xl, tmp_path / "xl.safetensors")
    folder = tiny_sd(tmp_path / "models" / "sd1", factor=8, latent_channels=4, addition_embed_type=None)
    sd1 = Engine(Settings(home=tmp_path, device="cpu", offline=True)).components("sd1")
    with pytest.raises(BadInput, match=r"another kind of model \(SDXL\)"), \
            adapters.attached(sd1, [(tmp_path / "xl.safetensors", 1.0)]):  # fmt: skip
        pass
    unet = type(sd1.unet).from_pretrained(folder / "unet")
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"]))
    tensors = {kohya_names("unet", key, False): v.contiguous() for key, v in get_peft_model_state_dict(unet).items()}
    save_file(tensors, tmp_path / "sd1.safetensors")
    with pytest.raises(BadInput, match=r"another kind of model \(Stable Diffusion 1.5 or 2\)"), \
            adapters.attached(components, [(tmp_path / "sd1.safetensors", 1.0)]):  # fmt: skip
        pass


# --- pictures and drawings --------------------------------------------------------------------------------------------


def theirs(components: Components, cls, **parts):
    one = components
    made = cls(
        one.vae, one.text_encoder, one.text_encoder_2, one.tokenizer, one.tokenizer_2, one.unet,
        scheduler=schedulers.make_scheduler("ddim", one.scheduler_config), add_watermarker=False, **parts,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


HOW = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 3.0, "output_type": "latent"}


def test_image_to_image_is_the_pipelines(components: Components) -> None:
    pipeline = theirs(components, StableDiffusionXLImg2ImgPipeline)
    other = pipeline(
        image=drawing(), strength=0.6, num_inference_steps=5, generator=sampling.generators([2])[0], **HOW
    ).images
    ours = sampling.sample_latents(
        components, [PROMPT], [2], sampler="ddim", steps=5, guidance=3.0, size=SIZE, negatives=[NEGATIVE],
        source=drawing(), strength=0.6,
    )  # fmt: skip
    assert torch.equal(ours, other)


def test_a_controlnet_is_the_pipelines(components: Components) -> None:
    net = ControlNetModel.from_pretrained(components.info.path / "controlnet").eval()
    pipeline = theirs(components, StableDiffusionXLControlNetPipeline, controlnet=net)
    other = pipeline(
        image=drawing(), num_inference_steps=3, generator=sampling.generators([2])[0],
        controlnet_conditioning_scale=0.8, **HOW,
    ).images  # fmt: skip
    image = torch.from_numpy(np.asarray(drawing(), np.float32) / 255).permute(2, 0, 1)[None]
    ours = sampling.sample_latents(
        components, [PROMPT], [2], sampler="ddim", steps=3, guidance=3.0, size=SIZE, negatives=[NEGATIVE],
        control=Control(net, image, 0.8),
    )  # fmt: skip
    assert torch.equal(ours, other), (ours - other).abs().max()


def test_a_network_for_several_kinds_of_drawing_is_told_which(components: Components, tmp_path: Path) -> None:
    config = {key: value for key, value in components.unet.config.items() if key in (
        "block_out_channels", "down_block_types", "layers_per_block", "transformer_layers_per_block",
        "attention_head_dim", "cross_attention_dim", "use_linear_projection", "norm_num_groups", "addition_embed_type",
        "addition_time_embed_dim", "projection_class_embeddings_input_dim")}  # fmt: skip
    torch.manual_seed(0)
    net = ControlNetUnionModel(
        **config,
        conditioning_embedding_out_channels=(4, 4, 4, 8),
        num_trans_channel=8,
        num_trans_head=2,
        num_proj_channel=8,
    )
    randomise(net, torch.Generator().manual_seed(1))
    net.save_pretrained(tmp_path / "union")
    loaded = loading.load_controlnet(tmp_path / "union", torch.float32).eval()
    assert isinstance(loaded, ControlNetUnionModel)
    both = text.encode_prompts(components, [NEGATIVE, PROMPT], SIZE)
    x, t, image = torch.randn(2, 4, 8, 8), torch.tensor(500), torch.rand(1, 3, 64, 64)
    seen = []
    for kind in ("lines", "scribble"):
        down, middle = Control(loaded, image, 0.5, kind=kind).residuals(x, t, both, guided=True)
        chosen = torch.eye(6)[UNION[kind]].expand(2, -1)
        with torch.no_grad():
            expected, last = loaded(
                x, t, both.embeddings, [image.expand(2, -1, -1, -1)], chosen, [UNION[kind]], 0.5,
                added_cond_kwargs=both.added_cond_kwargs, return_dict=False,
            )  # fmt: skip
        assert all(torch.equal(a, b) for a, b in zip([*down, middle], [*expected, last], strict=True))
        seen.append(middle)
    assert not torch.equal(*seen)


def test_a_mask_keeps_what_is_outside(engine: Engine, tmp_path: Path) -> None:
    drawing().save(tmp_path / "source.png")
    mask = Image.new("L", SIZE)
    ImageDraw.Draw(mask).rectangle((16, 16, 47, 47), fill=255)
    mask.save(tmp_path / "mask.png")
    spec = MaskSpec(image=str(tmp_path / "mask.png"), area="whole", feather=1)
    previews = []
    one = recipe(source=str(tmp_path / "source.png"), mask=spec, strength=0.9)
    picture = dict(engine.draw([one], lambda step: previews.append(step.preview)))[0]
    outside = np.asarray(mask) == 0
    assert np.array_equal(np.asarray(picture)[outside], np.asarray(drawing())[outside])
    assert not np.array_equal(np.asarray(picture), np.asarray(drawing()))
    assert any(preview is not None for preview in previews)


# --- frames -----------------------------------------------------------------------------------------------------------


def test_frames_of_morphs_and_animations(components: Components) -> None:
    """The first frame of a morph is the picture of its first prompt; frames of an animation follow their texts."""
    recipes = [recipe(prompt=f"1girl, red hair, {emotion}") for emotion in ("happy", "sad")]
    frames = list(PromptMorph(components, recipes, shared_steps=0.0).draw([0.0, 1.0]))
    one = sampling.sample_latents(
        components, [text.shared_tags_first([each.prompt for each in recipes])[0]], [1], sampler="ddim", steps=3,
        guidance=3.0, size=SIZE, negatives=[NEGATIVE],
    )  # fmt: skip
    from studio.engine.diffusion import latents

    assert np.abs(np.asarray(frames[0], int) - np.asarray(latents.decode(components, one)[0], int)).max() <= 1
    assert not np.array_equal(*map(np.asarray, frames))
    stills = [Still(Mix("happy", "sad", amount), 0.6) for amount in (0.0, 1.0)]
    emotions = {"happy": recipes[0], "sad": recipes[1]}
    moved = dict(Animation(components, emotions, stills, drawing()).draw([0, 1]))
    assert moved[0].size == SIZE
    assert not np.array_equal(np.asarray(moved[0]), np.asarray(moved[1]))
