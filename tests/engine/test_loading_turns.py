"""Two threads that load at once: what the libraries replace in torch meanwhile is put back."""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from support.checkpoints import tiny_sd

from studio.core.settings import Settings
from studio.engine.models.catalogue import resolve
from studio.engine.models.loading import load_parts


def test_networks_made_afterwards_have_weights(tmp_path: Path) -> None:
    tiny_sd(tmp_path / "models" / "tiny")
    info = resolve("tiny", Settings(home=tmp_path))
    start, parts, errors = threading.Barrier(4), [], []

    def load() -> None:
        start.wait()
        try:
            parts.append(load_parts(info, torch.float32))
        except Exception as error:
            errors.append(error)

    before = torch.nn.Module.register_parameter
    for _ in range(3):
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert torch.nn.Module.register_parameter is before
    assert not any(p.is_meta for each in parts for p in each["unet"].parameters())
    assert not torch.nn.Linear(2, 2).weight.is_meta
