"""ControlNets as files: pickles refused, a replaced one is another, one at a time, off the card when parts are."""

from __future__ import annotations

import gc
import io
import pickle
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from support.checkpoints import tiny_sd

from studio.core.errors import BadInput, NotFound, OutOfMemory
from studio.core.settings import Settings
from studio.core.specs import ControlSpec, GenerateSpec, Recipe
from studio.engine import memory, optimizations
from studio.engine.engine import Components, load
from studio.engine.models import controlnets, loading
from studio.engine.models.catalogue import resolve
from studio.engine.models.controlnets import controlnet
from studio.features.sketch.spec import SketchSpec
from studio.service import Studio


def drawing() -> bytes:
    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).ellipse((25, 25, 100, 110), outline="black", width=3)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tiny_sd(tmp_path / "models" / "tiny", controlnet=True)
    return tmp_path


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home=home, device="cpu", preview_every=0, model="tiny", offline=True, _env_file=None)


@pytest.fixture
def studio(settings: Settings) -> Iterator[Studio]:
    studio = Studio(settings)
    yield studio
    studio.close()


@pytest.fixture
def parts(settings: Settings) -> Components:
    return load(resolve("tiny", settings), settings)


def another(net: Path, to: Path) -> Path:
    """The same ControlNet with other weights."""
    shutil.copytree(net, to)
    change(to)
    return to


def change(net: Path) -> None:
    file = net / "diffusion_pytorch_model.safetensors"
    weights = {name: tensor + 0.01 for name, tensor in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["net.pth", "net.ckpt", "net.safetensors", "zipped.safetensors"])
def test_a_pickled_controlnet_is_refused_and_never_opened(
    parts: Components, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, mark = tmp_path / name, tmp_path / "exploded"
    if name.startswith("zipped"):
        torch.save({"weight": torch.zeros(1)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(mark)))
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: pytest.fail("it was unpickled"))
    for use in (
        lambda: loading.load_controlnet(path, torch.float32),
        lambda: controlnet(parts, str(path), settings),
        lambda: loading._from_file(path, parts.family, torch.float32),
        lambda: controlnets.find(str(path), settings),
    ):
        with pytest.raises(BadInput, match="pickle"):
            use()
    assert not mark.exists()


