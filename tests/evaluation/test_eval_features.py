"""Feature spaces: their features, their refusals, and ids that identify them."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from data import load
from evaluation.report.images import of_source
from evaluation.spaces import feature_classifier, features
from evaluation.spaces.feature_classifier import (
    fit,
    fit_classifier,
    load_feature_classifier,
    save_classifier,
)
from evaluation.spaces.features import accuracy, pixels
from evaluation.spaces.table import FEATURE_SPACES, feature_space


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))
    images, labels = data.images[order, ..., None] / 16, data.target[order]
    return images[:1500], labels[:1500], images[1500:], labels[1500:]


@pytest.fixture(scope="module")
def trained(digits):
    """A feature space and its network."""
    networks = []

    class Kept(MLPClassifier):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            networks.append(self)

        # scikit-learn reads the parameter names from `__init__`, which may then have no *args.
        @classmethod
        def _get_param_names(cls):
            return MLPClassifier._get_param_names()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_classifier, "MLPClassifier", Kept)
        space = fit_classifier(*digits[:2])
    return space, networks[0]


def test_pixels_are_the_image_row_by_row():
    images = np.random.default_rng(0).random((4, 2, 3, 3)).astype(np.float32)
    found = pixels()(images)
    assert found.space == pixels().id
    assert found.values.dtype == np.float64
    np.testing.assert_array_equal(found.values[2], [*images[2].ravel()])


def test_classifier_features_feed_the_last_layer(digits, trained):
    """The last layer, applied to the features, gives the network's own probabilities."""
    space, network = trained
    h = space(digits[2]).values
    assert h.shape == (len(digits[2]), 64) and np.abs(h).max() < 1
    logits = h @ network.coefs_[-1] + network.intercepts_[-1]
    truth = network.predict_proba(digits[2].reshape(len(h), -1))
    np.testing.assert_allclose(softmax(logits, axis=1), truth, atol=1e-12)
    np.testing.assert_allclose(space.probabilities(digits[2]), truth, atol=1e-12)
    np.testing.assert_array_equal(space.classify(digits[2]), logits.argmax(axis=1))


def test_classifier_has_learnt_the_digits(digits, trained):
    """The accuracy is above that of a linear classifier, about 0.95. With labels of other images
    it is about 0.1."""
    assert accuracy(trained[0], *digits[2:]) > 0.96
    assert accuracy(trained[0], digits[2], np.roll(digits[3], 1)) < 0.3


def test_features_do_not_depend_on_the_batch(digits, trained):
    space = trained[0]
    one_by_one = np.concatenate([space.extract(image[None]) for image in digits[2][:5]])
    np.testing.assert_allclose(one_by_one, space.extract(digits[2][:5]), atol=1e-12)


def test_id_is_that_of_the_weights(digits, trained):
    x, labels = digits[0][:300], digits[1][:300]
    with threadpool_limits(2):
        first = fit_classifier(x, labels)
    with threadpool_limits(1):
        again = fit_classifier(x.astype(np.float32), labels)
    assert first.id == again.id  # levels / 16 are exact in float32
    np.testing.assert_array_equal(first.extract(x), again.extract(x))
    others = [fit_classifier(x, labels, seed=1), fit_classifier(x[1:], labels[1:]), trained[0]]
    assert len({first.id, *(space.id for space in others)}) == 4


def test_hash_sees_shape_and_value_but_not_the_sign_of_zero():
    weights = np.array([[0.5, 0.0], [1.0, 2.0]])
    digest = features.hash_weights([weights])
    assert digest == features.hash_weights([weights * [[1, -1], [1, 1]]])
    assert digest == features.hash_weights([weights + 1e-9])
    assert digest != features.hash_weights([weights + 1e-5])
    assert digest != features.hash_weights([weights.ravel()])


# The Inception spaces need a file of weights; see `test_eval_inception_space`.
@pytest.mark.parametrize("name", [n for n in FEATURE_SPACES if "inception" not in n])
def test_every_space_is_built_by_name_and_refuses_other_scales(name, digits):
    x, labels = digits[0][:60], digits[1][:60]
    space = feature_space(name, x, labels)
    assert space.name == name
    assert space.extract(x).shape[0] == 60 and space.extract(x).dtype == np.float64
    for wrong in (2 * x - 1, 16 * x, np.where(x > 0.9, np.nan, x), (16 * x).astype(np.uint8), 0.5):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            space.extract(wrong)


def test_a_file_of_a_classifier(digits, tmp_path):
    """A stored classifier gives the same space to the last bit, for number and name classes."""
    x, names = digits[0][:200], np.array(["even", "odd"])[digits[1][:200] % 2]
    for labels in (digits[1][:200], names):
        network = fit(x, labels)
        save_classifier(tmp_path / "c.npz", network)
        stored, fitted = load_feature_classifier(str(tmp_path / "c.npz")), fit_classifier(x, labels)
        assert stored.id == fitted.id
        np.testing.assert_array_equal(stored.extract(digits[2]), fitted.extract(digits[2]))
        np.testing.assert_array_equal(stored.classify(digits[2]), fitted.classify(digits[2]))
        assert accuracy(stored, x, labels) > 0.95
        np.testing.assert_allclose(stored.probabilities(digits[2]).sum(axis=1), 1.0, rtol=1e-12)


def test_two_classes_have_the_probabilities_of_the_library(digits):
    x, labels = digits[0][:200], digits[1][:200] % 2
    options = {"batch_size": 128, "tol": 1e-3, "random_state": 0, "activation": "tanh"}
    with threadpool_limits(1):
        library = MLPClassifier((128, 64), **options).fit(x.reshape(200, -1), labels)
    found = fit_classifier(x, labels).probabilities(digits[2])
    expected = library.predict_proba(digits[2].reshape(len(digits[2]), -1))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_classifier_of_digits_that_comes_along():
    """The accuracy of the stored classifier on its training images and on the test images."""
    train, test = (load("digits", split) for split in ("train", "test"))
    space = feature_space("classifier", classifier="digits")
    right = [accuracy(space, of_source(s).first(s.size), s.labels) for s in (train, test)]
    assert right[0] > 0.99 and 0.94 < right[1] < 0.99


def test_files_that_are_no_classifier(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'digit', which is neither .* \(digits\)"):
        feature_space("classifier", classifier="digit")
    np.savez(tmp_path / "other.npz", weight_0=np.zeros((2, 2)), classes=np.arange(2))
    with pytest.raises(ValueError, match="has classes, weight_0 of the arrays"):
        feature_space("classifier", classifier=str(tmp_path / "other.npz"))
    (tmp_path / "other.npz").write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match="not a whole npz"):
        feature_space("classifier", classifier=str(tmp_path / "other.npz"))


def test_refusals(digits):
    x, labels = digits[0][:60], digits[1][:60]
    with pytest.raises(ValueError, match=r"pixels.*classifier.*inception"):
        feature_space("vgg", x, labels)
    with pytest.raises(ValueError, match="one label"):
        fit_classifier(x, labels[:-1])
    with pytest.raises(ValueError, match="training shape"):
        fit_classifier(x, labels).extract(x[:, 1:])
    with pytest.raises(ValueError, match="no classifier"):
        accuracy(pixels(), x, labels)
