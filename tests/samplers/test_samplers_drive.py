"""Properties of all fixed-step samplers: counts, keys, traces, times per example."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Empirical, Mixture
from sklearn.datasets import load_digits

from editing import Travel, time_travel
from restoration import repaint
from samplers import (
    CORRECTORS,
    PREDICTORS,
    Restarts,
    Sampler,
    State,
    chain,
    ddim,
    dpm_fast,
    dpm_multistep,
    edm,
    lml,
    restart,
    sample,
    score_sde,
    teleport,
)
from samplers.base import start
from sde_lib import EDM, VP, example_keys
from sde_lib.prediction import Prediction, prediction_of

LAW = VP()
DATA = Mixture(np.array([0.5, 0.5]), np.array([[-1.0, 0.0], [1.0, 0.5]]), np.array([0.3, 0.4]))
TS = np.linspace(1.0, 0.01, 7, dtype=np.float32)
SAMPLERS = {
    **{name: make(LAW) for name, make in PREDICTORS.items()},
    **{name: make(LAW, 0.1, 3) for name, make in CORRECTORS.items()},
}
SAMPLERS["dpm_multistep with noise"] = dpm_multistep(LAW, eta=1.0)
SAMPLERS["edm with churn"] = edm(LAW, s_churn=3.0)
SAMPLERS["chain"] = chain(SAMPLERS["heun"], SAMPLERS["langevin"], SAMPLERS["ancestral"])
# With a key per example, these samples must differ from one another.
DETERMINISTIC = {
    "heun", "ddim", "dpm_solver", "dpm_multistep", "adams_bashforth", "unipc", "edm", "bdia",
    "restoration_degradation", "velocity_ab", "weighted"
}  # fmt: skip
every = pytest.mark.parametrize("name", SAMPLERS)


def counted(predict):
    """Return the prediction function and a list of its calls on the host.

    A callback without arguments runs once for all examples, with and without `vmap`.
    """
    calls = []

    def wrapped(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return predict(x, t)

    return wrapped, calls


@every
def test_nfe_is_the_true_number_of_calls(name):
    """`nfe` is the number of calls on the host, also with a corrector's inner loop."""
    predict, calls = counted(DATA.predict(LAW))
    x, key, sampler = np.ones((3, 2), np.float32), jax.random.key(0), SAMPLERS[name]
    runs = [(lambda x: sample(key, predict, sampler, x, TS, denoise=True).nfe, 1)]
    if name == "chain":
        runs += [(jax.vmap(lambda x: sample(key, predict, sampler, x[None], TS).nfe), 0)]
    for run, extra in runs:
        calls.clear()
        nfe = np.asarray(jax.jit(run)(x))
        jax.effects_barrier()
        assert np.all(nfe == len(calls)) and len(calls) == 6 * sampler.nfe + extra


def run_of(name):
    """Return `(numbers, x, ts) -> x`; the numbers of the examples seed their keys."""

    @jax.jit
    def run(numbers, x, ts):
        keys = example_keys(0, numbers)
        return sample(keys, DATA.predict(LAW), SAMPLERS[name], x, ts, denoise=True).x

    return run


SEVEN, STARTS = np.arange(7), np.float32(np.random.default_rng(0).standard_normal((7, 2)))
ORDER = np.array([3, 6, 0, 5, 1, 4, 2])
SEVEN_GRIDS = TS[:, None] * np.linspace(0.7, 1.0, 7, dtype=np.float32)[None]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@every
def test_a_sample_depends_on_its_own_key_and_grid_alone(name):
    """In another order and beside other examples, a sample is the same up to rounding."""
    run = run_of(name)
    batch = np.asarray(run(SEVEN, STARTS, SEVEN_GRIDS))
    again = run(ORDER, STARTS[ORDER], SEVEN_GRIDS[:, ORDER])
    np.testing.assert_allclose(again, batch[ORDER], **CLOSE)
    mine = SEVEN == 4
    others = np.where(mine, SEVEN, SEVEN + 20), np.where(mine[:, None], STARTS, 2.0 * STARTS)
    beside = run(*others, np.where(mine, SEVEN_GRIDS, TS[:, None]))
    np.testing.assert_allclose(np.asarray(beside)[4], batch[4], **CLOSE)
    # With other keys, the same start and grid give another sample if the method draws noise.
    twice = run(SEVEN, np.tile(STARTS[:1], (7, 1)), np.tile(TS[:, None], (1, 7)))
    spread = np.max(np.std(twice, axis=0))
    assert (spread < 1e-6) if name in DETERMINISTIC else (spread > 1e-4)


