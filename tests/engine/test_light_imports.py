"""Drawing loads neither torch's compiler nor peft nor sympy, and whoever needs them afterwards has them whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.checkpoints import tiny_sd

from studio.core.settings import REPOSITORY

DRAW = """
import sys
from pathlib import Path
from studio.core.settings import Settings
from studio.core.specs import Recipe
from studio.engine.engine import Engine
engine = Engine(Settings(home=Path(sys.argv[1]), device="cpu"))
recipe = Recipe(model="tiny", model_hash="", prompt="1girl", negative="", seed=5, steps=2, guidance=3.0,
                sampler="dpmpp_2m", width=64, height=64)
assert len(list(engine.draw([recipe]))) == 1
heavy = {"torch._dynamo", "peft", "torch._inductor", "torch.distributed.tensor", "sympy"} & set(sys.modules)
assert not heavy, heavy
"""
AFTERWARDS = """
import torch
from diffusers.loaders.lora_base import BaseTunerLayer
unet = engine.components("tiny").unet
assert not any(isinstance(layer, BaseTunerLayer) for layer in unet.modules())
assert "peft" not in sys.modules, "to compare with its layers needs none of it"
from peft import LoraConfig
unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
assert any(isinstance(layer, BaseTunerLayer) for layer in unet.modules())
unet.disable_adapters()
x = torch.ones(4)
assert torch.equal(torch.compile(lambda y: y * 2, backend="eager")(x), x * 2)
import torch._dynamo
from torch.distributed.tensor import DTensor
from transformers.utils import is_torch_distributed_available
assert is_torch_distributed_available() == torch.distributed.is_available()
encoder = engine.components("tiny").text_encoder
assert torch.equal(encoder.embeddings.position_ids.flatten(), torch.arange(encoder.config.max_position_embeddings))
assert callable(torch._dynamo.reset) and hasattr(torch._dynamo.config, "recompile_limit")
"""


def test_a_picture_needs_neither(tmp_path: Path) -> None:
    tiny_sd(tmp_path / "models" / "tiny")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRAW + AFTERWARDS, str(tmp_path)], cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
