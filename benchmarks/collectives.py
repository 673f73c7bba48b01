"""What devices say to each other in a compiled program, read from its HLO text: how much, and whether inside a loop."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_KINDS = "all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter"
# the name and result of an instruction that communicates; its "-done" half is left out
_INSTRUCTION = re.compile(rf"^\s+(?:ROOT )?%?\S+ = (?P<result>.*?) (?P<kind>{_KINDS})(?:-start)?\(", re.MULTILINE)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+)[^\n]*\{\n(?P<body>.*?)^\}", re.MULTILINE | re.DOTALL)
_WHILE = re.compile(r" while\(.*?condition=%?(?P<condition>[\w.\-]+), body=%?(?P<body>[\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|condition|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
_ARRAY = re.compile(r"\b(pred|[a-z]+?\d+)(?:e\d+m\d+\w*)?\[([\d,]*)\]")


class Collective(NamedTuple):
    """One instruction.

    Attributes:
        kind: 'all-reduce', 'all-gather' and so on.
        bytes: of its result on one device.
        in_loop: whether a ``while`` runs it, and so perhaps many times.
    """

    kind: str
    bytes: int
    in_loop: bool


def collectives(hlo: str) -> list[Collective]:
    """Every instruction of a program by which devices communicate.

    Args:
        hlo: ``jax.jit(f).lower(...).compile().as_text()``.
    """
    bodies = {found["name"]: found["body"] for found in _COMPUTATION.finditer(hlo)}
    looped = {name for body in bodies.values() for found in _WHILE.finditer(body) for name in found.groups()}
    pending = list(looped)
    while pending:
        called = _called(bodies.get(pending.pop(), "")) - looped
        looped |= called
        pending += called
    return [
        Collective(found["kind"], _bytes(found["result"]), name in looped)
        for name, body in bodies.items()
        for found in _INSTRUCTION.finditer(body)
    ]


def loops(hlo: str) -> int:
    """How many ``while`` instructions a program has."""
    return len(_WHILE.findall(hlo))


def _called(body: str) -> set[str]:
    several = (name.strip().lstrip("%") for names in _BRANCHES.findall(body) for name in names.split(","))
    return {*_CALLED.findall(body), *several}


def _bytes(result: str) -> int:
    """Of an array's type, or of a tuple's: the sum."""
    total = 0
    for kind, sides in _ARRAY.findall(result):
        bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind))
        total += math.prod(int(side) for side in sides.split(",") if side) * bits // 8
    return total
