"""The map of `explore`: a point in the plane for each picture.

The target classifier computes features of the decoded picture. The point is the projection of these features to the plane.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .exports import pixels
from .methods import Captured, Seen

__all__ = ["as_points", "project"]

FEWEST = 16  # distinct feature vectors that UMAP needs, because its neighbourhoods have 15


def project(features: Tensor, by: str = "PCA") -> Tensor:
    """Project features (N x F) to points in the unit square (N x 2). Equal features get equal points.

    `by` is the algorithm, "PCA" or "UMAP".
    """
    points = _umap(features) if by == "UMAP" else _components(features)
    low, high = points.min(0).values, points.max(0).values
    return ((points - low) / (high - low).clamp(min=1e-9)).float()


def _components(features: Tensor) -> Tensor:
    centred = features.double() - features.double().mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] if len(axes) > 1 else torch.cat([axes, torch.zeros_like(axes)])
    signs = torch.gather(axes, 1, axes.abs().argmax(1, keepdim=True)).sign()
    return centred @ (axes * torch.where(signs == 0, 1.0, signs)).T


def _umap(features: Tensor) -> Tensor:
    """Return the UMAP projection of the features (N x 2), with a fixed seed (McInnes, Healy and Melville 2018)."""
    from umap import UMAP

    distinct, which = torch.unique(features, dim=0, return_inverse=True)
    return torch.from_numpy(UMAP(random_state=0, n_jobs=1).fit_transform(distinct.numpy()))[which]


def as_points(captured: Captured, seen: Seen, features: Tensor, labels: Tensor, by: str) -> dict[str, Any]:
    """Return the value of the stage's trait `points`, from which the page draws the map.

    `captured`, `seen` and `features` are the results of `Pipeline.features`. `labels` are the true class indices. `by` is "PCA"
    or "UMAP". With fewer than `FEWEST` (16) distinct feature vectors, PCA is used. The returned dict has the points, the true
    labels, the target's labels, an attacker's PSNR, and the pixels of the original and the decoded pictures.
    """
    assert seen.target is not None
    by = by if len(torch.unique(features, dim=0)) >= FEWEST else "PCA"
    return {
        "points": [[round(x, 4), round(y, 4)] for x, y in project(features, by).tolist()],
        "by": by,
        "labels": labels.tolist(),
        "answers": seen.target.argmax(1).tolist(),
        "psnr": None if seen.psnr is None else [round(value, 2) for value in seen.psnr.tolist()],
        "which": seen.which.tolist(),
        "distinct": len(seen.cloud),
        "height": int(captured.original.shape[-2]),
        "width": int(captured.original.shape[-1]),
        "original": pixels(captured.original).tobytes(),
        "cloud": pixels(seen.cloud).tobytes(),
    }