@pytest.mark.parametrize("name", ["ancestral", "dpm_solver", "langevin", "edm with churn", "chain"])
def test_one_example_on_a_grid_without_a_batch_axis(name):
    """A grid without a batch axis works, for one method of each kind; others have own tests."""
    run = run_of(name)
    alone = run(SEVEN[4:5], STARTS[4:5], SEVEN_GRIDS[:, 4])
    batch = np.asarray(run(SEVEN, STARTS, SEVEN_GRIDS))
    np.testing.assert_allclose(np.asarray(alone)[0], batch[4], **CLOSE)


def test_steps_draw_independent_noise():
    """Each step folds its number into the key, so different steps draw independent noise."""
    seen = Sampler(
        lambda x, t: State(x),
        lambda key, predict, state, span: State(LAW.noise(key, state.x)),
        nfe=0,
    )

    @jax.jit
    def traces(x, ts):
        keys = jax.random.key(0), example_keys(0, jnp.arange(4))
        run = lambda key, sampler: sample(key, None, sampler, x, ts, lambda state: state.x).trace
        return [run(key, sampler) for key in keys for sampler in (seen, chain(seen, seen))]

    for drawn in traces(np.zeros((4, 50), np.float32), TS):
        correlation = np.corrcoef(np.asarray(drawn).reshape(6, -1))
        assert np.max(np.abs(correlation - np.eye(6))) < 5 / 200**0.5


def test_chained_parts_draw_independent_noise_and_keep_their_own_memory():
    def adder(weight):
        def step(key, predict, state, span):
            noise = LAW.noise(key, state.x)
            return State(state.x + weight * noise, state.memory + weight)

        return Sampler(lambda x, t: State(x, jnp.asarray(10.0 * weight)), step, nfe=2)

    both, key = chain(adder(1.0), adder(-1.0)), jax.random.key(0)
    run = jax.jit(lambda x, ts: sample(key, None, both, x, ts, lambda state: state))
    result = jax.device_get(run(np.zeros((4, 50), np.float32), TS[:3]))
    np.testing.assert_allclose(result.trace.memory[0], [11.0, 12.0])
    np.testing.assert_allclose(result.trace.memory[1], [-11.0, -12.0])
    # The same noise in both parts would cancel; independent noise has std sqrt(2).
    assert abs(np.std(result.trace.x[0]) - 2**0.5) < 0.3
    assert both.nfe == 4 and result.nfe == 8


def test_what_completes_the_start_is_called_once():
    """`enter` is called once in a run, also if noise or inversion take the run back.

    The method adds 1.6 to a draw of the prior, and its steps leave x unchanged. Chains and wrappers
    keep its `enter`.
    """
    path, x = EDM(t1=1.0), jnp.zeros((2000, 1))
    still = Sampler(start, lambda key, predict, state, span: state, 0, lambda x, t: x + 1.6)
    method = lml(path, chain(still, Sampler(start, still.step, 0)), placement="data", eta=0.0)
    ts, key = jnp.linspace(1.0, 0.01, 5), jax.random.key(0)
    predict = lambda x, t: Prediction(x, jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros_like(x))
    given = (key, path, predict, method, x, ts)
    back = Restarts(float(ts[3]), float(ts[2]), 2, 2)
    runs = {
        "sample": lambda: sample(key, predict, method, x, ts),
        "restart": lambda: restart(path, method, ts, [back])(key, predict, x),
        "repaint": lambda: repaint(*given, repeats=2),
        "time_travel": lambda: time_travel(*given, travel=Travel((0.0, 1.0), 2)),
    }
    for name, mean in jax.jit(lambda: {k: jnp.mean(run().x) for k, run in runs.items()})().items():
        assert mean == pytest.approx(1.6, abs=0.1), name


