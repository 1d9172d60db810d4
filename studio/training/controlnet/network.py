"""The network that a ControlNet run trains, and the folder that it leaves. Knows no data and no loss."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import ControlNetModel

from studio.core.settings import Settings
from studio.core.specs import ControlRunSpec
from studio.engine.models.components import Components
from studio.engine.models.controlnets import KINDS, controlnet
from studio.runs.rundir import RunDir
from studio.training.export.folder import fresh_folder, replace_folder
from studio.training.runtime import steps
from studio.training.runtime.runtime import Runtime

# Channels of the small network that reads the drawing, from its full size on, one more per halving (section 3.2)
STANDARD = (16, 32, 96, 256)  # SD 1.5's, so that every tool loads the result
WIDTHS = (8, 16, 32, 64, 96)


def first_network(
    runtime: Runtime, spec: ControlRunSpec, model: Components, config: Settings, resumed: bool
) -> ControlNetModel:
    """What a run begins with, and trains: a copy of the UNet's first half, or another ControlNet to go on from.

    `resumed`: there is a whole checkpoint. Only the shape is needed then, which is kept in the run's folder: what the
    run went on from may be gone.
    """
    session = runtime.session
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(steps.generator(spec.seed, "init").initial_seed())
        net = new_controlnet(model)
    shape = session.run.path / "controlnet.json"
    if resumed and shape.exists():
        net = ControlNetModel.from_config(json.loads(shape.read_text(encoding="utf-8")))
    elif spec.init in KINDS and spec.init not in model.info.controlnets:
        session.log(f"{model.info.title} has no ControlNet for {spec.init}: a copy of the UNet begins.", note=True)
    elif spec.init is not None:
        net = controlnet(model, spec.init, config, session.log)
        model.controls.clear()  # it isn't part of the frozen model
    if runtime.main and not resumed:
        shape.write_text(net.to_json_string(), encoding="utf-8")
    return net.float().requires_grad_(True)


def new_controlnet(components: Components) -> ControlNetModel:
    """A copy of the UNet's first half that changes nothing yet.

    It reads drawings in the pictures' own size, with one halving for each of the VAE's. Only the layers that lead back
    into the UNet begin at zero. The drawing's own last layer does not, as it does in the paper: with zeros at both ends
    neither learns before the other, and a small network takes thousands of steps to notice that there is a drawing.
    """
    halvings = components.factor.bit_length() - 1
    widths = STANDARD if halvings == len(STANDARD) - 1 else WIDTHS[: halvings + 1]
    net = ControlNetModel.from_unet(components.unet, conditioning_embedding_out_channels=widths)
    heads = components.unet.config.addition_embed_type_num_heads
    if net.config.addition_embed_type_num_heads != heads:  # `from_unet` leaves it at the class's default
        plain = {key: value for key, value in net.config.items() if not key.startswith("_")}
        whole = ControlNetModel.from_config(plain | {"addition_embed_type_num_heads": heads})
        whole.load_state_dict(net.state_dict())
        net = whole
    torch.nn.init.kaiming_normal_(net.controlnet_cond_embedding.conv_out.weight, nonlinearity="linear")
    return net


def export(run: RunDir, spec: ControlRunSpec, net: ControlNetModel) -> Path:
    """`adapter/controlnet/`, a diffusers folder in half precision: to be given as `ControlSpec.model`."""
    final = run.adapter / "controlnet"
    fresh = fresh_folder(final)
    # without the place where this machine had what it was gone on from
    small = ControlNetModel.from_config({key: value for key, value in net.config.items() if not key.startswith("_")})
    small.load_state_dict(net.state_dict())
    small.half().save_pretrained(fresh, safe_serialization=True)
    if spec.license:
        (fresh / "LICENSE.txt").write_text(spec.license + "\n", encoding="utf-8")
    replace_folder(final, fresh)
    return final
