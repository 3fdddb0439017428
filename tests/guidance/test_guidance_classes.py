"""Guidance to a class, for mixtures whose components are the classes, with known scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Exact, Gaussian, Mixture, _columns

from guidance import Wanted, classifier_free, classifier_guidance
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
LABEL = np.array([0, 1, 2, 2, 1])


def exact_logits(path):
    return lambda x, t: DATA._components(*_columns(path, x, t)[:3])[0]


def states(path, t, seed=0):
    rng = np.random.default_rng(seed)
    a, c = (float(v) for v in path.coeffs(t))
    return a * DATA.draw(rng, len(LABEL)) + c * rng.standard_normal((len(LABEL), 3))


def by_class(path, x, t):
    """Return the exact prediction for each example's own class."""
    t = np.broadcast_to(t, x.shape[:1])
    rows = [CLASSES[j].predict(path)(x[i : i + 1], t[i : i + 1]) for i, j in enumerate(LABEL)]
    return jax.tree.map(lambda *v: np.concatenate(v), *rows)


def known_and_not(path):
    """Return an exact network conditional on a class; label 3 means no class."""

    def predict(x, t, label):
        flat, a, c, da, dc = _columns(path, x, t)
        mean, std = jnp.asarray(MEANS)[label % 3], jnp.asarray(DATA.stds)[label % 3, None]
        x0 = mean + a * std**2 / (a**2 * std**2 + c**2) * (flat - a * mean)
        eps = (flat - a * x0) / c
        given = Exact(x0, eps, -eps / c, da * x0 + dc * eps)
        free = DATA.predict(path)(x, t)
        return jax.tree.map(lambda u, v: jnp.where(label[:, None] == 3, u, v), free, given)

    return predict


def agree(found, expected, tol=1e-9):
    """Assert that two predictions agree, each field relative to its largest value."""
    for name, one, other in zip(found._fields, found, expected):
        np.testing.assert_allclose(
            one, other, rtol=tol, atol=tol * np.max(np.abs(other)), err_msg=name
        )


# Three laws are tested with the gradient of a classifier, the other two without a classifier.


@pytest.mark.parametrize("law", ["subvp", "ve", "flow"])
def test_an_exact_classifier_gives_the_score_of_the_class(law):
    path = LAWS[law]

    @jax.jit
    def run(x, t, ts):
        guide = lambda label: classifier_guidance(path, exact_logits(path), label)
        of = lambda label, t: guide(label)(DATA.predict(path))(x, t)
        # One class for all examples, and a time per example.
        return of(LABEL, t), of(jnp.asarray(1), ts)

    for place in (0.02, 0.4, 0.9):
        t = path.t0 + place * (path.t1 - path.t0)
        x, ts = states(path, t), np.full(len(LABEL), t)
        found, one = jax.device_get(run(x, t, ts))
        agree(found, by_class(path, x, t))
        agree(one, CLASSES[1].predict(path)(x, ts))


