"""A continuous flow dz/dt = f(z, t) over t in [0, 1] (Chen et al. 2018; FFJORD, Grathwohl et al. 2019), cut into legs.

    u = z(0),   v = z(1),   log|det dv/du| = int_0^1 tr df/dz(z(t), t) dt                     (Chen et al. 2018, Eq. 8)

One velocity field drives all legs: leg l is the map Phi_l over [l/L, (l+1)/L], made of explicit Runge-Kutta steps on a fixed
grid. The layer IS this discrete map, so that none of the library's contracts depends on how fine the grid is:

- its log-determinant is that of the discrete map, by d JVPs through the steps, as many as the exact trace would take: the
  density integrates to one at any step size;
- its inverse is that of the discrete map. The backward solve Psi_l undoes Phi_l up to the discretisation error only;
  u <- u + Psi_l(v) - Psi_l(Phi_l(u)) starts there and gains that factor a turn. The residual it reports is the last move,
  the error of u to first order.

A leg is a residual block u + h(u), h = Phi_l - id, and the boundary sweep takes its two explicit steps, Phi_l(u) and
v - h(u_guess), at the price of one Phi_l. It needs legs short enough to be contractive: about Lip(f) < L log 2.
`Bijector.lipschitz` certifies a constant of the legs: below one they are contractive; above one they may be, and more legs
bring it down. Nothing constrains f.

Steps are unrolled from diffrax's tableaux. Of `diffrax.diffeqsolve`'s adjoints only `DirectAdjoint` has JVPs, VJPs and
their composition, all of which the library needs; on the same grid it gives the same numbers (a test holds that), and takes
several times as long to compile and to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import Bijector, LogDet, Params, Shape, SolveInfo, describe, layer, stay
from jaxflows.bijectors.chain import scan_chain
from jaxflows.factory import factory
from jaxflows.lipschitz.activations import activation as find_activation
from jaxflows.lipschitz.spectral_norm import dense_norm
from jaxflows.log_det.estimators import PROBES, Estimator, exact, power_series
from jaxflows.log_det.jacobian import exact_log_det
from jaxflows.solvers.fixed_point import fixed_point

try:
    import diffrax
except ModuleNotFoundError as error:
    raise ImportError(
        "expected diffrax, from which continuous flows take their Runge-Kutta methods; got none installed: "
        "pip install 'jaxflows[continuous]'"
    ) from error

SOLVERS: dict[str, Any] = {"bosh3": diffrax.Bosh3, "tsit5": diffrax.Tsit5, "dopri8": diffrax.Dopri8}

# the last layer's weights start this much smaller, so that a fresh flow is near the identity
START = 0.1


class Velocity(NamedTuple):
    """The right-hand side f of the equation.

    Attributes:
        init: ``(key, shape) -> params``.
        apply: ``(params, t, z) -> f(z, t)``, of z's shape.
        certify: ``params -> bound`` on the Lipschitz constant of f in z, over all t in [0, 1].
    """

    init: Callable[..., Params]
    apply: Callable[[Params, jax.Array, jax.Array], jax.Array]
    certify: Callable[[Params], jax.Array]


class Method(NamedTuple):
    """An explicit Runge-Kutta method: the stages k_i = f(z + h sum_j a_ij k_j, t + c_i h), z + h sum_i b_i k_i."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]


@factory
def continuous(
    *,
    hidden: tuple[int, ...],
    legs: int = 8,
    steps: int = 2,
    solver: str = "bosh3",
    activation: str = "tanh",
    probes: int = 1,
    probe: str = "rademacher",
) -> Bijector:
    """A free-form continuous flow: an unrestricted network on the flattened event, told the time in every layer.

    Each layer is FFJORD's 'concatsquash', (W z + b) sigmoid(g t + g_0) + s t, with the activation between layers.

    Args:
        hidden: widths of the hidden layers; any depth.
        legs: L, the parts the time is cut into for the boundary sweep.
        steps: Runge-Kutta steps a leg, at least 2: from each Gauss-Lobatto node of the leg to the next.
        solver: the method, of order 3, 5 or 8: 'bosh3', 'tsit5' or 'dopri8'. Only the first has no negative coefficients,
            which make the certified Lipschitz constant loose.
        activation: a name of `jaxflows.lipschitz.activations`; 'elu' is not smooth enough for orders above 3.
        probes: of the trace's estimate, a node; two or more give a standard error.
        probe: 'rademacher' or 'gaussian'.

    Cost: legs x steps x stages network evaluations a pass, of 3, 6 or 13 stages. ``estimate`` adds legs x (steps + 1) x
    probes VJPs of the network; ``forward`` and ``inverse`` add d JVPs of the pass. An inverse takes 3 to 7 passes.
    """
    spec = describe(
        "continuous", hidden=list(hidden), legs=legs, steps=steps, solver=solver, activation=activation, probes=probes,
        probe=probe,
    )  # fmt: skip
    return ordinary_flow(spec, concatsquash(hidden, activation), legs, steps, solver, probes, probe)


