"""A recording has the right pairs of state and output, and needs one more network evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian

from evaluation.tasks.recording import record
from samplers import (
    ancestral,
    edm,
    heun,
    langevin,
    predictor_corrector,
    sample,
    unipc,
)
from sde_lib import EDM, VP, example_keys

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
DATA = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))
LAW = VP()
TS = np.array([1.0, 0.6, 0.3, 0.1, 0.02])
METHODS = {
    "heun": heun(LAW),
    "unipc": unipc(LAW),
    "cp": predictor_corrector(ancestral(LAW), langevin(LAW, 0.16, at="start"), "original"),
}


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_evaluated_twice_and_nothing_changes(name):
    """The recording has the run's states and end, and the network's outputs at these states. The
    number of calls equals the counted evaluations, one more than without recording."""
    calls, exact, sampler = [], DATA.predict(LAW), METHODS[name]

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return exact(x, t)

    @jax.jit
    def both(key, x):
        usual = sample(key, exact, sampler, x, TS, lambda state: state.x)
        told = record(key, predict, sampler, x, TS)
        return usual, told, jax.vmap(exact)(told.x, told.t).x0

    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2)))
    usual, told, outputs = jax.block_until_ready(both(example_keys(0, np.arange(6)), x))
    jax.effects_barrier()
    assert len(calls) == told.nfe == usual.nfe + 1
    np.testing.assert_allclose(told.t, TS)
    np.testing.assert_allclose(told.x0, outputs, rtol=1e-12)
    np.testing.assert_allclose(told.x[-1], usual.x, rtol=1e-12)
    if name == "cp":  # the state is recorded after the corrector, which has moved the start
        assert np.all(np.any(np.asarray(told.x[0]) != x, axis=1))
    else:
        np.testing.assert_allclose(told.x[0], x)
        np.testing.assert_allclose(told.x[1:-1], usual.trace[:-1], rtol=1e-12)


def test_a_grid_per_example_and_added_noise():
    """A step that first adds noise is recorded at the noisier state and the time of this state."""
    law, exact = EDM(), DATA.predict(EDM())
    sampler = edm(law, s_churn=1.0)
    ts = np.stack([[20.0, 5.0, 1.0, 0.2, 0.05], [10.0, 4.0, 0.9, 0.1, 0.03]], axis=1)
    x = 20.0 * jnp.asarray(np.random.default_rng(0).standard_normal((2, 2)))
    told, outputs = jax.jit(
        lambda x: (
            found := record(jax.random.key(0), exact, sampler, x, ts),
            jax.vmap(exact)(found.x, found.t).x0,
        )
    )(x)
    np.testing.assert_allclose(told.x0, outputs, rtol=1e-12)
    np.testing.assert_allclose(told.t[1:-1], 1.25 * ts[1:-1], rtol=1e-9)
    np.testing.assert_allclose(told.t[-1], ts[-1])


def test_a_method_that_cannot_be_recorded_says_so():
    x = jnp.ones((1, 2))
    with pytest.raises(ValueError, match="inside a loop of its own"):
        record(jax.random.key(0), DATA.predict(LAW), langevin(LAW, 0.16), x, TS)
