"""Flows of images that are white noise, more or less, before the first coupling: small, explicit, good at once."""

from __future__ import annotations

import functools

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Shape
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.cosine import cosine_affine
from jaxflows.bijectors.coupling import affine_coupling, alternating
from jaxflows.bijectors.spline import elementwise_spline
from jaxflows.bijectors.squeeze import squeeze
from jaxflows.bijectors.triangular import triangular_affine
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow, flow_of

WHITENINGS = {
    "cosine": (actnorm(over="element"), cosine_affine()),
    "full": (actnorm(over="element"), cosine_affine(), triangular_affine()),
}


@factory
def whitened_image(
    *,
    event_shape: Shape,
    patch: int = 4,
    layers: int = 4,
    hidden: int = 32,
    blocks: int = 1,
    dense: int = 0,
    bound: float = 2.0,
    whitening: str = "cosine",
    marginals: int = 0,
) -> Flow:
    """A Gaussian, then affine couplings on patches: of their channels, then on checkerboards.

    An affine map an entry and `jaxflows.bijectors.cosine.cosine_affine`, both started from the first batch, take out the
    correlations as far as they are the same everywhere in an image; couplings start at the identity. So training begins at
    nearly the Gaussian of the images' second moments and spends itself on what is not Gaussian, of natural images above all
    how contrasts go together. All of it is explicit both ways, and the first maps are affine, so that linear measurements stay
    linear.

    Args:
        event_shape: (height, width, channels), sides divisible by ``patch``.
        patch: side of the squares of pixels whose entries are the channels of the couplings.
        layers: couplings, divisible by 4: half of them on halves of the channels, half on checkerboards of patches.
        hidden, blocks: channels and residual blocks of each coupling's convolutional network.
        dense: width of the dense networks of as many couplings more, behind the convolutions, which see the whole image; 0 for
            none. Convolutions tell of what is near; where images are small and of few kinds, as digits, what is far tells more
            of a hole than what is near.
        bound: largest |log-scale| of one coupling.
        whitening: 'cosine', a Gaussian in the cosine transform, or 'full', any Gaussian: what `jaxflows.gaussian_start` is
            given (`jaxflows.bijectors.triangular.triangular_affine` behind the cosines). For images that are not alike
            everywhere, and for rows with holes, whose second moments are known long before anything else.
        marginals: bins of a spline of grey levels before all that (`jaxflows.bijectors.spline.elementwise_spline`), one for the
            whole image; 0 for none. For images whose pixels gather at a few levels, as black and white, in [0, 1]. Linear
            measurements that mix pixels are then not linear in what the Gaussian sees: chains move less freely under them.

    Cost: ``layers`` evaluations of a network either way, on as many places as there are patches, and of the dense ones.

    Source: ours. Couplings are RealNVP's (Dinh et al. 2017).
    """
    if layers < 4 or layers % 4:
        raise ValueError(f"expected a number of layers divisible by 4, half of them of each kind; got {layers}")
    if dense < 0:
        raise ValueError(f"expected dense >= 0; got {dense}")
    if whitening not in WHITENINGS:
        raise ValueError(f"expected whitening to be one of {sorted(WHITENINGS)}; got {whitening!r}")
    if marginals < 0 or marginals == 1:
        raise ValueError(f"expected marginals >= 2 bins, or 0; got {marginals}")
    networks = [("conv", hidden)] + ([("dense", dense)] if dense else [])
    couplings = []
    for network, width in networks:
        make = functools.partial(affine_coupling, hidden=width, blocks=blocks, network=network, bound=bound)
        # of dense ones the halves are the image's upper and lower, the checkerboards every other channel of all patches
        couplings += [alternating(functools.partial(make, split=split), layers // 2) for split in ("half", "checkerboard")]
    front = (elementwise_spline(bins=marginals),) if marginals else ()
    return flow_of(event_shape, chain(*front, *WHITENINGS[whitening], squeeze(factor=patch), *couplings))