def test_what_is_not_finite_has_failed():
    """In every kind of run, the second of three examples, which starts from nan, has failed."""
    x, key, predict = jnp.ones((3, 2)).at[1, 0].set(jnp.nan), jax.random.key(0), DATA.predict(LAW)
    ts, method = jnp.linspace(1.0, 0.1, 4), SAMPLERS["ddim"]
    given = (key, LAW, predict, method, x, ts)
    level = lambda t: float(jnp.exp(-LAW.lam(jnp.asarray(t))))
    flow = lambda x, s, t: x
    again = restart(LAW, method, ts, [Restarts(level(0.1), level(0.5), 1, 2)])
    original = {"num_scales": 40, "eps": 0.1, "snr": 0.1, "n_steps": 1, "denoise": True}
    theirs = score_sde(
        LAW, "ancestral", "none", probability_flow=False, continuous=True, **original
    )
    runs = {
        "sample": lambda: sample(key, predict, method, x, ts),
        "denoised": lambda: sample(key, predict, method, x, ts, denoise=True),
        "restart": lambda: again(key, predict, x),
        "teleport": lambda: teleport(
            flow, lambda key, predict, x, ts: sample(key, predict, method, x, ts), LAW, ts, 9.0
        )(key, predict, x),
        "repaint": lambda: repaint(*given),
        "time_travel": lambda: time_travel(*given, travel=Travel(repeats=1)),
        "dpm_fast": lambda: dpm_fast(LAW, 3, 0.1)(key, predict, x),
        "score_sde": lambda: theirs(key, predict, x),
    }
    for name, failed in jax.jit(lambda: {k: run().failed for k, run in runs.items()})().items():
        np.testing.assert_array_equal(failed, [False, True, False], name)


def test_trace_is_the_state_after_each_step():
    run = lambda ts, collect=None: sample(
        jax.random.key(0), DATA.predict(LAW), SAMPLERS["ddim"], jnp.ones((3, 2)), ts, collect
    )
    whole = jax.jit(lambda ts: run(ts, lambda state: state.x))(TS)
    assert whole.trace.shape == (6, 3, 2)
    # The grids repeat their n-th node to the end of the run; DDIM does nothing in such steps.
    ends = jax.jit(jax.vmap(lambda ts: run(ts).x))
    grids = np.stack([np.append(TS[: n + 1], np.full(6 - n, TS[n])) for n in (1, 4, 6)])
    for n, end in zip((1, 4, 6), ends(grids)):
        np.testing.assert_allclose(np.asarray(whole.trace)[n - 1], end, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(whole.trace)[-1], whole.x)
    assert jax.eval_shape(run, TS).trace is None


COUNTER = Sampler(
    lambda x, t: State(x),
    lambda key, predict, state, span: State(state.x + LAW.noise(key, span.t)),
    0,
)


@pytest.mark.parametrize("frames", [3, 6, 9])
def test_frames_are_those_of_the_whole_trace(frames):
    """Frames go from the first step to the last; with fewer steps than frames some occur twice."""
    collect = lambda state: {"x": state.x, "sum": jnp.sum(state.x)}
    run = lambda **kept: sample(
        jax.random.key(0), None, COUNTER, jnp.zeros((3, 2)), TS, collect, **kept
    )
    whole, some = run(), run(frames=frames)
    numbers = {3: [0, 2, 5], 6: range(6), 9: [0, 1, 1, 2, 2, 3, 4, 4, 5]}[frames]
    for name, trace in whole.trace.items():
        np.testing.assert_array_equal(some.trace[name], trace[np.asarray(numbers)])
    np.testing.assert_array_equal(some.x, whole.x)


