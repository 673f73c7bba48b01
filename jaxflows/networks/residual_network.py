"""The residual network that conditions coupling layers (He et al. 2016; Dinh et al. 2017, RealNVP, Sec. 3)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def _linear(spatial: bool) -> Callable[..., nn.Module]:
    dtype = jnp.result_type(float)
    if spatial:
        return functools.partial(nn.Conv, kernel_size=(3, 3), param_dtype=dtype)
    return functools.partial(nn.Dense, param_dtype=dtype)


class _Block(nn.Module):
    hidden: int
    spatial: bool

    @nn.compact
    def __call__(self, t: jax.Array, _: None) -> tuple[jax.Array, None]:
        linear = _linear(self.spatial)
        h = linear(self.hidden, name="inner")(nn.silu(t))
        return t + linear(self.hidden, name="outer", kernel_init=nn.initializers.zeros)(nn.silu(h)), None


class ResidualNetwork(nn.Module):
    """A pre-activation residual network without normalisation, whose output starts at exactly 0.

        t_0 = A u,   t_{k+1} = t_k + C_k phi(B_k phi(t_k)),   output = D phi(t_K),   phi = SiLU

    C_k and D start at 0, so that the network starts as a linear map and is learned outwards. All blocks run in one scan:
    compile time does not depend on how many there are.

    Attributes:
        outputs: features (spatial: channels) of the output.
        hidden: width of every layer between.
        blocks: K, the number of residual blocks.
        spatial: 3x3 'SAME' convolutions on (height, width, channels) instead of matrices on (features,).

    Cost: ``hidden (inputs + outputs + 2 blocks hidden)`` multiplications, nine times that a pixel where spatial.
    """

    outputs: int
    hidden: int
    blocks: int
    spatial: bool

    @nn.compact
    def __call__(self, u: jax.Array) -> jax.Array:
        """u: (features,) or (height, width, channels), with any batch axes in front."""
        linear = _linear(self.spatial)
        scanned: Any = nn.scan(_Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.blocks)
        t: Any = linear(self.hidden, name="first")(u)
        t, _ = scanned(self.hidden, self.spatial, name="blocks")(t, None)
        return linear(self.outputs, name="last", kernel_init=nn.initializers.zeros)(nn.silu(t))
