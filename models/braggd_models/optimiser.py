"""Muon: momentum whose matrices are made orthogonal before they are used, so that all directions are learnt alike.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); scaled as in J. Liu et al.,
arXiv:2502.16982, so that a learning rate means what it means to Adam. On the slab network the loss after 150 steps was
what Adam needs several times as many for. Kernels of convolutions are taken as matrices (output, input x kernel);
vectors, and layers named as such, are left to AdamW.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """One optimiser for a whole network: matrices by Muon, the rest by AdamW."""

    def __init__(
        self,
        net: nn.Module,
        rate: float,
        plain: tuple[str, ...] = (),
        weight_decay: float = 1e-4,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """Sort the parameters.

        plain: beginnings of the names of parameters that AdamW is to have
        precision: that matrices are made orthogonal in
        """
        self.precision = precision
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in net.named_parameters():
            (matrices if parameter.ndim > 1 and not name.startswith(plain or ("\0",)) else others).append(parameter)
        groups = [{"params": matrices, "matrices": True}, {"params": others, "matrices": False}]
        # AdamW gets along with less
        super().__init__(groups, {"lr": rate, "weight_decay": weight_decay, "momentum": 0.95, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter by its gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["mean"] = torch.zeros_like(parameter)
                    if not group["matrices"]:
                        state["square"] = torch.zeros_like(parameter)
                state["step"] += 1
                if group["matrices"]:
                    _matrix(parameter, parameter.grad, state, group, self.precision)
                else:
                    _vector(parameter, parameter.grad, state, group)


def _matrix(
    parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any], precision: torch.dtype
) -> None:
    state["mean"].lerp_(gradient, 1 - group["momentum"])
    direction = gradient.lerp(state["mean"], group["momentum"]).flatten(1)
    size = 0.2 * max(direction.shape) ** 0.5
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    # half precision is enough for a direction, and halves what a step costs
    turned = orthogonal((direction / (direction.norm() + 1e-12)).to(precision)).to(parameter.dtype)
    parameter.add_(turned.view_as(parameter), alpha=-group["lr"] * size)


def _vector(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    first, second = group["betas"]
    state["mean"].lerp_(gradient, 1 - first)
    state["square"].lerp_(gradient**2, 1 - second)
    mean = state["mean"] / (1 - first ** state["step"])
    square = state["square"] / (1 - second ** state["step"])
    rate = group["lr"] * 0.25
    parameter.mul_(1 - rate * group["weight_decay"])
    parameter.add_(mean / (square.sqrt() + 1e-8), alpha=-rate)


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """About the nearest matrix whose singular values are all alike, near 1, by Newton-Schulz iterations."""
    flat: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    flat = flat / (flat.norm() + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(iterations):
        product = flat @ flat.T
        flat = a * flat + (b * product + c * product @ product) @ flat
    return flat if matrix.shape[0] <= matrix.shape[1] else flat.T
