"""Weights on an int8 grid, rounded so that later roundings make up for the error of earlier ones.

Rounding each weight to its nearest grid point ignores that inputs are correlated: neighbouring tokens, channels that
share a mean. Here columns are rounded one after another, and the columns that are still free take up the error that a
column leaves in the product, by least squares over the calibration inputs X (GPTQ, arXiv 2210.17323):

    minimise |X (W - Q)^T|^2 over Q on the grid, greedily, with H = X^T X
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 127
# Added to the diagonal of H, relative to its mean: errors on inputs that calibration never saw must cost something.
DAMPING = 0.01


def grid_scale(weight: Tensor) -> Tensor:
    """Scale of each output channel of weight [out, in], float32 [out]: max|w| / 127, and 1 for a channel of zeros.

    Float32, because that is what the engines divide by.
    """
    largest = weight.abs().amax(dim=1).float()
    return torch.where(largest > 0, largest / LEVELS, torch.ones_like(largest))


def round_to_grid(weight: Tensor) -> Tensor:
    """Nearest grid points of weight [out, in], in its dtype: the channel's scale times a whole number in -127..127."""
    scale = grid_scale(weight).to(weight.dtype)[:, None]
    return (weight / scale).round().clamp(-LEVELS, LEVELS) * scale


def round_for_inputs(weight: Tensor, inputs: Tensor, damping: float = DAMPING) -> Tensor:
    """Grid points for weight [out, in] that preserve its products with inputs [rows, in]; float64 [out, in].

    The largest weight of each channel stays at +-127, so that max|w| / 127 is still the scale and quantisers that look
    at the result find the same grid.
    """
    free = weight.double().clone()
    scale = grid_scale(free).double()
    largest = free.abs().argmax(dim=1)
    x = inputs.double()
    moments = x.T @ x / len(x)
    diagonal = moments.diagonal()
    moments = moments + (damping * diagonal.mean() + 1e-12) * torch.eye(len(moments), dtype=torch.float64)
    # Strong inputs first: their errors matter most.
    order = torch.argsort(diagonal, descending=True, stable=True)
    back = torch.argsort(order)
    free, moments, largest = free[:, order], moments[order][:, order], back[largest]
    signs = torch.gather(free, 1, largest[:, None])[:, 0].sign()
    # Row j of this factor holds the regression of input j on the later ones.
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moments)), upper=True)
    result = torch.zeros_like(free)
    for j in range(free.shape[1]):
        steps = (free[:, j] / scale).round().clamp(-LEVELS, LEVELS)
        steps = torch.where(largest == j, signs * LEVELS, steps)
        result[:, j] = steps * scale
        error = (free[:, j] - result[:, j]) / factor[j, j]
        free[:, j + 1 :] -= error[:, None] * factor[j, j + 1 :]
    return result[:, back]
