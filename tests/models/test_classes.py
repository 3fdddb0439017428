"""Networks conditional on a class, and classifiers."""

from itertools import pairwise

import jax
import numpy as np
import pytest

from models import CLASSIFIERS, DDPM, MLP, NCSNpp, WideResNet

CONVOLUTIONAL = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": ()}
TOLD = {
    "mlp": lambda n: MLP(width=16, depth=1, time_dim=16, num_classes=n),
    "ncsnpp": lambda n: NCSNpp(**CONVOLUTIONAL, embedding_type="positional", num_classes=n),
    # 64 channels in 32 groups: with one channel per group, the norm would remove the embedding.
    "ddpm": lambda n: DDPM(**{**CONVOLUTIONAL, "nf": 64, "ch_mult": (1,)}, num_classes=n),
}
X = np.random.default_rng(0).standard_normal((3, 8, 8, 2), np.float32)
COND = np.array([10.0, 300.0, 800.0], np.float32)


@pytest.mark.parametrize("name", TOLD)
def test_a_class_is_of_its_own_example(name, draw, jit):
    model = TOLD[name](5)
    variables = draw(model, X, COND)
    apply = jit(lambda v, label: model.apply(v, X, COND, label=label))
    run = lambda *given: np.asarray(apply(*given))
    without = run(variables, None)
    np.testing.assert_array_equal(run(variables, np.full(3, 5)), without)
    y = run(variables, np.array([5, 2, 5]))
    np.testing.assert_array_equal(y[[0, 2]], without[[0, 2]])
    assert np.abs(y[1] - without[1]).max() > 1e-3
    assert np.abs(run(variables, np.array([5, 3, 5]))[1] - y[1]).max() > 1e-3


@pytest.mark.parametrize("name", TOLD)
def test_a_network_of_no_classes_has_no_table(name):
    shapes = [
        jax.eval_shape(TOLD[name](n).init, jax.random.key(0), X, COND)["params"] for n in (0, 5)
    ]
    table = shapes[1].pop("class")["embedding"]
    assert table.shape[0] == 6
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])


@pytest.mark.parametrize("network", [NCSNpp, DDPM])
def test_classes_need_an_embedding(network):
    with pytest.raises(ValueError, match="num_classes is 3 and conditional is False"):
        network(**CONVOLUTIONAL, conditional=False, num_classes=3).check((8, 8, 3))


SMALL = {
    "wideresnet": WideResNet(num_classes=4, depth=10, widen=1, embedding_size=8, dropout=0.5),
    "mlp_classifier": CLASSIFIERS["mlp_classifier"](
        width=16, depth=1, time_dim=16, num_classes=4, dropout=0.5
    ),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_logits_belong_to_their_example(name, draw, jit):
    """Logits depend on their own example and its noise level; dropout acts only in training."""
    model, sigma = SMALL[name], np.array([0.1, 1.0, 9.0], np.float32)
    variables = draw(model, X, sigma)
    apply = jit(model.apply)
    run = lambda *given: np.asarray(apply(*given))
    y = run(variables, X, sigma)
    assert y.shape == (3, 4) and y.dtype == np.float32
    np.testing.assert_allclose(run(variables, X[1:2], sigma[1:2])[0], y[1], atol=1e-4)
    assert np.abs(run(variables, X, sigma[::-1].copy())[0] - y[0]).max() > 1e-3
    train = jit(lambda k: model.apply(variables, X, sigma, train=True, rngs={"dropout": k}))
    one, other = (np.asarray(train(jax.random.key(k, impl="rbg"))) for k in (0, 1))
    assert np.abs(one - other).max() > 1e-3


def test_the_papers_size():
    """WRN-28-10 for RGB has 36.5 million parameters, and those of the noise level's embedding."""

    def conv(i, o, side=3):
        return side * side * i * o + o

    def block(i, o):
        shortcut = conv(i, o, 1) if i != o else 0
        return 2 * i + conv(i, o) + 2 * o + conv(o, o) + conv(512, o, 1) + shortcut

    widths = [16, *[160] * 4, *[320] * 4, *[640] * 4]
    count = conv(3, 16) + sum(block(i, o) for i, o in pairwise(widths)) + 2 * 640
    count += conv(640, 10, 1) + 128 + conv(256, 512, 1) + conv(512, 512, 1)
    found = jax.eval_shape(
        WideResNet().init, jax.random.key(0), np.zeros((1, 32, 32, 3)), np.ones(1)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(found)) == count
    assert 36.4e6 < count - 12 * 512 * 373 < 37.5e6


def test_bad_options():
    with pytest.raises(ValueError, match=r"depth is 12; .* 10, 16, 22, 28"):
        WideResNet(depth=12).check((8, 8, 3))
    with pytest.raises(ValueError, match=r"takes images .* 'mlp_classifier'"):
        WideResNet().check((7,))
