"""The residual network that conditions coupling layers (He et al. 2016; Dinh et al. 2017, RealNVP, Sec. 3)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflows.networks.convolution import convolution

# side of a kernel
_SIDE = 3


def _linear(spatial: bool) -> Callable[..., nn.Module]:
    options: Any = {"param_dtype": jnp.result_type(float), "kernel_init": nn.initializers.zeros}
    if not spatial:
        return functools.partial(nn.Dense, **options)
    return functools.partial(nn.Conv, kernel_size=(_SIDE, _SIDE), conv_general_dilated=_convolve, **options)


def _convolve(images: jax.Array, kernel: jax.Array, strides: Any, padding: Any, *, precision: Any, **options: Any) -> jax.Array:
    # as flax calls it; strides, padding and options are those of every convolution here
    del strides, padding, options
    return convolution(images, kernel, precision)


# blocks to an iteration of the scan: its gradient copies what it keeps into stacked arrays, and two blocks are the default.
# One iteration is a loop too, unless it is unrolled
_UNROLLED = 2


class _Block(nn.Module):
    hidden: int
    spatial: bool

    @nn.compact
    def __call__(self, t: jax.Array, _: None) -> tuple[jax.Array, None]:
        linear = _linear(self.spatial)
        h = linear(self.hidden, name="inner")(nn.silu(t))
        return t + linear(self.hidden, name="outer")(nn.silu(h)), None


class ResidualNetwork(nn.Module):
    """A pre-activation residual network without normalisation; `fresh_parameters` starts it.

        t_0 = A u,   t_{k+1} = t_k + C_k phi(B_k phi(t_k)),   output = D phi(t_K),   phi = SiLU

    A, B, C and D are affine. Blocks run in one scan: compile time does not depend on how many there are, beyond two.

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
        scanned: Any = nn.scan(
            _Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.blocks,
            unroll=_UNROLLED,
        )  # fmt: skip
        t: Any = linear(self.hidden, name="first")(u)
        t, _ = scanned(self.hidden, self.spatial, name="blocks")(t, None)
        return linear(self.outputs, name="last")(nn.silu(t))


def fresh_parameters(key: jax.Array, network: ResidualNetwork, example: jax.Array) -> dict[str, Any]:
    """Parameters at which the output is exactly 0 everywhere, and each block the identity.

    A and B_k are uniform of variance 1 / inputs (LeCun et al. 1998), C_k, D and all biases 0. The module's own ``init``
    would give the same shapes; one draw for A and all B_k compiles in a fraction of the time.

    Args:
        key: random key, used once.
        network: the module.
        example: an input, of which only shape and dtype matter.
    """
    shapes = jax.eval_shape(network.init, key, example)["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    first, inner = shapes["first"]["kernel"], shapes["blocks"]["inner"]["kernel"]
    draw = jax.random.uniform(key, (first.size + inner.size,), first.dtype, -math.sqrt(3), math.sqrt(3))
    params["first"]["kernel"] = draw[: first.size].reshape(first.shape) / math.sqrt(math.prod(first.shape[:-1]))
    params["blocks"]["inner"]["kernel"] = draw[first.size :].reshape(inner.shape) / math.sqrt(math.prod(inner.shape[1:-1]))
    return params
