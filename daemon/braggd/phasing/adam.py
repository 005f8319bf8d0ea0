"""The optimiser of the gradient descent."""

from __future__ import annotations

import numpy as np

from braggd.phasing.objective import Parameters


class Adam:
    """Adam with AMSGrad, on a dictionary of arrays; the steps are taken in place.

    Kingma & Ba (2014), arXiv:1412.6980, algorithm 1; Reddi, Kale & Kumar, ICLR (2018), arXiv:1904.09237, algorithm 2
    """

    _BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8

    def __init__(self, parameters: Parameters) -> None:
        self._first, self._second, self._largest = (
            {name: np.zeros_like(value) for name, value in parameters.items()} for _ in range(3)
        )
        self._steps = 0

    def step(self, parameters: Parameters, gradients: Parameters, rate: float) -> None:
        """Go one step down."""
        self._steps += 1
        rate /= 1 - self._BETA1**self._steps
        scale = 1 / np.sqrt(1 - self._BETA2**self._steps)
        for name, gradient in gradients.items():
            first, second, largest = self._first[name], self._second[name], self._largest[name]
            first += (1 - self._BETA1) * (gradient - first)
            second += (1 - self._BETA2) * (gradient * gradient - second)
            np.maximum(largest, second, out=largest)
            root = np.sqrt(largest)
            root *= root.dtype.type(scale)
            root += root.dtype.type(self._EPSILON)
            parameters[name] -= root.dtype.type(rate) * first / root
