"""Guidance to a class where all is known: mixtures, whose components are the classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian, Mixture, _columns

from guidance import classifier_free, classifier_guidance
from sde_lib import EDM, VE, VP, Flow, SubVP
from sde_lib.classifier import log_prob, make_logits
from sde_lib.prediction import prediction_of

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow()}
MEANS = np.array([[1.0, -0.5, 0.2], [-0.3, 0.8, 0.0], [0.1, 0.1, -1.2]])
DATA = Mixture(np.array([0.2, 0.5, 0.3]), MEANS, np.array([0.3, 0.6, 0.2]))
CLASSES = [
    Gaussian.scalar(0.0, s)._replace(mean=m, cov=np.eye(3) * s**2) for m, s in zip(MEANS, DATA.stds)
]
LABEL = jnp.array([0, 1, 2, 2, 1])


def exact_logits(path):
    return lambda x, t: DATA._components(*_columns(path, x, t)[:3])[0]


def states(path, t, seed=0):
    z = jax.random.normal(jax.random.key(seed), (len(LABEL), 3))
    a, _, c = path.coeffs(jnp.asarray(t))
    return a * DATA.draw(np.random.default_rng(seed), len(LABEL)) + c * z


def by_class(path, x, t):
    """The exact prediction of each example's own class."""
    t = jnp.broadcast_to(t, x.shape[:1])
    rows = [CLASSES[j].predict(path)(x[i : i + 1], t[i : i + 1]) for i, j in enumerate(LABEL)]
    return jax.tree.map(lambda *v: jnp.concatenate(v), *rows)


def known_and_not(path):
    """A network of classes: that of a class, or for number 3 of none."""

    def predict_of(label):
        def predict(x, t):
            every = [data.predict(path)(x, t) for data in (*CLASSES, DATA)]
            pick = lambda *v: jnp.stack(v)[label, jnp.arange(len(label))]
            return jax.tree.map(pick, *every)

        return predict

    return predict_of


def agree(found, expected, path, t, tol=1e-9):
    """Each field relative to its own size at that noise level."""
    for name, one, other in zip(found._fields, found, expected):
        np.testing.assert_allclose(
            one, other, rtol=tol, atol=tol * float(jnp.max(jnp.abs(other))), err_msg=name
        )


@pytest.mark.parametrize("place", [0.02, 0.4, 0.9])
@pytest.mark.parametrize("law", LAWS)
def test_an_exact_classifier_gives_the_score_of_the_class(law, place):
    path = LAWS[law]
    t = jnp.asarray(path.t0 + place * (path.t1 - path.t0))
    x = states(path, t)
    guided = classifier_guidance(path, exact_logits(path), LABEL)(DATA.predict(path))
    agree(guided(x, t), by_class(path, x, t), path, t)
    # One class for all, a time for each example.
    ts = jnp.full(len(LABEL), t)
    one = classifier_guidance(path, exact_logits(path), jnp.asarray(1))(DATA.predict(path))
    agree(one(x, ts), CLASSES[1].predict(path)(x, ts), path, t)


