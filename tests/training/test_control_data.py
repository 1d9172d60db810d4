"""The embedded ControlNet's data: three control images of each painted drawing, held-out drawings apart."""

from __future__ import annotations

import json
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from studio.pretraining import controlnet
from studio.pretraining.corpus import paint_shard, specs
from studio.pretraining.painter import paint
from studio.training.controlnet import dataset


def test_a_painted_shard_becomes_control_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controlnet, "HELD_OUT", 2)
    monkeypatch.setattr(controlnet, "MEASURED", 1)
    (tmp_path / "data").mkdir()
    paint_shard(tmp_path / "data", 100, 5, "full")
    (tmp_path / "z").mkdir()
    z = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 16, 16, 16).half().contiguous()
    save_file({"latents": z}, tmp_path / "z" / "z100.safetensors")
    (tmp_path / "z" / "channels.json").write_text(json.dumps({"weights": [1.0] * 16}))
    places = (tmp_path / "data", tmp_path / "z", tmp_path / "out", "100", None)
    assert controlnet.prepare_shard(*places) is not None
    assert controlnet.prepare_shard(*places) is None  # complete already
    stuff = dataset.read(tmp_path / "out")
    assert (len(stuff), stuff.kinds) == (4, 3)
    # three that are trained on, then one of the two that are not: the run holds out what comes last
    assert stuff.latents[:, 0, 0, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert stuff.weight is not None
    assert stuff.weight.float().mean((1, 2, 3)).tolist() == pytest.approx([1.0] * 4, abs=0.01)
    assert all(len(own) == controlnet.CAPTIONS for own in stuff.captions)
    edges, lines, few = stuff.controls([0, 0, 0], [0, 1, 2])
    assert edges.shape == (3, 256, 256)
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    assert lines.sum() > few.sum() > 0


def test_a_first_sketch_is_part_of_the_drawing() -> None:
    spec = specs(100, 1, "full")[0]
    painted = np.asarray(paint(spec, 256, 7))
    images = controlnet.control_images(painted, spec, 7, random.Random(3))
    assert images.dtype == np.uint8
    lines, few = images[1].astype(int), images[2].astype(int)
    assert ((few == lines) | (few == 0)).all()
    kept = [np.count_nonzero(controlnet.sparse(images[1], random.Random(k))) for k in range(6)]
    assert len(set(kept)) > 1
    again = controlnet.control_images(painted, spec, 7, random.Random(3))
    assert np.array_equal(images, again)


def test_control_lines_of_a_bent_painting_lie_on_its_edges(tmp_path: Path) -> None:
    paint_shard(tmp_path, 200, 8, "bent")
    rows, painted = json.loads((tmp_path / "m200.json").read_text()), np.load(tmp_path / "p200.npy")
    assert all(0 <= row["bent"][0] <= 3 for row in rows)
    number = max(range(8), key=lambda k: rows[k]["bent"][0])
    row = rows[number]
    assert row["bent"][0] > 2

    def off(bent: tuple[float, int] | None) -> float:
        edges, lines, _ = controlnet.control_images(
            painted[number], specs(200, 8, "bent")[number], row["paint_seed"], random.Random(1), bent
        )
        distance = cv2.distanceTransform((edges == 0).astype(np.uint8), cv2.DIST_L2, 5)
        return float((distance[lines > 128] > 2).mean())  # some lines have no edge: what lies in the shade

    assert off(tuple(row["bent"])) < 0.7 * off(None)
