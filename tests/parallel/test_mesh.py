"""The placement of batches and states on eight devices, and the collectives of their programs."""

import json

import pytest

# Prints as JSON the values that the tests below check.
SCRIPT = """
import json, re
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import PartitionSpec as P
from parallel.mesh import *
from training.sharding import jit_step
from training.state import create_state
from training.step import make_train_step

found = {"devices": jax.device_count()}

# Rows of each device apart: a loop that ends when the slowest example of a device has.
def halvings(scale, x):
    def body(v):
        n, x = v
        return n + 1, x * jnp.where(x > 1, 0.5, 1.0)
    n, x = jax.lax.while_loop(lambda v: jnp.any(v[1] > 1), body, (0, x * scale))
    return jnp.full(len(x), n), x, len(x) * jnp.ones(len(x), int)

x = np.float32([3, 5, 9, 17, 33, 65, 129, 257, 513, 1025, 2049])
apart = by_device(halvings, 1)(1.0, x)
found["loops"], _, found["rows"] = (np.asarray(v).tolist() for v in apart)
found["together"] = np.asarray(by_device(halvings, 1, together=True)(1.0, x)[0]).tolist()
found["together8"] = np.asarray(by_device(halvings, 1, together=True)(1.0, x[:8])[0]).tolist()
mean = lambda x: jnp.broadcast_to(jnp.mean(x), x.shape)
found["mean"] = float(by_device(mean, 0, together=True)(x[:8])[0])
keys = jax.random.split(jax.random.key(0), 11)
draw = lambda k, label: jax.vmap(jax.random.normal)(k)
found["keys"] = bool(jnp.all(by_device(draw, 0)(keys, None) == draw(keys, None)))

# A state that is split, and the collectives of a step.
params = {"kernel": jnp.ones((64, 256)), "odd": jnp.ones((4099,)), "bias": jnp.ones(256)}
params["tall"] = jnp.ones((512, 12))

def loss(params, state, key, batch):
    h = batch["x0"] @ params["kernel"] + params["bias"]
    value = jnp.mean(h**2) + jnp.mean(params["odd"] ** 2) + jnp.mean(params["tall"] ** 2)
    return value, {"loss": value, "t": h[:, 0]}

tx, batch = optax.adam(1e-2), {"x0": np.random.default_rng(0).normal(size=(16, 64))}
batch = {"x0": batch["x0"].astype(np.float32)}
for fsdp in (1, 4, 8):
    mesh = make_mesh(fsdp)
    state = create_state(jax.tree.map(jnp.copy, params), tx, 0)
    shardings = state_shardings(state, mesh)
    step = jit_step(make_train_step(gathered(loss, mesh), tx, 0.9), mesh, 1, shardings)
    state = jax.device_put(state, shardings)
    text = step.lower(state, put_batch(batch, mesh)).compile().as_text()
    ops = {op: len(re.findall(rf"= \\S+ {op}\\(|= \\(.*\\) {op}\\(", text))
           for op in ("all-reduce", "all-gather", "all-to-all", "collective-permute")}
    state, metrics = step(state, put_batch(batch, mesh))
    whole = localised(state.params, mesh)
    found[f"fsdp{fsdp}"] = {
        "ops": ops,
        "loss": float(metrics["loss"]),
        "spec": {k: str(v.sharding.spec) for k, v in state.params.items()},
        "own": {k: v.addressable_shards[0].data.size for k, v in state.opt_state[0].mu.items()},
        "whole": {k: v.addressable_shards[0].data.size for k, v in whole.items()},
        "kernel": float(jnp.sum(whole["kernel"] * jnp.arange(256))),
    }
try:
    make_mesh(3)
except ValueError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(program):
    result = program.script(SCRIPT, devices=8)
    assert result.status == 0, result.err
    return json.loads(result.out.splitlines()[-1])


def test_each_device_takes_its_own_rows(found):
    """Eleven rows on eight devices are padded to two rows a device. Each device's loop ends when
    the larger of its two rows has finished."""
    assert found["devices"] == 8
    assert found["loops"] == [3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 12]
    assert found["rows"] == [2] * 11
    # With `together=True` all examples share one loop, whether 8 divides their number or not.
    assert found["together"] == [12] * 11
    assert found["together8"] == [9] * 8
    assert found["mean"] == pytest.approx((3 + 5 + 9 + 17 + 33 + 65 + 129 + 257) / 8)
    assert found["keys"]


def test_a_split_state(found):
    """Large leaves are split over fsdp along their longest divisible axis; small ones are whole."""
    whole = {"kernel": 64 * 256, "odd": 4099, "bias": 256, "tall": 512 * 12}
    assert found["fsdp1"]["own"] == whole
    for parts in (4, 8):
        own = found[f"fsdp{parts}"]["own"]
        assert own == {**whole, "kernel": 64 * 256 // parts, "tall": 512 * 12 // parts}
        assert found[f"fsdp{parts}"]["whole"] == whole
    spec = found["fsdp4"]["spec"]
    assert spec["kernel"] == "P(None, 'fsdp')" and "fsdp" in spec["tall"]
    assert "fsdp" not in spec["odd"] + spec["bias"]


def test_collectives_of_a_step(found):
    """A step sums all gradients once. A split state also gathers each of its large leaves once."""
    # One more all-gather collects the times of the batch for the metrics.
    assert found["fsdp1"]["ops"] == {
        "all-reduce": 1,
        "all-gather": 1,
        "all-to-all": 0,
        "collective-permute": 0,
    }
    for parts in (4, 8):
        ops = found[f"fsdp{parts}"]["ops"]
        assert ops["all-gather"] == 3
        assert ops["all-to-all"] == ops["collective-permute"] == 0


def test_a_step_is_the_same_however_it_is_split(found):
    one = found["fsdp1"]
    for parts in (4, 8):
        assert found[f"fsdp{parts}"]["loss"] == pytest.approx(one["loss"], rel=1e-6)
        assert found[f"fsdp{parts}"]["kernel"] == pytest.approx(one["kernel"], rel=1e-6)


def test_devices_that_do_not_divide(found):
    assert found["error"].startswith("mesh.fsdp is 3, which does not divide the 8 devices")