def test_scale_multiplies_the_gradient():
    path, t = LAWS["vp"], jnp.asarray(0.3)
    x = states(path, t)
    free = DATA.predict(path)(x, t).score
    ones, threes = (
        classifier_guidance(path, exact_logits(path), LABEL, w)(DATA.predict(path))(x, t).score
        for w in (1.0, 3.0)
    )
    np.testing.assert_allclose(threes - free, 3 * (ones - free), rtol=1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_logits_see_states_of_unit_size(law):
    """Drawn from data of that standard deviation, and the noise level of the data beside them."""
    path, std = LAWS[law], 0.6
    z = np.random.default_rng(0).standard_normal((2, 4000, 2))
    for t in np.linspace(path.t0, path.t1, 5):
        a, _, c = (float(v) for v in path.coeffs(jnp.asarray(t)))
        state = jnp.asarray(a * std * z[0] + c * z[1])
        x = make_logits(path, lambda x, s: x, std)(state, jnp.asarray(t))
        level = make_logits(path, lambda x, s: s[:, None], std)(state, jnp.asarray(t))
        assert np.std(x) == pytest.approx(1.0, abs=0.03)
        np.testing.assert_allclose(level, c / a, rtol=1e-6)


def test_log_prob_is_normalised():
    path, t = LAWS["ve"], jnp.asarray(0.5)
    x = states(path, t)
    every = [log_prob(exact_logits(path), x, t, jnp.asarray(j)) for j in range(3)]
    np.testing.assert_allclose(np.exp(every).sum(axis=0), 1.0, rtol=1e-9)
    shifted = lambda x, t: exact_logits(path)(x, t) + 7.0
    np.testing.assert_allclose(log_prob(shifted, x, t, jnp.asarray(0)), every[0], rtol=1e-9)


# Classifier-free.


@pytest.mark.parametrize("law", LAWS)
def test_free_guidance_is_between_and_beyond(law):
    path = LAWS[law]
    t = jnp.asarray(path.t0 + 0.3 * (path.t1 - path.t0))
    x = states(path, t)
    free, given = DATA.predict(path)(x, t), by_class(path, x, t)
    for w in (-0.5, 0.0, 0.4, 1.0, 2.5):
        found = classifier_free(path, known_and_not(path), LABEL, 3, w)(x, t)
        expected = [u + w * (c - u) for u, c in zip(free, given)]
        agree(found, expected, path, t)
    # To the last bit at 0 and 1, where the other half is not asked for.
    zero, one = (classifier_free(path, known_and_not(path), LABEL, 3, w) for w in (0.0, 1.0))
    np.testing.assert_array_equal(zero(x, t).score, free.score)
    np.testing.assert_array_equal(one(x, t).score, known_and_not(path)(LABEL)(x, t).score)


def test_it_is_the_guidance_of_the_classifier_that_it_implies():
    path, t = LAWS["subvp"], jnp.asarray(0.4)
    x = states(path, t)
    free = classifier_free(path, known_and_not(path), LABEL, 3, 2.0)(x, t)
    guided = classifier_guidance(path, exact_logits(path), LABEL, 2.0)(DATA.predict(path))(x, t)
    agree(free, guided, path, t)


def test_the_interval_is_of_noise_levels():
    path, t = LAWS["edm"], jnp.array([0.4, 0.5, 1.0, 2.0, 2.1])  # of EDM the noise levels
    x = states(path, 1.0)
    found = classifier_free(path, known_and_not(path), LABEL, 3, 4.0, interval=(0.5, 2.0))(x, t)
    every = classifier_free(path, known_and_not(path), LABEL, 3, 4.0)(x, t)
    plain = by_class(path, x, t)
    inside = np.array([False, False, True, True, False])
    expected = np.where(inside[:, None], every.score, plain.score)
    np.testing.assert_allclose(found.score, expected, rtol=1e-9)
    assert not np.allclose(every.score[~inside], plain.score[~inside])
    # With w = 0 the outside still has the class.
    none = classifier_free(path, known_and_not(path), LABEL, 3, 0.0, interval=(0.5, 2.0))(x, t)
    outside = np.where(inside[:, None], DATA.predict(path)(x, t).score, plain.score)
    np.testing.assert_allclose(none.score, outside, rtol=1e-9)


@pytest.mark.parametrize("phi", [0.4, 1.0])
def test_rescale_brings_back_the_spread(phi):
    path, t = LAWS["vp"], jnp.asarray(0.4)
    x = states(path, t)
    plain = classifier_free(path, known_and_not(path), LABEL, 3, 5.0)(x, t)
    found = classifier_free(path, known_and_not(path), LABEL, 3, 5.0, rescale=phi)(x, t)
    spread = lambda v: np.std(v.x0, axis=1)
    target = phi * spread(by_class(path, x, t)) + (1 - phi) * spread(plain)
    np.testing.assert_allclose(spread(found), target, rtol=1e-9)
    a, _, c = path.coeffs(t)
    np.testing.assert_allclose(a * found.x0 + c * found.eps, x, rtol=1e-9)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"interval": (2.0, 1.0)}, r"interval is \(2.0, 1.0\); give two noise levels, low < high"),
        ({"scale": float("inf")}, "scale is inf; it must lie between"),
        ({"scale": 1e25}, "scale is 1e[+]25; it must lie between"),
        ({"rescale": 1.5}, r"rescale is 1.5; it must lie in \[0, 1\]"),
    ],
)
def test_bad_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        given = {"scale": 2.0, **options}
        classifier_free(LAWS["vp"], known_and_not(LAWS["vp"]), LABEL, 3, **given)


def test_an_example_of_one_value_has_no_spread_to_bring_back():
    """Its x0 is what guidance makes of it, by hand `u + w (c - u)`, whatever the rescale."""
    path, t, x = LAWS["ve"], jnp.asarray(0.4), jnp.asarray([[0.3], [-2.0]])
    said = lambda label: jnp.where(label == 1, 0.0, 1.0 + label)[:, None]
    predict_of = lambda label: lambda x, t: prediction_of(path, x, t, said(label), x)
    found = classifier_free(path, predict_of, jnp.asarray([0, 2]), 1, 3.0, rescale=0.7)(x, t)
    np.testing.assert_allclose(found.x0, [[3.0], [9.0]], rtol=1e-12)
    np.testing.assert_allclose(found.eps, (x - found.x0) / path.coeffs(t).c, rtol=1e-12)
