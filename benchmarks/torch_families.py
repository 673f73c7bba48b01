"""Flows of `zuko` and `normflows` (PyTorch), of the architecture of ours.

Only `benchmarks.family_peers` imports this; it needs the extra ``bench``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import normflows
import numpy as np
import torch
import zuko
from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling
from normflows.nets.resnet import ConvResidualNet, ResidualNet
from normflows.utils.masks import create_alternating_binary_mask
from torch.nn import functional


def count(model: Any) -> int:
    """Numbers that are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def runs(model: Any, y: np.ndarray, *, learning_rate: float) -> dict[str, Callable[[], np.ndarray]]:
    """A function a task: log-densities of the batch y, as many samples, and a step of Adam, which returns the loss."""
    batch, is_zuko = torch.tensor(y), isinstance(model, zuko.flows.Flow)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    # normflows wants classes with a flow of several scales, and takes none
    classes = (None,) if isinstance(model, normflows.MultiscaleFlow) else ()

    def log_density() -> torch.Tensor:
        return model().log_prob(batch) if is_zuko else model.log_prob(batch, *classes)

    def evaluate() -> np.ndarray:
        model.eval()
        with torch.no_grad():
            return np.asarray(log_density())

    def sample() -> np.ndarray:
        model.eval()
        with torch.no_grad():
            return np.asarray(model().sample((len(batch),)) if is_zuko else model.sample(len(batch))[0])

    def train() -> np.ndarray:
        model.train()
        optimizer.zero_grad()
        loss = -log_density().mean()
        loss.backward()
        optimizer.step()
        return np.asarray(loss.detach())

    return {"log_density": evaluate, "sample": sample, "training_step": train}


def zuko_coupling(size: int, layers: int, hidden: int, blocks: int, bins: int | None) -> Any:
    """Affine couplings, or rational-quadratic ones where ``bins`` is given."""
    widths, options = (hidden,) * (2 * blocks + 1), {}
    if bins is not None:
        options = {"univariate": zuko.transforms.MonotonicRQSTransform, "shapes": [(bins,), (bins,), (bins - 1,)]}
    return zuko.flows.NICE(size, transforms=layers, hidden_features=widths, activation=torch.nn.SiLU, **options)


def zuko_continuous(size: int, hidden: tuple[int, ...]) -> Any:
    """FFJORD; in training one probe for the trace of a solve, otherwise the trace is exact."""
    flow = zuko.flows.CNF(size, freqs=4, hidden_features=hidden, activation=torch.nn.Tanh)

    def train(mode: bool = True) -> Any:
        flow.transform.exact = not mode
        return torch.nn.Module.train(flow, mode)

    flow.train = train
    return flow


def evaluations(flow: Any, run: Callable[[], Any]) -> int:
    """How often ``run`` evaluates the velocity of a continuous flow."""
    calls: list[None] = []
    hook = flow.transform.ode.register_forward_hook(lambda *_: calls.append(None))
    run()
    hook.remove()
    return len(calls)


def at_identity(network: Any) -> Any:
    """The conditioner with its last layer at zero, as ours starts: at random, log-scales without bound overflow."""
    torch.nn.init.zeros_(network.final_layer.weight)
    torch.nn.init.zeros_(network.final_layer.bias)
    return network


def normflows_realnvp(size: int, layers: int, hidden: int, blocks: int) -> Any:
    """Affine couplings of alternating halves."""

    def network() -> Any:
        return at_identity(ResidualNet(size // 2, size, hidden, num_blocks=blocks, activation=functional.silu))

    modes = ("channel", "channel_inv")
    steps = [normflows.flows.AffineCouplingBlock(network(), split_mode=modes[i % 2]) for i in range(layers)]
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(size, trainable=False), steps)


def normflows_spline(size: int, layers: int, hidden: int, blocks: int, bins: int, interval: float) -> Any:
    """Rational-quadratic couplings, without the spline of the other half that normflows adds to each."""

    def network(n_in: int, n_out: int) -> Any:
        return at_identity(ResidualNet(n_in, n_out, hidden, num_blocks=blocks, activation=functional.silu))

    steps = []
    for i in range(layers):
        step = normflows.flows.CoupledRationalQuadraticSpline(size, blocks, hidden, num_bins=bins, tail_bound=interval)
        mask = create_alternating_binary_mask(size, even=i % 2 == 0)
        step.prqct = PiecewiseRationalQuadraticCoupling(mask, network, num_bins=bins, tails="linear", tail_bound=interval)
        steps.append(step)
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(size, trainable=False), steps)


def normflows_glow(side: int, scales: int, steps: int, hidden: int, blocks: int) -> Any:
    """Images of one channel; the residual networks of ours, all 3x3 convolutions, in place of normflows' three layers."""

    def network(channels: int) -> Any:
        net = ConvResidualNet(channels // 2, channels, hidden, num_blocks=blocks, activation=functional.silu)
        net.initial_layer = torch.nn.Conv2d(channels // 2, hidden, 3, padding=1)
        net.final_layer = torch.nn.Conv2d(hidden, channels, 3, padding=1)
        return at_identity(net)

    def step(channels: int) -> Any:
        block = normflows.flows.GlowBlock(channels, hidden)
        block.flows[0] = normflows.flows.AffineCouplingBlock(network(channels))
        return block

    bases, levels = [], []
    # from the smallest images to the largest
    for scale in reversed(range(scales)):
        channels, here = 4 * 2**scale, side // 2 ** (scale + 1)
        levels.append([*(step(channels) for _ in range(steps)), normflows.flows.Squeeze()])
        kept = channels if scale == scales - 1 else channels // 2
        bases.append(normflows.distributions.DiagGaussian((kept, here, here), trainable=False))
    merges = [normflows.flows.Merge() for _ in range(scales - 1)]
    return normflows.MultiscaleFlow(bases, levels, merges, class_cond=False)
