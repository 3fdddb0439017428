"""Inception as a feature space: the file of weights, the id, and the scaling of images."""

import hashlib

import numpy as np
import pytest
from inception_reference import weights
from scipy.special import logsumexp
from torch_bytes import state_dict_before

from evaluation.spaces.inception import extractor, resize
from evaluation.spaces.inception.extractor import Inception
from evaluation.spaces.inception.import_torch import params_from_torch, torch_shapes
from evaluation.spaces.inception.releases import RELEASES, find_weights
from evaluation.spaces.table import feature_space

NAMES = {
    "inception": "pt_inception-2015-12-05-6726825d.pth",
    "inception_v3": "inception_v3_google-0cc3c7bd.pth",
}


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


@pytest.mark.parametrize("name", RELEASES)
@pytest.mark.parametrize("place", ["folder", "variable", "default"])
def test_a_missing_file(name, place, tmp_path, monkeypatch):
    """The error names the file, its URL, the folder to put it in, and its hash."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SCOREFIELD_WEIGHTS", raising=False)
    folder = tmp_path / ".cache" / "scorefield"
    if place == "variable":
        folder = tmp_path / "weights"
        monkeypatch.setenv("SCOREFIELD_WEIGHTS", str(folder))
    given = str(tmp_path / "elsewhere") if place == "folder" else ""
    with pytest.raises(FileNotFoundError) as error:
        feature_space(name, None, None, weights=given)
    text = one_sentence(error)
    release = RELEASES[name]
    assert release.file == NAMES[name] and release.digest in NAMES[name]
    for part in (NAMES[name], given or str(folder), release.url, f"begins {release.digest}"):
        assert part in text


def test_a_file_in_a_folder_must_have_the_hash_of_its_name(tmp_path, monkeypatch):
    content = b"not the weights"
    digest = hashlib.sha256(content).hexdigest()
    release = RELEASES["inception"]
    (tmp_path / release.file).write_bytes(content)
    with pytest.raises(ValueError) as error:
        find_weights(release, str(tmp_path))
    text = one_sentence(error)
    assert digest[:8] in text and "6726825d" in text and release.url in text
    # A file given by its own path is used with its own hash.
    path = tmp_path / release.file
    assert find_weights(release, str(path)) == (path, digest[:8])
    right = release._replace(url=f"https://x.org/weights-{digest[:8]}.pth")
    (tmp_path / right.file).write_bytes(content)
    monkeypatch.setenv("SCOREFIELD_WEIGHTS", str(tmp_path))
    assert find_weights(right) == (tmp_path / right.file, digest[:8])
    # A given folder takes precedence over the environment variable.
    with pytest.raises(FileNotFoundError):
        find_weights(right, str(tmp_path / "other"))


@pytest.mark.parametrize(("option", "words"), [("resize", "'clean'"), ("weights", "no pt_incep")])
def test_options_that_are_none(option, words, tmp_path):
    given = {"weights": str(tmp_path), option: "/nowhere/bilinear"}
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        feature_space("inception", None, None, **given)


def test_what_is_no_file_of_weights(tmp_path):
    path = state_dict_before(tmp_path / "other.pth", {"fc.bias": np.zeros(1008, np.float32)})
    with pytest.raises(ValueError, match=r"other\.pth is not an Inception-v3 of 1008.*lacks"):
        feature_space("inception", None, None, weights=str(path))


@pytest.fixture(scope="module")
def state():
    return weights(torch_shapes(RELEASES["inception"].network))


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    """A file as released, in the format of torch before 1.6, of 95 MB."""
    path = state_dict_before(tmp_path_factory.mktemp("weights") / "drawn.pth", state)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def space(file):
    return feature_space("inception", None, None, weights=str(file))


@pytest.fixture
def small(monkeypatch):
    """Resize images to 75x75, the smallest size that the network accepts."""
    monkeypatch.setattr(resize, "SIDE", 75)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(4).random((5, 10, 8, 3))


@pytest.fixture(scope="module")
def net(state):
    """The same network, without a file."""
    params = params_from_torch(state, RELEASES["inception"].network, "the rule")
    return Inception("id", RELEASES["inception"], params, "clean")


def test_the_id_names_network_weights_and_resize(small, space, file, images):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    assert space.name == "inception" and space.id == f"inception-2015-{digest}-clean"
    assert space(images).space == space.id and space.classify is None


def test_features_are_those_of_the_network(small, space, net, images):
    """The features equal those of images resized, scaled and passed through the network by hand."""
    x = np.stack([resize.clean(image[None].astype(np.float32), 75)[0] for image in images])
    x = (x * 255 - 128) / 128
    out = extractor.forward(net.release.network, net.params, x)
    found = space.extract(images)
    assert found.shape == (5, 2048) and found.dtype == np.float64
    np.testing.assert_allclose(found, out.pool3, atol=1e-5 * np.abs(out.pool3).max())
    p = space.probabilities(images)
    assert p.shape == (5, 1008) and p.dtype == np.float64
    np.testing.assert_allclose(p.sum(axis=1), 1)
    # The Inception score uses the logits without the bias.
    logits = out.pool3 @ net.params["fc"]["kernel"]
    np.testing.assert_allclose(
        np.log(p), logits - logsumexp(logits, axis=1, keepdims=True), atol=1e-3
    )
    both = space.with_probabilities(images)
    np.testing.assert_array_equal(both.values, found)
    np.testing.assert_array_equal(both.probabilities, p)


def test_features_do_not_depend_on_the_batch(small, net, images):
    """Five images make batches of two. The last batch is padded, and the padding is dropped."""
    whole, parts = net.outputs(images), net.outputs(images, batch_size=2)
    for one, other in zip(whole, parts, strict=True):
        assert one.shape == other.shape and len(one) == 5
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max())
    assert np.ptp(whole.pool3, axis=0).max() > 0.1  # the rows differ, so a mix-up would be seen


def test_levels_are_scaled_as_each_program_does(net):
    """Uniform images in black, grey and white get the values of each original program."""
    images = np.array([0, 0.5, 1])[:, None, None, None] * np.ones((1, 4, 4, 3))
    torchvision = Inception("id", RELEASES["inception_v3"], None, "clean")
    graph = [-1, -0.5 / 128, 127 / 128]
    for resized, levels in {
        "clean": graph,
        "legacy_tensorflow": graph,
        "legacy_pytorch": [-1, 0, 1],
    }.items():
        x = Inception("id", net.release, None, resized).prepare(images)
        assert x.shape == (3, 299, 299, 3) and x.dtype == np.float32
        np.testing.assert_allclose(x[:, 0, 0, 0], levels, atol=1e-6)
        np.testing.assert_allclose(np.ptp(x, axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(torchvision.prepare(images)[:, 7, 9, 2], [-1, 0, 1], atol=1e-6)


def test_images_must_be_of_unit_range_and_of_one_or_three_channels(space, images):
    for wrong in (2 * images - 1, (255 * images).astype(np.uint8), images * np.nan):
        for use in (space.extract, space.probabilities):
            with pytest.raises(ValueError, match=r"\[0, 1\]"):
                use(wrong)
    with pytest.raises(ValueError, match=r"\(5, 10, 8, 2\)"):
        space.extract(images[..., :2])


def test_features_are_compiled_once(small, net, images):
    net.features(images)
    before = extractor.forward._cache_size()
    for batch in (images, images[::-1]):
        net.features(batch)
    Inception("other", net.release, net.params, "clean").features(images)
    assert extractor.forward._cache_size() == before
