"""``jaxflows info``: what a model file holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from jaxflows.cli.models import PACKAGED, load_model, model_path


def add_command(commands: Any) -> None:
    """Add the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "info",
        help="say what a model file holds",
        description="Print a model's events, size, Lipschitz bound and metadata; the file's checksum is verified.",
        epilog="example:\n  jaxflows info mnist",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help=f"a saved model, or one of {', '.join(PACKAGED)}")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load the model and print it."""
    path = model_path(options.model)

    import jax

    model = load_model(options.model)
    flow = model.flow
    facts = {
        "file": f"{path} ({path.stat().st_size / 1e6:.2f} MB)",
        "event shape": " x ".join(map(str, flow.event_shape)),
        "residual blocks": flow.bijector.blocks,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
        "Lipschitz bound": f"{float(flow.bijector.lipschitz(model.params)):.4f} (certified)",
        "layers": flow.bijector.spec,
    }
    lines = [*((name, str(value)) for name, value in facts.items()), *_flattened(model.metadata)]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")
    return 0


def _flattened(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Metadata as lines: nested names joined by dots, long lists by their ends."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flattened(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, inner in enumerate(value):
            yield from _flattened(inner, f"{name}.{index}")
    elif isinstance(value, list) and len(value) > 6:
        shown = [*map(str, value[:3]), "...", str(value[-1])]
        yield name, f"{', '.join(shown)} ({len(value)} numbers)"
    else:
        yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
