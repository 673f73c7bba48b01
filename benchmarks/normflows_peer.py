"""The residual flow of `normflows` (PyTorch), given the architecture and the weights of one of ours.

Only `benchmarks.residual_flow_peers` imports this; it needs the extra ``bench`` (torch and normflows).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import normflows
import numpy as np
import torch
from normflows.nets.lipschitz import InducedNormLinear, Swish


class CLipSwish(torch.nn.Module):
    """concat(s(t), s(-t)) / 1.004 with their LipSwish s; normflows has no concatenated activation of its own."""

    def __init__(self, beta: np.ndarray) -> None:
        super().__init__()
        self.swish = Swish()
        # theirs is t sigmoid(softplus(beta) t) / 1.1, ours has softplus(beta) + 1/2 in place of softplus(beta)
        slope = np.log1p(np.exp(beta.astype(np.float64))) + 0.5
        self.swish.beta.data = torch.tensor(np.log(np.expm1(slope)), dtype=torch.float32)

    def forward(self, t: Any) -> Any:
        """(b, n) to (b, 2 n)."""
        return torch.cat([self.swish(t), self.swish(-t)], dim=-1) / 1.004


def peer_flow(params: Any, *, coeff: float, terms: int) -> Any:
    """A `normflows.NormalizingFlow` equal to ``scan_chain(residual_dense(activation="clipswish"), depth)``.

    Args:
        params: parameters of ours: per operator a dictionary of stacked arrays.
        coeff: the Lipschitz constant of a block, shared evenly by its operators as ours share it.
        terms: of the power series in training; evaluation uses their default, 20 terms and a geometric number more.

    Returns:
        The flow on events of shape (d,). Its layers are in their order: the first one is nearest the latent.
    """
    arrays = [{name: np.array(value) for name, value in part.items()} for part in params]
    depth, bound = len(arrays[0]["bias"]), coeff ** (1.0 / len(arrays))
    blocks = [_block([{k: v[i] for k, v in part.items()} for part in arrays], bound, terms) for i in range(depth)]
    base = normflows.distributions.DiagGaussian(arrays[0]["weight"].shape[1], trainable=False)
    return normflows.NormalizingFlow(base, blocks[::-1])


def _block(operators: list[dict[str, np.ndarray]], bound: float, terms: int) -> Any:
    layers: list[Any] = []
    for position, operator in enumerate(operators):
        rows, columns = operator["weight"].shape
        linear = InducedNormLinear(rows, columns, coeff=bound, domain=2, codomain=2, n_iterations=5)
        linear.weight.data = torch.tensor(operator["weight"].T.copy())
        linear.bias.data = torch.tensor(operator["bias"])
        linear.compute_weight(update=True, n_iterations=200)
        layers.append(linear)
        if position + 1 < len(operators):
            layers.append(CLipSwish(operator["beta"]))
    return normflows.flows.Residual(torch.nn.Sequential(*layers), reverse=True, n_power_series=terms)


def log_density(model: Any, y: np.ndarray) -> Callable[[], np.ndarray]:
    """A function that computes log p(y) for the batch, as their `log_prob` does in evaluation mode."""
    batch = torch.tensor(y)

    def run() -> np.ndarray:
        model.eval()
        with torch.no_grad():
            return np.asarray(model.log_prob(batch))

    return run


def encode(model: Any, y: np.ndarray) -> np.ndarray:
    """x = g(y), without log-determinants."""
    with torch.no_grad():
        x = torch.tensor(y)
        for flow in reversed(model.flows):
            x = flow.iresblock.forward(x)
    return np.asarray(x)


def inverse(model: Any, x: np.ndarray) -> Callable[[], np.ndarray]:
    """A function that computes y = g^{-1}(x) for the batch by their fixed-point iteration, without log-determinants."""
    batch = torch.tensor(x)

    def run() -> np.ndarray:
        model.eval()
        with torch.no_grad():
            y = batch
            for flow in model.flows:
                y = flow.iresblock.inverse(y)
        return np.asarray(y)

    return run


def training_step(model: Any, y: np.ndarray, *, learning_rate: float, power_steps: int) -> Callable[[], float]:
    """A function that makes one step of maximum likelihood with Adam and returns the loss it reports, in nats an event."""
    batch = torch.tensor(y)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def run() -> float:
        model.train()
        optimizer.zero_grad()
        loss = -model.log_prob(batch).mean()
        loss.backward()
        optimizer.step()
        normflows.utils.update_lipschitz(model, power_steps)
        return float(loss.detach())

    return run
