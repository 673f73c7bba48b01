"""RealNVP: affine coupling flows (Dinh et al. 2017, Density estimation using Real NVP)."""

from __future__ import annotations

import functools
from typing import NamedTuple

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Bijector, Shape
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.coupling import affine_coupling, alternating, conditional_coupling
from jaxflows.bijectors.factor_out import factor_out
from jaxflows.bijectors.squeeze import squeeze, unsqueeze
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow, flow_of


@factory
def realnvp(
    *, event_shape: Shape, layers: int = 8, hidden: int = 128, blocks: int = 2, split: str = "checkerboard", bound: float = 2.0,
    context: int = 0,
) -> Flow:  # fmt: skip
    """One affine map for the whole event, then ``layers`` affine couplings of alternating parity on the flat event.

    The first map shares one shift and one scale over the event, so that linear measurements stay linear (docs/design.md).
    Both directions are explicit: a density and a sample each cost ``layers`` network evaluations, whatever the depth
    compile time is that of two layers.

    Args:
        event_shape: any shape of at least two entries; couplings see it flattened.
        layers: number of couplings, even.
        hidden, blocks: width and residual blocks of each coupling's network.
        split: 'checkerboard' or 'half'.
        bound: largest |log-scale| of one coupling.
        context: entries of a vector that all networks see as well, 0 for none: a conditional flow. It stands among the
            parameters (`jaxflows.bijectors.coupling.given`).
    """
    layer = functools.partial(conditional_coupling, context=context) if context else affine_coupling
    make = functools.partial(layer, hidden=hidden, blocks=blocks, split=split, bound=bound)
    return flow_of(event_shape, chain(actnorm(over="event"), alternating(make, layers)))


@factory
def realnvp_image(
    *, event_shape: Shape, scales: int = 3, layers: int = 4, hidden: int = 32, blocks: int = 8, bound: float = 2.0
) -> Flow:
    """Multi-scale RealNVP on images (Sec. 3.6), the base model of Whang et al. 2021 (their Table 3, MNIST, by default; the
    others by ``flows.PAPER_SIZES``).

    Per scale but the last: ``layers`` couplings on checkerboards, a squeeze, ``layers`` couplings on channels; half of the
    channels then go on to the next scale. The last scale has its checkerboards alone, or where it is a single pixel the
    couplings on channels. One affine map for the whole event comes first, so that linear measurements stay linear
    (docs/design.md). Couplings are scanned in pairs: compile time grows with scales, not with layers nor blocks.

    Args:
        event_shape: (height, width, channels), sides divisible by 2^(scales - 1).
        scales: number of scales.
        layers: couplings of each kind a scale, even.
        hidden, blocks: channels and residual blocks of each coupling's network.
        bound: largest |log-scale| of one coupling.

    Cost: ``(2 scales - 1) layers`` evaluations of the network either way.
    """
    if scales < 1:
        raise ValueError(f"expected scales >= 1; got {scales}")
    make = functools.partial(affine_coupling, hidden=hidden, blocks=blocks, network="conv", bound=bound)
    checkerboards = alternating(functools.partial(make, split="checkerboard"), layers)

    on_channels = alternating(functools.partial(make, split="half"), layers)

    def scale(number: int, channels: int) -> Bijector:
        if number == scales:
            # a single pixel has no checkerboard
            return on_channels if max(event_shape[:2]) >> (number - 1) == 1 else checkerboards
        going_on = factor_out(scale(number + 1, 2 * channels), channels=2 * channels)
        return chain(checkerboards, squeeze(), on_channels, going_on)

    return flow_of(event_shape, chain(actnorm(over="event"), scale(1, event_shape[-1])))


def realnvp_latent(
    *, latent_shape: Shape, scales: int = 3, layers: int = 4, hidden: int = 32, blocks: int = 3, bound: float = 2.0
) -> Flow:
    """`realnvp_image` on the latent of a `realnvp_image` of several scales, put back to the image's pixels first.

    The pre-generator of Whang et al. 2021 (their Table 4, MNIST, by default), the ``family`` of
    `jaxflows.inverse.pregenerator`.

    Args:
        latent_shape: (height / 2, width / 2, 4 channels), the image's sides divisible by 2^(scales - 1).
        scales, layers, hidden, blocks, bound: as `realnvp_image`.
    """
    back = unsqueeze()
    image = realnvp_image(
        event_shape=back.output_shape(tuple(latent_shape)),
        scales=scales,
        layers=layers,
        hidden=hidden,
        blocks=blocks,
        bound=bound,
    )
    return flow_of(latent_shape, chain(back, image.bijector))


class PaperSizes(NamedTuple):
    """A column of the tables of Whang et al. 2021, supplement.

    Attributes:
        image_shape: (height, width, channels).
        base: options of `realnvp_image` (Table 3).
        pregenerator: options of `realnvp_latent` (Table 4).
        bits: of a pixel.
        batch_size, learning_rate: of the base model's training.
        draws: m, of a step of the pre-generator's fit.
        bits_per_dimension: of the base model on the test set.
    """

    image_shape: Shape
    base: dict[str, int]
    pregenerator: dict[str, int]
    bits: int
    batch_size: int
    learning_rate: float
    draws: int
    bits_per_dimension: float


# "residual blocks per scale" are taken for those of each coupling's network; the couplings' number is not told, here 4
PAPER_SIZES = {
    "mnist": PaperSizes(
        (28, 28, 1), {"scales": 3, "blocks": 8, "hidden": 32}, {"scales": 3, "blocks": 3, "hidden": 32}, 8, 128, 1e-3, 64, 1.053
    ),
    "cifar10": PaperSizes(
        (32, 32, 3), {"scales": 6, "blocks": 12, "hidden": 64}, {"scales": 4, "blocks": 4, "hidden": 48}, 5, 64, 1e-3, 32, 1.725
    ),
    "celeba": PaperSizes(
        (64, 64, 3), {"scales": 6, "blocks": 10, "hidden": 80}, {"scales": 3, "blocks": 3, "hidden": 48}, 5, 32, 1e-3, 8, 1.268
    ),
}