def concatsquash(hidden: tuple[int, ...], activation: str) -> Velocity:
    """FFJORD's network: see `continuous`. Its last layer starts small."""
    if not hidden or any(width < 1 for width in hidden):
        raise ValueError(f"expected hidden widths, at least one and all positive; got {hidden}")
    phi = find_activation(activation)

    def init(key: jax.Array, shape: Shape) -> Params:
        size = int(np.prod(shape))
        inputs = (size, *(phi.widening * width for width in hidden))
        outputs = (*hidden, size)
        params = []
        for k, n_in, n_out in zip(jax.random.split(key, len(inputs)), inputs, outputs, strict=True):
            zeros = jnp.zeros(n_out)
            weight = jax.random.normal(k, (n_in, n_out)) / jnp.sqrt(n_in)
            params.append({"weight": weight, "bias": zeros, "gate": zeros, "gate_bias": zeros, "shift": zeros, "beta": zeros})
        params[-1]["weight"] *= START
        return params

    def apply(params: Params, t: jax.Array, z: jax.Array) -> jax.Array:
        if z.size != params[0]["weight"].shape[0]:
            raise ValueError(f"expected an event of {params[0]['weight'].shape[0]} entries, as the parameters; got {z.shape}")
        x = z.reshape(-1)
        for position, part in enumerate(params):
            if position:
                x = phi.apply(params[position - 1]["beta"], x)
            x = (x @ part["weight"] + part["bias"]) * jax.nn.sigmoid(part["gate"] * t + part["gate_bias"]) + part["shift"] * t
        return x.reshape(z.shape)

    def certify(params: Params) -> jax.Array:
        # a gate is monotone in t: its largest value is at an end
        gates = [jax.nn.sigmoid(jnp.max(part["gate_bias"] + jax.nn.relu(part["gate"]))) for part in params]
        norms = [dense_norm(part["weight"]) for part in params]
        return jnp.prod(jnp.stack(gates) * jnp.stack(norms))

    return Velocity(init, apply, certify)


