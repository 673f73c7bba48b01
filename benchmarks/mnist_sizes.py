"""What a run of `benchmarks.mnist_incomplete` takes: rows, flows of ours and options of every system, in three sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from benchmarks.incomplete_digits import SHAPE
from jaxflows import flows
from jaxflows.flows import Flow


class Ours(NamedTuple):
    """How a flow of ours is trained.

    Attributes:
        flow: its architecture.
        train_rows: the first so many images; those of the Gaussian are the system's.
        fit: options of `jaxflows.fit_by_moves` or `jaxflows.fit_incomplete`.
        by_class: whether completions begin as draws of one Gaussian for each class, and test digits are drawn in pairs.
        matched: whether those, and draws in the end, have the grey levels of observed pixels, the flow mapping grey levels.
        classifier: options of `jaxflows.fit_classifier`, of all labelled digits; None for a head of completions.
    """

    flow: Callable[[], Flow]
    train_rows: int
    fit: dict[str, Any]
    by_class: bool = False
    matched: bool = False
    classifier: dict[str, Any] | None = None


class Sizes(NamedTuple):
    """What a run takes.

    Attributes:
        scaled: whether this is less than all images and the full sizes.
        train_rows, test_rows: the first so many images; a system's own ``train_rows`` goes before.
        ours: by system, how ours are trained.
        draws: of ``ours_amortised``, a test digit.
        chains: of the others, likewise.
        amortised: whether ``ours_amortised`` draws from what its network says, in place of the Gauss-Newton posterior.
        systems: options of each comparator, and ``train_rows`` of ours.
    """

    scaled: bool
    train_rows: int
    test_rows: int
    ours: dict[str, Ours]
    draws: int
    chains: int
    amortised: bool
    systems: dict[str, dict[str, Any]]


def flow_before_the_rest(flow_rate: float, rate: float) -> optax.GradientTransformation:
    """Adam, slower for the flow, which starts at a Gaussian, than for network and classifier, which start at nothing."""
    rates = {"flow": flow_rate, "network": rate, "head": rate}
    return optax.multi_transform({name: optax.adam(value) for name, value in rates.items()}, {name: name for name in rates})


def whitened(hidden: int, dense: int, *, marginals: int = 0) -> Flow:
    """Couplings behind a Gaussian, and that behind a map of grey levels or none."""
    return flows.whitened_image(event_shape=(*SHAPE, 1), hidden=hidden, dense=dense, whitening="full", marginals=marginals)


# Adam trains the classifier as fast with any weight, and the flow is spared
HEAD = {"head_weight": 1e-2}
LAYERS = HEAD | {"head_hidden": (32, 64)}
QUICK = Sizes(
    True, 128, 32,
    {
        "ours": Ours(lambda: whitened(4, 8), 128, {"epochs": 2, "batch_size": 32, **LAYERS}),
        "ours_by_class": Ours(lambda: whitened(4, 8), 128, {"epochs": 2, "batch_size": 32, "move_every": 2, **LAYERS}, True),
        "ours_matched": Ours(
            lambda: whitened(4, 8, marginals=4), 128, {"epochs": 2, "batch_size": 32, "move_every": 2}, True, True,
            {"hidden": (4,), "rank": 8, "epochs": 1, "batch_size": 32},
        ),
        "ours_amortised": Ours(
            lambda: flows.residual(event_shape=SHAPE, blocks=2, hidden=16), 128, {"epochs": 1, "batch_size": 64}
        ),
    },
    4, 2, True,
    {
        "column_mean": {}, "gaussian_pairwise": {"num_samples": 4},
        "gaussian_em": {"shrinkage": 0.1, "max_steps": 1, "num_samples": 4}, "mice": {"rounds": 1, "neighbours": 5},
        "missforest": {"rounds": 1, "trees": 1, "neighbours": 3}, "emflow": {"epochs": 1, "batch_size": 64, "rounds": 1},
        "mcflow": {"epochs": 1}, "gain": {"steps": 2, "num_samples": 4},
        "misgan": {"epochs": 3, "hidden": (32,), "critic_hidden": (32,), "imputer_hidden": (32,), "num_samples": 4},
        "miwae": {"epochs": 1, "hidden": 32, "observation": "bernoulli", "proposals": 16, "num_samples": 4},
    },
)  # fmt: skip
SCALED = Sizes(
    True, 3000, 500,
    {
        "ours": Ours(
            lambda: whitened(16, 128), 30_000,
            {"epochs": 20, "batch_size": 64, "learning_rate": 2e-3, "rank": 128, **LAYERS, "max_seconds": 900},
        ),
        "ours_by_class": Ours(
            lambda: whitened(16, 128), 30_000,
            {"epochs": 20, "batch_size": 64, "learning_rate": 2e-3, "rank": 128, "move_every": 3, **LAYERS, "max_seconds": 600},
            True,
        ),
        "ours_matched": Ours(
            lambda: whitened(16, 128, marginals=16), 30_000,
            {"epochs": 20, "batch_size": 64, "learning_rate": 2e-3, "rank": 128, "move_every": 3, "max_seconds": 900},
            True, True, {"epochs": 20, "max_seconds": 300},
        ),
        "ours_amortised": Ours(
            lambda: flows.residual(event_shape=SHAPE, blocks=8, hidden=128), 3000,
            {"epochs": 20, "batch_size": 64, "optimizer": flow_before_the_rest(2e-6, 2e-3), **HEAD, "max_seconds": 240},
        ),
    },
    16, 8, False,
    {
        "ours": {"train_rows": 60_000}, "ours_by_class": {"train_rows": 60_000}, "ours_matched": {"train_rows": 60_000},
        "ours_amortised": {"train_rows": 60_000},
        "column_mean": {},
        "gaussian_pairwise": {"train_rows": 60_000}, "gaussian_em": {"train_rows": 1000, "shrinkage": 0.03, "max_steps": 5},
        "mice": {"rounds": 2, "neighbours": 30}, "missforest": {"rounds": 1, "trees": 10, "neighbours": 30},
        "emflow": {"epochs": 2, "batch_size": 64, "train_rows": 2000}, "mcflow": {"epochs": 5}, "gain": {"steps": 2000},
        "misgan": {
            "epochs": 140, "learning_rate": 1e-3, "hidden": (256,), "critic_hidden": (256,), "imputer_hidden": (512,),
        },
        "miwae": {"epochs": 70, "hidden": 256, "latent": 32, "observation": "bernoulli", "proposals": 1000},
    },
)  # fmt: skip
FULL = Sizes(
    False, 60_000, 10_000,
    {
        "ours": Ours(
            lambda: whitened(64, 512), 60_000,
            {"epochs": 60, "batch_size": 256, "learning_rate": 2e-3, **LAYERS, "max_seconds": 200},
        ),
        "ours_by_class": Ours(
            lambda: whitened(64, 512), 60_000,
            {"epochs": 60, "batch_size": 256, "learning_rate": 2e-3, "move_every": 3, **LAYERS, "max_seconds": 200}, True,
        ),
        "ours_matched": Ours(
            lambda: whitened(64, 512, marginals=16), 60_000,
            {"epochs": 60, "batch_size": 256, "learning_rate": 2e-3, "move_every": 3, "max_seconds": 170}, True, True,
            {"epochs": 30, "max_seconds": 30},
        ),
        "ours_amortised": Ours(
            lambda: flows.residual(event_shape=SHAPE, blocks=8, hidden=512), 60_000,
            {"epochs": 40, "batch_size": 256, "optimizer": flow_before_the_rest(2e-4, 2e-3), **HEAD, "max_seconds": 240},
        ),
    },
    16, 8, True,
    {
        "column_mean": {}, "gaussian_pairwise": {}, "gaussian_em": {"train_rows": 5000, "shrinkage": 0.01, "max_steps": 20},
        "mice": {"rounds": 3, "neighbours": 60, "train_rows": 5000},
        "missforest": {"rounds": 1, "trees": 10, "neighbours": 30, "train_rows": 5000},
        "emflow": {"epochs": 5, "at_once": 256}, "mcflow": {"epochs": 32}, "gain": {}, "misgan": {"epochs": 60},
        "miwae": {"epochs": 40, "hidden": 512, "latent": 50, "observation": "bernoulli"},
    },
)  # fmt: skip
