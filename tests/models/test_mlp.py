"""The MLP: shapes, input features, embeddings, dropout, and training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models.mlp import MLP, fourier_features

SMALL = {"width": 32, "depth": 2, "time_dim": 16}


def test_starts_at_zero_and_restores_the_shape(jit):
    x, cond = np.ones((3, 4, 2, 5), np.float32), np.arange(3, dtype=np.float32)
    y, variables = jit(MLP(**SMALL).init_with_output)(jax.random.key(0, impl="rbg"), x, cond)
    assert y.shape == x.shape and y.dtype == jnp.float32
    np.testing.assert_array_equal(y, 0)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}


def test_an_image_is_its_vector(draw, jit):
    rng = np.random.default_rng(0)
    x, cond = rng.standard_normal((3, 4, 2, 5), np.float32), np.arange(3.0, dtype=np.float32)
    model = MLP(**SMALL)
    variables = draw(model, x, cond)
    apply = jit(model.apply)
    run = lambda *given: np.asarray(apply(*given))
    y = run(variables, x, cond)
    np.testing.assert_array_equal(run(variables, x.reshape(3, 40), cond), y.reshape(3, 40))
    alone = run(variables, x[1:2], cond[1:2])
    np.testing.assert_allclose(alone[0], y[1], atol=1e-5)


@pytest.mark.parametrize("multiples", [3, (1, 2, 4)])
def test_fourier_features(multiples):
    # At x = 1/8 the angles are pi/4, pi/2 and pi.
    y = jax.jit(lambda x: fourier_features(x, multiples))(np.array([[0.125]], np.float32))
    expected = [0.125, 0.5**0.5, 1.0, 0.0, 0.5**0.5, 0.0, -1.0]
    np.testing.assert_allclose(np.asarray(y)[0], expected, atol=1e-6)


def test_fourier_features_are_an_input(draw, jit):
    x, cond = np.zeros((1, 6), np.float32), np.ones(1, np.float32)
    model = MLP(**SMALL, fourier_features=(64, 128))
    assert draw(model, x, cond)["params"]["input"]["kernel"].shape == (6 * 5, 32)
    # x and x + 1/64 differ by whole periods of both features, so without x itself they are equal.
    variables = draw(model, x, cond)
    kernel = variables["params"]["input"]["kernel"]
    kernel[:6] = 0
    run = jit(model.apply)
    y, period, other = (
        np.asarray(run(variables, x + np.float32(d), cond)) for d in (0.0, 1 / 64, 1 / 200)
    )
    np.testing.assert_allclose(period, y, atol=1e-4)
    assert np.abs(other - y).max() > 0.1


@pytest.mark.parametrize(
    "embedding_type, cond",
    [
        ("positional", np.linspace(0, 999, 60)),
        ("positional", np.arange(60)),
        ("linear", np.linspace(-15, 15, 60)),
        ("fourier", np.geomspace(0.01, 50, 60)),
    ],
)
def test_embedding_tells_levels_apart(embedding_type, cond, draw, jit):
    x = np.ones((60, 5), np.float32)
    model = MLP(**SMALL, embedding_type=embedding_type)
    cond = cond.astype(np.int32 if cond.dtype == int else np.float32)
    y = np.asarray(jit(model.apply)(draw(model, x, cond), x, cond))
    assert np.isfinite(y).all()
    distance = np.abs(y[:, None] - y[None]).max(axis=-1) + np.eye(60)
    assert distance.min() > 1e-4


def test_dropout_only_in_training(draw, jit):
    x, cond = np.ones((2, 5), np.float32), np.ones(2, np.float32)
    model = MLP(**SMALL, dropout=0.5)
    variables = draw(model, x, cond)
    evaluate = jit(model.apply)(variables, x, cond)
    train = jit(lambda k: model.apply(variables, x, cond, train=True, rngs={"dropout": k}))
    first, second = (np.asarray(train(jax.random.key(seed, impl="rbg"))) for seed in (0, 1))
    assert np.abs(first - second).max() > 0.01 and np.abs(first - evaluate).max() > 0.01
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda: model.apply(variables, x, cond, train=True))


def test_bfloat16(draw, jit, rel):
    x = np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)
    cond = np.array([0.3, 700.0], np.float32)
    variables = draw(MLP(**SMALL), x, cond)
    half = MLP(**SMALL, dtype=jnp.bfloat16)
    y = jit(half.apply)(variables, x, cond)
    assert y.dtype == jnp.float32
    assert 1e-4 < rel(y, jit(MLP(**SMALL).apply)(variables, x, cond)) < 0.05
    shapes = jax.eval_shape(half.init, jax.random.key(0), x, cond)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype("float32")}


def test_learns_the_noise_of_gaussian_data():
    """The network learns the best prediction of z, sigma (x - mu) / (s^2 + sigma^2).

    The data are N(mu, s^2), and x = x0 + sigma z. A network that ignores its label cannot learn the
    dependence on the noise level.
    """
    mu, s = np.array([1.0, -0.5, 0.0]), 0.5
    model = MLP(width=64, depth=2, time_dim=32, embedding_type="fourier")
    tx = optax.adam(optax.cosine_decay_schedule(5e-3, 200))
    rng = np.random.default_rng(0)

    def draw_batch(n):
        sigma = np.exp(rng.uniform(-2.5, 2.0, (n, 1)))
        z = rng.standard_normal((n, 3))
        x = mu + s * rng.standard_normal((n, 3)) + sigma * z
        best = sigma * (x - mu) / (s**2 + sigma**2)
        scaled = x / np.sqrt(1 + sigma**2)
        return [a.astype(np.float32) for a in (scaled, sigma[:, 0], z, best)]

    def step(carry, given):
        params, state = carry
        x, sigma, z = given
        grads = jax.grad(lambda p: jnp.mean((model.apply(p, x, sigma) - z) ** 2))(params)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def learn(key, batches, x, sigma):
        params = model.init(key, x, sigma)
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
        return model.apply(params, x, sigma)

    batches = [np.stack(parts) for parts in zip(*(draw_batch(256)[:3] for _ in range(200)))]
    x, sigma, _, best = draw_batch(2000)
    found = learn(jax.random.key(0, impl="rbg"), batches, x, sigma)
    assert np.mean((found - best) ** 2) < 0.02 * np.mean(best**2)


def test_unknown_option():
    with pytest.raises(ValueError, match=r"embedding_type 'sinus'; known: 'positional'"):
        MLP(embedding_type="sinus").check((8, 8, 1))
    with pytest.raises(ValueError, match=r"nonlinearity 'gelu'; known: 'elu'.*mean 'elu'"):
        MLP(nonlinearity="gelu").check()
    with pytest.raises(ValueError, match="time_dim must be at least 4"):
        MLP(time_dim=2).check()
