"""Numbers about sets of pictures. Pure functions on tensors and counts; knows no model and no file."""

from __future__ import annotations

import math

import torch


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Frechet distance of two Gaussians fitted to features (n, d) and (m, d) (1706.08500, eq. 6).

    With fewer samples than dimensions the covariances are singular and the figure is biased upwards: compare only
    figures from equal n. The matrix square root goes through the eigenvalues of C_a^(1/2) C_b C_a^(1/2).
    """
    a, b = a.double(), b.double()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float(mean + cov_a.trace() + cov_b.trace() - 2 * cross)


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a proportion (Wilson, 1927); z = 1.96 for 95 %. n = 0 gives (0, 1)."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def sharpness(x: torch.Tensor) -> torch.Tensor:
    """Mean squared Laplacian of the luminance, (n,), for pictures (n, 3, h, w) in -1..1. Ghosts and blur lower it."""
    grey = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1)
    centre = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return (4 * centre - around).square().mean((1, 2))


def gini(values: torch.Tensor) -> float:
    """Gini coefficient of non-negative values (n,): 0 when all are equal, towards 1 when one has everything."""
    ordered = values.double().sort().values
    n = len(ordered)
    total = float(ordered.sum())
    if total == 0:
        return 0.0
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    return float(2 * (ranks * ordered).sum() / (n * total) - (n + 1) / n)


def spearman(a: torch.Tensor, b: torch.Tensor) -> float:
    """Rank correlation of (n,) and (n,), ties by their mean rank; 1.0 when one rises whenever the other does."""

    def ranks(x: torch.Tensor) -> torch.Tensor:
        x = x.double()
        below = (x[:, None] > x[None, :]).sum(1).double()
        equal = (x[:, None] == x[None, :]).sum(1).double()
        return below + (equal + 1) / 2

    p, q = ranks(a) - ranks(a).mean(), ranks(b) - ranks(b).mean()
    scale = float(p.norm() * q.norm())
    return float((p * q).sum()) / scale if scale else 0.0


def surface(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """How clean pictures (n, 3, h, w) in -1..1 are, (n,) each: `flat` and `strong`, shares of the pixels, and `lines`.

    Flat pixels have a deviation below 2 of 255 in the 5x5 around them, strong edges one above 25, in the channel where
    it is largest; `lines` is the contrast of the finest lines, the 99th percentile of the absolute Laplacian of the
    grey values, of 255. Wet watercolour has few flat pixels, few strong edges and weak lines.
    """
    values = ((x.clamp(-1, 1) + 1) * 127.5).round()
    around = torch.nn.functional.pad(values, (2, 2, 2, 2), mode="reflect").double()
    mean = torch.nn.functional.avg_pool2d(around, 5, 1)
    variance = torch.nn.functional.avg_pool2d(around.square(), 5, 1) - mean.square()
    deviation = variance.clamp(min=0).sqrt().amax(1)
    grey = (values * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).round()
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    laplacian = torch.nn.functional.conv2d(torch.nn.functional.pad(grey, (1, 1, 1, 1), mode="reflect"), kernel)
    return {
        "flat": (deviation < 2).double().mean((1, 2)),
        "strong": (deviation > 25).double().mean((1, 2)),
        "lines": torch.quantile(laplacian.abs().flatten(1).double(), 0.99, dim=1),
    }


def kernel_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Squared maximum mean discrepancy of features (n, d) and (m, d) with (x.y / d + 1)^3, unbiased (KID, 1801.01401).

    Around 0, also below, where both are of one distribution; unlike the Frechet distance not larger with fewer samples.
    """
    a, b = a.double(), b.double()

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: torch.Tensor) -> torch.Tensor:
        table = kernel(x, x)
        return (table.sum() - table.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def precision_recall(made: torch.Tensor, real: torch.Tensor, k: int = 3) -> tuple[float, float]:
    """(precision, recall) of features (n, d) against (m, d): the share of each that lies in the other's manifold.

    The manifold is the union of balls around its points that reach to each one's `k`-th neighbour (1904.06991, eq. 1).
    """

    def inside(points: torch.Tensor, manifold: torch.Tensor) -> float:
        own = torch.cdist(manifold, manifold)
        radius = own.kthvalue(k + 1, dim=1).values  # the first is the point itself
        return float((torch.cdist(points, manifold) <= radius).any(1).double().mean())

    made, real = made.double(), real.double()
    return inside(made, real), inside(real, made)