def ordinary_flow(spec: str, velocity: Velocity, legs: int, steps: int, solver: str, probes: int, probe: str) -> Bijector:
    """The flow of any velocity field; see `continuous` for the options.

    A trace needs no series, so ``estimate`` does not ask its estimator which: all but `exact` mean Hutchinson's, with
    ``probes`` fresh probes a node,

        log|det dv/du| ~ sum_l sum_i w_i v_li^T df/dz(z(t_li), t_li) v_li,

    t_li and w_i the Gauss-Lobatto rule of leg l, of order 2 steps. The trace does not act back on z, so it need not be taken
    at every stage, as FFJORD's augmented equation does; and with fresh probes the error falls with the number of nodes, where
    FFJORD keeps one probe from 0 to 1. Unbiased but for the discretisation, which its error bar does not hold.
    """
    if legs < 1 or probes < 1:
        raise ValueError(f"expected legs >= 1 and probes >= 1; got {legs} and {probes}")
    if steps < 2:
        raise ValueError(f"expected steps >= 2; got {steps}")
    if solver not in SOLVERS:
        raise ValueError(f"expected a solver of {sorted(SOLVERS)}; got {solver!r}")
    if probe not in PROBES:
        raise ValueError(f"expected a probe of {sorted(PROBES)}; got {probe!r}")
    leg = _leg(velocity, legs, steps, _method(solver), power_series(terms=1, probes=probes, probe=probe))
    body = scan_chain(leg, legs)

    def spread(params: Params) -> Params:
        """The same parameters for every leg, and the times at which the legs start."""
        dtype = jnp.result_type(0.0, *jax.tree.leaves(params))
        shared = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (legs, *leaf.shape)), params)
        return shared, jnp.asarray(np.arange(legs) / legs, dtype)

    def shared(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, *arguments: function(spread(params), *arguments)

    def estimate(key: jax.Array, estimator: Estimator, params: Params, u: jax.Array) -> tuple[jax.Array, LogDet]:
        return body.estimate(key, estimator, spread(params), u)

    return body._replace(
        spec=spec, init=velocity.init, transform=shared(body.transform), invert=shared(body.invert),
        forward=shared(body.forward), inverse=shared(body.inverse), estimate=estimate, trace=shared(body.trace),
        sweep_forward=shared(body.sweep_forward), sweep_backward=shared(body.sweep_backward),
        fit_to_data=lambda params, batch: params, constrain=stay, lipschitz=lambda params: leg.lipschitz((params, 0.0)),
    )  # fmt: skip


def _leg(velocity: Velocity, legs: int, steps: int, method: Method, trace: Estimator) -> Bijector:
    """One leg, a residual block for the sweep. Its parameters are the field's and the time at which it starts.

    ``trace`` estimates tr dh/du of a map h: the series of log|det(I + dh/du)| cut after its first term.
    """
    nodes, weights = gauss_lobatto(steps)
    offsets, weights = nodes / legs, weights / legs
    sizes = np.diff(offsets)

    def step(params: Params, z: jax.Array, t: jax.Array, size: jax.Array) -> jax.Array:
        slopes: list[jax.Array] = []
        for row, share in zip(method.a, method.c, strict=True):
            slopes.append(velocity.apply(params, t + share * size, z + size * _mix(row, slopes, z)))
        return z + size * _mix(method.b, slopes, z)

    def along(params: Params, u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The end of the leg, and its nodes: points (steps + 1, *event) and times."""
        field, start = params
        times = start + jnp.asarray(offsets, start.dtype)
        grid = times[:-1], jnp.asarray(sizes, start.dtype)
        v, points = jax.lax.scan(lambda z, at: (step(field, z, *at), z), u, grid)
        return v, jnp.concatenate([points, v[None]]), times

    def transform(params: Params, u: jax.Array) -> jax.Array:
        return along(params, u)[0]

    def backward_solve(params: Params, v: jax.Array) -> jax.Array:
        field, start = params
        grid = start + jnp.asarray(offsets[1:], start.dtype), jnp.asarray(-sizes, start.dtype)
        return jax.lax.scan(lambda z, at: (step(field, z, *at), None), v, grid, reverse=True)[0]

    def correction(args: Any, u: jax.Array) -> jax.Array:
        params, back = args
        return u + back - backward_solve(params, transform(params, u))

    # the errors of the legs add up: each aims at its share of the tolerance
    solve = fixed_point(correction, contraction=1.0 - 1.0 / legs, history=0)
    cost = len(method.b) * steps

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        back = backward_solve(params, v)
        u, info = solve((params, back), back)
        return u, info._replace(evaluations=cost * (1 + 2 * info.evaluations))

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        return exact_log_det(lambda z: transform(params, z), u)

    def slope(at: tuple[Params, jax.Array], z: jax.Array) -> jax.Array:
        field, t = at
        return velocity.apply(field, t, z)

    def estimate(key: jax.Array, estimator: Estimator, params: Params, u: jax.Array) -> tuple[jax.Array, LogDet]:
        if estimator is exact():
            v, total = leg.forward(params, u)
            return v, LogDet.exact(total)
        v, points, times = along(params, u)
        seen = jax.vmap(lambda k, t, z: trace(k, slope, 0.0, (params[0], t), z))(
            jax.random.split(key, steps + 1), times, points
        )
        shares = jnp.asarray(weights, u.dtype)
        error = jnp.linalg.norm(shares * seen.std_error)
        return v, LogDet(shares @ seen.value, error, jnp.zeros_like(error))

    def forward_step(params: Params, u: jax.Array, v_guess: jax.Array) -> jax.Array:
        del v_guess
        return transform(params, u)

    def backward_step(params: Params, v: jax.Array, u_guess: jax.Array) -> jax.Array:
        return backward_from_image(v, u_guess, transform(params, u_guess))

    def backward_from_image(v: jax.Array, u_guess: jax.Array, image: jax.Array) -> jax.Array:
        return v + (u_guess - image)

    def lipschitz(params: Params) -> jax.Array:
        constant, grown = velocity.certify(params[0]), jnp.ones(())
        for size in sizes.tolist():
            slopes: list[jax.Array] = []
            for row in method.a:
                slopes.append(constant * (1.0 + size * _mix(map(abs, row), slopes, constant)))
            grown = grown * (1.0 + size * _mix(map(abs, method.b), slopes, constant))
        return grown - 1.0

    leg = layer(
        spec=describe("leg"), init=velocity.init, transform=transform, invert=invert, log_det=log_det,
        forward_step=forward_step, backward_step=backward_step, backward_from_image=backward_from_image,
        lipschitz=lipschitz, blocks=cost, explicit=False,
    )._replace(estimate=estimate)  # fmt: skip
    return leg


def _mix(coefficients: Iterable[float], slopes: list[jax.Array], like: jax.Array) -> jax.Array:
    """sum_j coefficients_j slopes_j, of the shape of ``like``."""
    return sum((c * k for c, k in zip(coefficients, slopes, strict=True) if c), start=jnp.zeros_like(like))


def _method(name: str) -> Method:
    tableau = SOLVERS[name].tableau
    # the last stages of a method with an embedded error estimate serve that alone
    stages = int(np.flatnonzero(tableau.b_sol)[-1]) + 1
    a = ((), *(tuple(row.tolist()) for row in tableau.a_lower))
    return Method(a[:stages], tuple(tableau.b_sol.tolist())[:stages], (0.0, *tableau.c.tolist())[:stages])


def gauss_lobatto(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The steps + 1 nodes in [0, 1], both ends among them, and weights of the quadrature exact to degree 2 steps - 1."""
    legendre = np.polynomial.legendre.Legendre.basis(steps)
    nodes = np.concatenate([[-1.0], np.sort(legendre.deriv().roots().real), [1.0]])
    return (nodes + 1.0) / 2.0, 1.0 / (steps * (steps + 1) * legendre(nodes) ** 2)


EXAMPLES = {
    "continuous": [
        (continuous(hidden=(8,), legs=3), (5,)),
        (continuous(hidden=(4,), legs=1, steps=3, solver="tsit5", activation="lipswish", probes=2, probe="gaussian"), (2, 2)),
    ],
}