def test_scale_multiplies_the_gradient():
    path, t = LAWS["vp"], 0.3
    x = states(path, t)
    free = DATA.predict(path)(x, t).score
    guide = lambda w: classifier_guidance(path, exact_logits(path), LABEL, w)(DATA.predict(path))
    score = jax.jit(lambda x, w: guide(w)(x, t).score)
    ones, threes = (np.asarray(score(x, w)) for w in (1.0, 3.0))
    np.testing.assert_allclose(threes - free, 3 * (ones - free), rtol=1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_logits_see_states_of_unit_size(law):
    """A classifier gets states of variance one, for data of std sigma_data, and the noise level."""
    path, std = LAWS[law], 0.6
    z = np.random.default_rng(0).standard_normal((2, 4000, 2))
    seen = lambda x, s: jnp.concatenate([x, s[:, None]], axis=1)
    logits = jax.jit(make_logits(path, seen, std))
    for t in np.linspace(path.t0, path.t1, 5):
        a, c = (float(v) for v in path.coeffs(t))
        found = np.asarray(logits(a * std * z[0] + c * z[1], t))
        assert np.std(found[:, :2]) == pytest.approx(1.0, abs=0.03)
        np.testing.assert_allclose(found[:, 2], c / a, rtol=1e-6)


def test_log_prob_is_normalised():
    path, t = LAWS["ve"], 0.5
    plain = exact_logits(path)

    def run(x):
        every = [log_prob(plain, x, t, jnp.asarray(j)) for j in range(3)]
        return every, log_prob(lambda x, t: plain(x, t) + 7.0, x, t, jnp.asarray(0))

    every, shifted = jax.device_get(jax.jit(run)(states(path, t)))
    np.testing.assert_allclose(np.exp(every).sum(axis=0), 1.0, rtol=1e-9)
    np.testing.assert_allclose(shifted, every[0], rtol=1e-9)


# Classifier-free.


@pytest.mark.parametrize("law", ["vp", "edm"])
def test_free_guidance_is_between_and_beyond(law):
    path, scales = LAWS[law], (-0.5, 0.0, 0.4, 1.0, 2.5)
    t = path.t0 + 0.3 * (path.t1 - path.t0)
    x = states(path, t)
    free, given = DATA.predict(path)(x, t), by_class(path, x, t)
    make = lambda w: classifier_free(path, known_and_not(path), 3, w)
    run = lambda x: [make(w)(x, t, LABEL) for w in scales]
    for w, found in zip(scales, jax.device_get(jax.jit(run)(x))):
        agree(found, [u + w * (c - u) for u, c in zip(free, given)])


def test_at_0_and_1_the_other_half_is_not_asked_for():
    path, asked = LAWS["vp"], []
    network = known_and_not(path)

    def noted(x, t, label):
        asked.append(label.shape)
        return network(x, t, label)

    x = states(path, 0.3)
    for w, times in ((0.0, 1), (1.0, 1), (2.0, 2)):
        jax.eval_shape(lambda x, w=w: classifier_free(path, noted, 3, w)(x, 0.3, LABEL), x)
        assert asked.pop() == (times * len(LABEL),) and not asked


def test_it_is_the_guidance_of_the_classifier_that_it_implies():
    path, t = LAWS["subvp"], 0.4
    free = classifier_free(path, known_and_not(path), 3, 2.0)
    guided = classifier_guidance(path, exact_logits(path), LABEL, 2.0)(DATA.predict(path))
    agree(*jax.device_get(jax.jit(lambda x: (free(x, t, LABEL), guided(x, t)))(states(path, t))))


def test_the_interval_is_of_noise_levels():
    path, t = LAWS["edm"], np.array([0.4, 0.5, 1.0, 2.0, 2.1])  # under EDM t is the noise level
    x = states(path, 1.0)
    options = ((4.0, {"interval": (0.5, 2.0)}), (4.0, {}), (0.0, {"interval": (0.5, 2.0)}))
    make = lambda w, more: classifier_free(path, known_and_not(path), 3, w, **more)
    run = lambda x: [make(*each)(x, t, LABEL).score for each in options]
    found, every, none = jax.device_get(jax.jit(run)(x))
    plain = by_class(path, x, t)
    inside = np.array([False, False, True, True, False])
    expected = np.where(inside[:, None], every, plain.score)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert not np.allclose(every[~inside], plain.score[~inside])
    # With w = 0 the prediction outside the interval is still that of the class.
    outside = np.where(inside[:, None], DATA.predict(path)(x, t).score, plain.score)
    np.testing.assert_allclose(none, outside, rtol=1e-9)


def test_rescale_brings_back_the_spread():
    path, t = LAWS["vp"], 0.4
    x, phis = states(path, t), (0.0, 0.4, 1.0)
    make = lambda phi: classifier_free(path, known_and_not(path), 3, 5.0, rescale=phi)
    plain, *rescaled = jax.device_get(
        jax.jit(lambda x: [make(phi)(x, t, LABEL) for phi in phis])(x)
    )
    spread = lambda v: np.std(v.x0, axis=1)
    a, c = (float(v) for v in path.coeffs(t))
    for phi, found in zip(phis[1:], rescaled):
        target = phi * spread(by_class(path, x, t)) + (1 - phi) * spread(plain)
        np.testing.assert_allclose(spread(found), target, rtol=1e-9)
        np.testing.assert_allclose(a * found.x0 + c * found.eps, x, rtol=1e-9)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"interval": (2.0, 1.0)}, r"interval is \(2.0, 1.0\); give two noise levels, low < high"),
        ({"interval": (0.5,)}, r"interval is \(0.5,\); it must be two numbers"),
        ({"scale": float("inf")}, "scale is inf; it must lie between"),
        ({"scale": 1e25}, "scale is 1e[+]25; it must lie between"),
        ({"rescale": 1.5}, r"rescale is 1.5; it must lie in \[0, 1\]"),
    ],
)
def test_bad_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        given = {"scale": 2.0, **options}
        classifier_free(LAWS["vp"], known_and_not(LAWS["vp"]), 3, **given)


