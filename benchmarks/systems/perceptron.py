"""The fully connected network of MisGAN, GAIN and MIWAE."""

from __future__ import annotations

import flax.linen as nn
import jax


class Perceptron(nn.Module):
    """Linear maps to each of ``widths`` in turn, with ReLU between them and nothing after the last.

    Attributes:
        widths: of the hidden layers and, last, of the output.
        kernel: the law of the first weights; biases start at zero.
    """

    widths: tuple[int, ...]
    kernel: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., k) to (..., widths[-1])."""
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width, kernel_init=self.kernel)(x))
        return nn.Dense(self.widths[-1], kernel_init=self.kernel)(x)
