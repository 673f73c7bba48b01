"""The small convolutional classifier of MNIST digits whose features `misgan-mnist-fid` compares (LeCun et al. 1998)."""

from __future__ import annotations

import flax.linen as nn
import jax


class MnistClassifier(nn.Module):
    """Two convolutions of 10 and 20 channels and two dense layers of 50 and 10; kernels of 5, pools of 2, ReLU in between.

    Dropout of 1/2 of the channels after the second convolution and of the 50 numbers, in training alone.
    """

    @nn.compact
    def __call__(self, images: jax.Array, *, training: bool = False) -> tuple[jax.Array, jax.Array]:
        """(n, 28, 28) to the 50 numbers before their ReLU, (n, 50), and the logits, (n, 10)."""
        t = nn.Conv(10, (5, 5), padding="VALID")(images[..., None])
        t = nn.relu(nn.max_pool(t, (2, 2), strides=(2, 2)))
        t = nn.Conv(20, (5, 5), padding="VALID")(t)
        t = nn.Dropout(0.5, broadcast_dims=(1, 2), deterministic=not training)(t)
        t = nn.relu(nn.max_pool(t, (2, 2), strides=(2, 2)))
        features = nn.Dense(50)(t.reshape(len(t), -1))
        t = nn.Dropout(0.5, deterministic=not training)(nn.relu(features))
        return features, nn.Dense(10)(t)