def test_a_pickled_controlnet_is_refused_before_anything_is_queued(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(pickle.dumps({}))
    image = studio.upload(drawing(), "me").id
    for net, error in ((str(tmp_path / "net.pth"), BadInput), (str(tmp_path / "gone.safetensors"), NotFound)):
        spec = SketchSpec(base=GenerateSpec(model="tiny", steps=1), control=ControlSpec(image=image, model=net))
        with pytest.raises(error):
            studio.submit(spec, "me")
    assert not studio.jobs("me")


def test_a_replaced_controlnet_draws_anew(studio: Studio, home: Path) -> None:
    net = another(home / "models" / "tiny" / "controlnet", home / "net")
    image = studio.upload(drawing(), "me").id

    def drawn(place: Path = net) -> tuple[str, Recipe]:
        base = GenerateSpec(model="tiny", seed=4, steps=2, guidance=3, prompt="1girl", negative="")
        spec = SketchSpec(base=base, control=ControlSpec(image=image, model=str(place)))
        job = studio.wait(studio.submit(spec, "me").id, "me", 120)
        assert job.state == "done", job.error
        (id,) = [id for id in job.pictures if id != job.result["control_image"]]
        recipe = studio.picture(id, "me").recipe
        assert recipe is not None
        return id, recipe

    first, recipe = drawn()
    assert len(recipe.control_hash) == 64
    assert drawn()[0] == first
    moved = Path(shutil.copytree(net, home / "elsewhere"))
    assert drawn(moved)[0] == first  # the same net under another name
    pixels = studio.picture(first, "me").path.read_bytes()
    change(net)
    second, other = drawn()
    assert second != first
    assert other.control_hash != recipe.control_hash
    with Image.open(io.BytesIO(pixels)) as before, Image.open(studio.picture(second, "me").path) as after:
        assert before.tobytes() != after.tobytes()  # nor does the loaded one go on serving


def test_recipes_from_before_keep_their_keys() -> None:
    old = Recipe.model_validate_json(
        '{"model": "m", "model_hash": "h", "prompt": "p", "seed": 1, "steps": 2, "guidance": 3, "sampler": "ddim", '
        '"width": 64, "height": 64, "control": {"image": "x"}}'
    )
    assert old.control_hash == ""
    assert old.key == "4285f5057ce73c6493e4863a52ef37d6"
    plain = old.model_copy(update={"control": None})
    assert plain.key != old.key
    assert old.model_copy(update={"control_hash": "a" * 64}).key != old.key


def test_one_controlnet_at_a_time(parts: Components, settings: Settings, home: Path) -> None:
    first = controlnet(parts, "lines", settings)
    assert controlnet(parts, "canny", settings) is first
    other = another(home / "models" / "tiny" / "controlnet", home / "net")
    gone = weakref.ref(first)
    del first
    second = controlnet(parts, str(other), settings)
    gc.collect()
    assert gone() is None, "the one from before is freed"
    assert list(parts.controls.values()) == [second]


# --- a small card -----------------------------------------------------------------------------------------------------


def offloaded(settings: Settings) -> Components:
    """A model whose parts go to their device only while they work; the device is the CPU, for want of a card."""
    parts = load(resolve("tiny", settings), settings)
    for part in (parts.text_encoder, parts.unet, parts.vae):
        assert not hasattr(part, "_hf_hook")
    plan = optimizations.plan(settings, 0)
    optimizations.apply(parts, type(plan)(**(vars(plan) | {"offload": True})))
    return parts


def test_an_offloaded_controlnet_leaves_with_the_unet(
    settings: Settings, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.hooks import CpuOffload

    parts = offloaded(settings)
    moves: list[str] = []
    real = ControlNetModel.to
    monkeypatch.setattr(
        ControlNetModel, "to", lambda net, *to, **how: moves.append(str(to[0])) or real(net, *to, **how)
    )
    net = controlnet(parts, "lines", settings)
    assert isinstance(net._hf_hook, CpuOffload)
    assert net._hf_hook.execution_device == parts.device
    assert set(moves) == {"cpu"}, "it waits in main memory"
    moves.clear()
    decoder = parts.vae._hf_hook
    assert decoder.prev_module_hook.model is parts.unet
    decoder.prev_module_hook.offload()  # what the decoder does first, when the UNet is on the card
    assert moves == ["cpu"]
    # the UNet's turn doesn't send it away: they take turns at every step
    assert parts.unet._hf_hook.prev_module_hook.model is parts.text_encoder
    other = controlnet(parts, str(another(home / "models" / "tiny" / "controlnet", home / "net")), settings)
    assert decoder.prev_module_hook.hook.net is other
    assert decoder.prev_module_hook.model is parts.unet


def test_memory_counts_the_controlnet(parts: Components, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, before = memory.step_bytes(parts, 64, 64, True), memory.parameters(parts)
    net = controlnet(parts, "lines", settings)
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    assert memory.parameters(parts) == before + weights
    assert memory.waiting_bytes(parts) == 0  # it is where it works
    assert memory.step_bytes(parts, 64, 64, True) > alone
    parts.controls.clear()
    assert memory.step_bytes(parts, 64, 64, True) == alone


def test_a_card_has_room_for_fewer_pictures_beside_a_controlnet(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = offloaded(settings)
    parts.device = torch.device("cuda")  # only asked for its name
    unet = sum(p.numel() * p.element_size() for p in parts.unet.parameters())
    assert memory.waiting_bytes(parts) == unet
    step, decode = memory.step_bytes(parts, 64, 64, True), memory.decode_bytes(parts, 64, 64)
    room = unet + 8 * max(step, decode)
    monkeypatch.setattr(memory, "free", lambda device: room / memory.SHARE + 1)
    most = memory.batch_size(parts, 64, 64, True, 16)
    assert most > 1
    net = loading.load_controlnet(Path(parts.info.controlnets["lines"]), torch.float32)
    parts.controls["x"] = net
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    assert memory.waiting_bytes(parts) == unet + weights
    monkeypatch.setattr(memory, "free", lambda device: (room + weights) / memory.SHARE + 1)
    assert 1 <= memory.batch_size(parts, 64, 64, True, 16) <= most
    monkeypatch.setattr(memory, "free", lambda device: (unet + weights) / memory.SHARE)
    with pytest.raises(OutOfMemory, match="needs about"):
        memory.batch_size(parts, 64, 64, True, 16)