def test_frames_take_the_memory_of_frames():
    """With nine frames of 500 steps, memory is that of ten states (80 kB), not of all (4 MB)."""
    ts, x = jnp.linspace(1.0, 0.0, 501), jnp.zeros((2, 1000))
    run = lambda x, **kept: sample(
        jax.random.key(0), None, COUNTER, x, ts, lambda state: state.x, **kept
    )
    taken = lambda **kept: sum(
        getattr(jax.jit(lambda x: run(x, **kept)).lower(x).compile().memory_analysis(), name)
        for name in ("temp_size_in_bytes", "output_size_in_bytes")
    )
    assert taken() > 4e6 and taken(frames=9) < 3e5


def test_remat_takes_the_memory_of_one_step():
    """With `remat` a gradient through 100 steps holds the inner arrays (8 kB) of only one step.

    The gradient by the weight is the same to rounding.
    """
    ts, x = jnp.linspace(1.0, 0.01, 101), jnp.ones((1, 4))

    def predict_of(weight):
        def predict(x, t):
            wide = jnp.tanh(weight * x[..., None] * jnp.linspace(0.5, 1.0, 500))
            return prediction_of(LAW, x, t, jnp.mean(wide, axis=-1), x)

        return predict

    def run(weight, remat):
        found = sample(jax.random.key(0), predict_of(weight), ddim(LAW), x, ts, remat=remat)
        return jnp.sum(found.x**2)

    grads = [jax.jit(jax.grad(partial(run, remat=remat))) for remat in (False, True)]
    compiled = [grad.lower(0.7).compile() for grad in grads]
    plain, again = (float(program(0.7)) for program in compiled)
    assert plain != 0.0 and again == pytest.approx(plain, rel=1e-5)
    memory = [program.memory_analysis().temp_size_in_bytes for program in compiled]
    assert memory[0] > 8e5 and memory[1] < 5e4


def test_denoising_ends_with_the_conditional_mean():
    predict = DATA.predict(LAW)

    @jax.jit
    def both(x, ts):
        run = lambda denoise: sample(
            jax.random.key(0), predict, SAMPLERS["ancestral"], x, ts, denoise=denoise
        )
        return run(False).x, run(True).x

    noisy, clean = jax.device_get(both(np.float32([[1.0, 0.2]]), TS))
    np.testing.assert_allclose(clean, predict(noisy, TS[-1]).x0, rtol=1e-5)
    assert not np.allclose(clean, noisy, rtol=1e-3)


def test_with_the_optimal_denoiser_of_a_finite_set_samples_land_on_it():
    """With the optimal denoiser of 100 images, each sample ends on one of these images."""
    points = load_digits().data[:100] / 8.0 - 1.0
    predict, ts = Empirical(points).predict(LAW), np.linspace(1.0, 1e-3, 51, dtype=np.float32)
    key, names = jax.random.key(0), ("heun", "ancestral")
    run = jax.jit(
        lambda x: [sample(key, predict, SAMPLERS[name], x, ts, denoise=True).x for name in names]
    )
    for x in run(np.float32(np.random.default_rng(1).standard_normal((16, 64)))):
        gaps = np.linalg.norm(np.asarray(x)[:, None] - points[None], axis=-1)
        assert np.max(np.min(gaps, axis=1)) < 1e-3
        assert len(np.unique(np.argmin(gaps, axis=1))) > 5


def test_any_event_shape_passes():
    """Examples may be images or vectors."""
    x = jnp.ones((2, 4, 4, 3))
    flat = DATA.predict(LAW)
    predict = lambda x, t: jax.tree.map(
        lambda v: v.reshape(x.shape), flat(x.reshape(-1, 2), jnp.broadcast_to(t, (x.size // 2,)))
    )
    for name, sampler in SAMPLERS.items():
        out = jax.eval_shape(lambda f=sampler: sample(jax.random.key(0), predict, f, x, TS).x)
        assert out.shape == x.shape, name
