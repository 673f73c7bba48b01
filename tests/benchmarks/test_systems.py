"""Comparators on a correlated Gaussian with holes: each learns more than the mean of a column."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.systems import SYSTEMS, gain
from benchmarks.systems.emflow import JITTER, conditional
from benchmarks.systems.imputed import filled_by_neighbours
from benchmarks.systems.misgan import gradient_penalty
from benchmarks.systems.miwae import OBSERVATIONS, Model, Observation, bound, completions, importance
from benchmarks.systems.realnvp import RealNvp, decode, encode, fresh

SIZES = {
    "column_mean": {},
    "gaussian_em": {},
    "gaussian_pairwise": {},
    "mice": {"num_samples": 4},
    "missforest": {"trees": 10, "rounds": 2},
    "emflow": {"epochs": 15, "batch_size": 64, "learning_rate": 1e-3, "pairs": 1},
    "mcflow": {"epochs": 200, "learning_rate": 3e-3, "pairs": 1},
    # before the mask generator knows that masks are 0 or 1, data are made to fit half a mask: fewer steps end there
    "misgan": {
        "epochs": 10_000, "batch_size": 256, "learning_rate": 1e-3, "hidden": (64,), "critic_hidden": (64,),
        "imputer_hidden": (64,), "latent": 8, "num_samples": 8,
    },
    "gain": {"steps": 1000, "hidden": 6},
    "miwae": {"epochs": 60, "learning_rate": 2e-3, "hidden": 32, "latent": 2, "proposals": 200},
}  # fmt: skip

# starts of which one must learn: whether an adversarial game comes to its end hangs on the rounding of the machine too
STARTS = {"misgan": 3}


@pytest.fixture(scope="module")
def correlated():
    """Rows in (0, 1) of one factor and noise, a third of each missing."""
    rng = np.random.default_rng(0)
    factor, noise = rng.standard_normal((600, 1)), rng.standard_normal((600, 4))
    rows = np.clip(0.5 + 0.15 * factor + 0.04 * noise, 0, 1).astype(np.float32)
    mask = rng.random(rows.shape) > 0.3
    return rows[:400], mask[:400], rows[400:], mask[400:]


def rmse(values, truth, mask):
    return float(np.sqrt(np.mean((values - truth)[~mask] ** 2)))


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_every_system_learns_what_columns_tell_of_each_other(name, correlated):
    train, train_mask, test, test_mask = correlated
    # holes that hold nothing: no system may look into them
    arguments = np.where(train_mask, train, np.nan), train_mask, np.where(test_mask, test, np.nan), test_mask
    bare = SYSTEMS["column_mean"](jax.random.key(0), *arguments)
    for seed in range(STARTS.get(name, 1)):
        done = SYSTEMS[name](jax.random.key(seed), *arguments, **SIZES[name])
        learned = rmse(done.mean, test, test_mask) < 0.8 * rmse(bare.mean, test, test_mask)
        if learned:
            break
    assert (done.mean[test_mask] == test[test_mask]).all()
    assert done.mean.min() >= 0
    assert done.mean.max() <= 1
    if name != "column_mean":
        assert learned
        assert done.seconds > 0
        assert done.steps > 0
    if done.samples is not None:
        assert (done.samples[:, :, :] == test[:, None])[np.broadcast_to(test_mask[:, None], done.samples.shape)].all()
        assert done.samples.std(axis=1)[~test_mask].min() > 0


def test_realnvp_leads_back_and_knows_its_volume():
    flow = RealNvp(4, pairs=1)
    params = fresh(flow, jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)), jnp.float32)
    z, log_det = encode(flow, params, x)
    np.testing.assert_allclose(decode(flow, params, z), x, atol=1e-5)
    jacobians = jax.vmap(jax.jacfwd(lambda t: encode(flow, params, t)[0]))(x)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(np.asarray(jacobians))[1], atol=1e-5)


def test_emflows_conditional_is_that_of_its_gaussian():
    rng = np.random.default_rng(1)
    root = rng.standard_normal((4, 4))
    covariance, mean, z = root @ root.T + np.eye(4), rng.standard_normal(4), rng.standard_normal(4)
    mask = np.array([True, False, True, False])
    centre, spread = conditional(*(jnp.asarray(t, jnp.float32) for t in (mean, covariance, z)), jnp.asarray(mask))
    seen = covariance[np.ix_(mask, mask)] + JITTER * np.eye(2)
    gain = np.linalg.solve(seen, covariance[np.ix_(mask, ~mask)]).T
    np.testing.assert_allclose(centre[~mask], mean[~mask] + gain @ (z - mean)[mask], rtol=1e-4)
    expected = covariance[np.ix_(~mask, ~mask)] - gain @ covariance[np.ix_(mask, ~mask)]
    np.testing.assert_allclose(spread[np.ix_(~mask, ~mask)], expected, rtol=1e-4)
    assert (spread[mask] == 0).all()
    assert (centre[mask] == jnp.asarray(z, jnp.float32)[mask]).all()


def test_images_are_first_filled_with_a_nearest_pixel():
    rows = np.array([[0.1, 0, 0, 0, 0, 0, 0, 0, 0.9]], np.float32)
    mask = np.array([[1, 0, 0, 0, 0, 0, 0, 0, 1]], bool)
    filled = filled_by_neighbours(rows, mask, (3, 3)).reshape(3, 3)
    assert filled[0, 1] == filled[1, 0] == np.float32(0.1)
    assert filled[2, 1] == filled[1, 2] == np.float32(0.9)
    assert filled_by_neighbours(rows, np.zeros_like(mask), (3, 3)).max() == 0.5


def test_gradient_penalty_of_a_linear_critic_is_that_of_its_slope():
    rng = np.random.default_rng(2)
    slope = jnp.asarray(rng.standard_normal(5), jnp.float32)
    first, second = (jnp.asarray(rng.random((7, 5)), jnp.float32) for _ in range(2))
    penalty = jax.value_and_grad(lambda s: gradient_penalty(lambda t: s @ t, jax.random.key(0), first, second))
    value, gradient = penalty(slope)
    norm = np.linalg.norm(slope)
    np.testing.assert_allclose(value, (norm - 1) ** 2, rtol=1e-5)
    np.testing.assert_allclose(gradient, 2 * (norm - 1) * slope / norm, rtol=1e-5)
    # a flat critic pays in full and has a gradient
    value, gradient = penalty(0 * slope)
    np.testing.assert_allclose(value, 1.0)
    assert jnp.isfinite(gradient).all()


def test_gradient_penalty_is_taken_between_its_two_sides():
    # grad of |t|^2 / 2 is t, of norm |first| everywhere between a point and itself
    first = jnp.asarray(np.random.default_rng(3).random((7, 5)), jnp.float32)
    value = gradient_penalty(lambda t: t @ t / 2, jax.random.key(0), first, first)
    np.testing.assert_allclose(value, np.mean((np.linalg.norm(first, axis=-1) - 1) ** 2), rtol=1e-5)


def test_gains_losses_and_hints_are_those_of_its_formulas():
    rng = np.random.default_rng(4)
    p, x, g = rng.uniform(0.1, 0.9, (3, 6, 4)).astype(np.float32)
    mask = (rng.random((6, 4)) > 0.5).astype(np.float32)
    logits = np.log(p / (1 - p))
    expected = -np.mean(mask * np.log(p) + (1 - mask) * np.log(1 - p))
    np.testing.assert_allclose(gain.discriminator_loss(logits, mask), expected, rtol=1e-5)
    expected = -np.mean((1 - mask) * np.log(p)) + 3 * np.sum(mask * (x - g) ** 2) / mask.sum()
    np.testing.assert_allclose(gain.generator_loss(logits, mask, x, g, 3.0), expected, rtol=1e-5)
    mask = jnp.asarray(rng.random((200, 50)) > 0.5, jnp.float32)
    hint = np.asarray(gain.hints(jax.random.key(0), mask, 0.9))
    told = hint[np.asarray(mask) == 1]
    assert set(np.unique(told)) == {0, 1}
    assert (hint[np.asarray(mask) == 0] == 0).all()
    assert abs(told.mean() - 0.9) < 5 * np.sqrt(0.09 / told.size)


class LinearGaussian:
    """x = W z + 0.3 e with two of five entries hidden, whose evidence and conditional mean are known."""

    rng = np.random.default_rng(5)
    weight, x = rng.standard_normal((5, 2)).astype(np.float32), rng.standard_normal(5).astype(np.float32)
    mask = np.array([True, False, True, True, False])
    seen = weight[mask]
    inverse = np.linalg.inv(seen @ seen.T + 0.09 * np.eye(3))
    evidence = -0.5 * (x[mask] @ inverse @ x[mask] - np.linalg.slogdet(inverse)[1] + 3 * np.log(2 * np.pi))
    centre, covariance = seen.T @ inverse @ x[mask], np.eye(2) - seen.T @ inverse @ seen
    mean = weight[~mask] @ centre
    variance = np.diag(weight[~mask] @ covariance @ weight[~mask].T) + 0.09

    @classmethod
    def model(cls, centre, scale):
        """With q = N(centre, diag scale^2) whatever is seen."""
        normal = Observation(
            1, False, lambda raw, x: jax.scipy.stats.norm.logpdf(x, raw[..., 0, :], 0.3), lambda raw: raw[..., 0, :],
            lambda key, raw: raw[..., 0, :] + 0.3 * jax.random.normal(key, raw[..., 0, :].shape),
        )  # fmt: skip
        return Model(
            lambda _, x: (jnp.asarray(centre), jnp.asarray(scale)), lambda _, z: (z @ cls.weight.T)[..., None, :], normal
        )


def test_miwaes_bound_lies_below_the_evidence_and_nears_it():
    known, keys = LinearGaussian, jax.random.split(jax.random.key(0), 4000)
    model = known.model(known.centre.astype(np.float32), 1.5 * np.sqrt(np.diag(known.covariance)).astype(np.float32))

    def of(count):
        values = jax.jit(jax.vmap(lambda k: bound(model, None, k, known.x, known.mask, count)))(keys)
        return float(values.mean()), float(values.std()) / np.sqrt(len(keys))

    (one, error), (many, error_many) = of(1), of(20)
    assert one + 5 * error < many
    assert many < known.evidence + 5 * error_many
    # the gap is half the variance of the mean weight, to first order
    log_weights, _ = importance(model, None, keys[0], known.x, known.mask, 100_000)
    weights = np.exp(np.asarray(log_weights) - known.evidence)
    assert abs(weights.mean() - 1) < 5 * weights.std() / np.sqrt(len(weights))
    assert abs(known.evidence - many - weights.var() / 40) < 5 * error_many + (weights.var() / 20) ** 2


def test_miwae_completes_a_linear_gaussian_as_its_conditional():
    known = LinearGaussian
    model = known.model(np.zeros(2, np.float32), np.ones(2, np.float32))
    mean, draws = completions(model, None, jax.random.key(1), known.x[None], known.mask[None], 20_000, 2000)
    log_weights, _ = importance(model, None, jax.random.key(1), known.x, known.mask, 20_000)
    weights = np.asarray(jax.nn.softmax(log_weights))
    bar = np.sqrt(known.variance * np.sum(weights**2))
    hidden = ~known.mask
    assert (abs(mean[0, hidden] - known.mean) < 5 * bar).all()
    bar = np.sqrt(known.variance * (np.sum(weights**2) + 1 / 2000))
    assert (abs(draws[0][:, hidden].mean(axis=0) - known.mean) < 5 * bar).all()
    spread = np.asarray(draws[0][:, hidden].var(axis=0))
    assert (abs(spread / known.variance - 1) < 5 * np.sqrt(2 * (np.sum(weights**2) + 1 / 2000))).all()


def test_miwaes_students_t_draws_have_its_law():
    student, raw = OBSERVATIONS["student"], jnp.broadcast_to(jnp.asarray([0.5, -1.0, 0.3])[:, None], (20_000, 3, 1))
    from scipy.stats import kstest, t

    drawn = np.asarray(student.sample(jax.random.key(0), raw))[:, 0]
    law = t(3 + np.log1p(np.exp(0.3)), 0.5, 1e-3 + np.log1p(np.exp(-1.0)))
    assert kstest(drawn, law.cdf).pvalue > 1e-6
    np.testing.assert_allclose(student.log_prob(raw[:5], jnp.asarray(drawn[:5, None]))[:, 0], law.logpdf(drawn[:5]), rtol=1e-4)
