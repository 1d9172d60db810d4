"""The head that tells clean latents from melted ones, taught on latents whose cleanness is known."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from studio.evaluation.quality import Quality, QualityNetwork
from studio.pretraining import HELD_OUT, quality


def latents(count: int, melted: float, seed: int) -> torch.Tensor:
    """Flat areas with one edge, and a grain of 2 `melted` over them."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, 16, 1, 1, generator=generator).expand(-1, -1, 16, 16).clone()
    z[..., 8:] *= -1
    return z + 2 * melted * torch.randn(count, 16, 16, 16, generator=generator)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A head trained on such latents, by the command."""
    folder = tmp_path_factory.mktemp("quality")
    count = HELD_OUT + 200
    kinds = {kind: latents(count, 1 - target, k) for k, (kind, target) in enumerate(quality.TARGETS.items())}
    tensors = {name: kinds[name] for name in ("clean", "drawn")}
    tensors["mended"] = torch.stack([kinds["mended-0"], kinds["mended-1"], kinds["mended-1"]], 1)
    save_file({name: t.half().contiguous() for name, t in tensors.items()}, folder / "x120.safetensors")
    argv, sys.argv = (
        sys.argv,
        ["quality", "--latents", f"{folder}", "--out", f"{folder / 'head'}", "--steps", "120", "--rate", "3e-3"],
    )
    try:
        quality.cli()
    finally:
        sys.argv = argv
    return Quality.load(folder / "head")


def test_scores_fall_with_what_is_wrong(taught) -> None:
    means = [sum(taught(latents(40, melted, 99))) / 40 for melted in (0.0, 0.4, 0.8)]
    assert means[0] > means[1] + 0.1
    assert means[1] > means[2] + 0.1


def test_the_threshold_refuses_the_share_that_was_asked_for(taught) -> None:
    drawn = latents(400, 1 - quality.TARGETS["drawn"], 77)
    refused = sum(score < taught.threshold for score in taught(drawn)) / 400
    assert 0.04 < refused < 0.25  # 0.12 of a hundred others


def test_a_score_is_of_the_picture_alone_and_survives_the_file(taught, tmp_path) -> None:
    z = latents(5, 0.4, 5)
    together = taught(z)
    assert together == [taught(z[k : k + 1])[0] for k in range(5)]
    assert together == taught(z)  # the same grain at every look
    taught.save(tmp_path)
    assert Quality.load(tmp_path)(z) == together  # the weights were in half precision before


def test_the_head_is_small_and_takes_any_size() -> None:
    network = QualityNetwork(16).eval()
    assert sum(p.numel() for p in network.parameters()) < 300_000
    assert network(torch.zeros(2, 16, 32, 24)).shape == (2,)