def test_an_example_of_one_value_has_no_spread_to_bring_back():
    """For examples of one value `rescale` has no effect; x0 is `u + w (c - u)`, found by hand."""
    path, t, x = LAWS["ve"], jnp.asarray(0.4), jnp.asarray([[0.3], [-2.0]])
    said = lambda label: jnp.where(label == 1, 0.0, 1.0 + label)[:, None]
    predict = lambda x, t, label: prediction_of(path, x, t, said(label), x)
    found = classifier_free(path, predict, 1, 3.0, rescale=0.7)(x, t, jnp.asarray([0, 2]))
    np.testing.assert_allclose(found.x0, [[3.0], [9.0]], rtol=1e-12)
    np.testing.assert_allclose(found.eps, (x - found.x0) / path.coeffs(t).c, rtol=1e-12)


def test_a_condition_of_several_parts():
    """A condition may be a dict: each example gets `u + w (c - u)` of its own condition.

    By hand this is `0.5 + 2 (mean + bias - 0.5)`.
    """
    path, t, x = LAWS["ve"], jnp.asarray(0.4), jnp.zeros((3, 1))
    said = lambda cond: cond["mean"] + cond["bias"][:, None]
    predict = lambda x, t, cond: prediction_of(path, x, t, said(cond), x)
    none = {"mean": np.array([0.25]), "bias": 0.25}
    cond = {"mean": jnp.asarray([[1.0], [2.0], [4.0]]), "bias": jnp.asarray([0.0, 1.0, -1.0])}
    found = classifier_free(path, predict, none, 2.0)(x, t, cond)
    np.testing.assert_allclose(found.x0[:, 0], [1.5, 5.5, 5.5], rtol=1e-12)


def test_a_strength_for_each_example():
    """Each example gets `u + w (c - u)` with its own w, in a batch and under `vmap`; u = 0.5."""
    path, t, x = LAWS["ve"], jnp.asarray(0.4), jnp.zeros((4, 1))
    predict = lambda x, t, cond: prediction_of(path, x, t, cond[:, None], x)
    guided = classifier_free(path, predict, 0.5, 7.0)
    cond = Wanted(jnp.asarray([1.0, 2.0, 3.0, 4.0]), jnp.asarray([0.0, 1.0, 2.0, -1.0]))
    one = lambda x, cond: guided(x[None], t, jax.tree.map(lambda v: v[None], cond)).x0[0]
    for found in (guided(x, t, cond).x0, jax.vmap(one)(x, cond)):
        np.testing.assert_allclose(found[:, 0], [0.5, 2.0, 5.5, -3.0], rtol=1e-12)


def test_a_strength_that_no_guide_has_is_refused():
    """Of each example, where its number is known: as it is made, and not under jit."""
    for scale in (np.array([1.0, np.nan]), jnp.asarray([1.0, 2e6]), np.array([-np.inf])):
        with pytest.raises(ValueError, match=r"^scale is .*; it must lie between -1e6 and 1e6"):
            Wanted(np.zeros(2), scale)
    wanted = jax.jit(lambda scale: Wanted(jnp.zeros(2), scale).scale)(jnp.asarray([1.0, 2.0]))
    np.testing.assert_array_equal(wanted, [1.0, 2.0])
