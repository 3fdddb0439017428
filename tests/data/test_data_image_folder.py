"""Folders of image files: images that are read, files that are refused, and the held-out split."""

import numpy as np
import pytest
from PIL import Image

import data
from data.resize import as_pair, fit


def save(folder, name, shape=(4, 6, 3), value=None):
    """Write a lossless image of random pixels or of one value; return the array of its pixels."""
    seed = sum(name.encode())
    array = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    if value is not None:
        array[:] = value
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.squeeze(-1) if shape[-1] == 1 else array).save(file)
    return array


def load(folder, split="train", holdout=0, **kwargs):
    return data.load("image_folder", split, path=str(folder), holdout=holdout, **kwargs)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_come_in_the_order_of_their_names_unchanged(tmp_path, channels):
    names = ["b.png", "a/c.bmp" if channels < 4 else "a/c.png", "a/B.PNG", "10.png", "z.tif"]
    arrays = {name: save(tmp_path, name, (4, 6, channels)) for name in names}
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._b.png").write_text("a shadow file of macOS")
    source = load(tmp_path)
    assert (source.size, source.shape, source.levels) == (5, (4, 6, channels), 256)
    batch = source.fetch(np.arange(5))
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch, np.stack([arrays[name] for name in sorted(names)]))
    np.testing.assert_array_equal(source.fetch(np.array([3, 3, 0])), batch[[3, 3, 0]])


def test_lossy_formats_are_read(tmp_path):
    for name in ("a.jpg", "b.webp", "c.jpeg"):
        save(tmp_path, name, (16, 16, 3), value=(200, 100, 50))
    batch = load(tmp_path).fetch(np.arange(3)).astype(int)
    assert np.abs(batch - [200, 100, 50]).max() <= 4


def test_palette_images_are_colour(tmp_path):
    array = save(tmp_path, "a.png", value=(10, 200, 30))
    Image.fromarray(array).quantize(4).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load(tmp_path).fetch(np.array([0]))[0], array)


def test_palette_images_with_a_transparent_entry_have_alpha(tmp_path):
    image = Image.new("P", (2, 2))
    image.putpalette([10, 200, 30])
    image.save(tmp_path / "a.png", transparency=0)
    pixels = load(tmp_path).fetch(np.array([0]))
    np.testing.assert_array_equal(pixels, np.broadcast_to([10, 200, 30, 0], (1, 2, 2, 4)))


def test_a_camera_held_upright_gives_an_upright_image(tmp_path):
    sideways = np.zeros((16, 32), np.uint8)
    sideways[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # a turn by 90 degrees clockwise shows it upright: left becomes top
    Image.fromarray(sideways).save(tmp_path / "a.jpg", exif=exif)
    source = load(tmp_path)
    assert source.shape == (32, 16, 1)
    upright = source.fetch(np.array([0]))[0]
    assert upright[:15].min() > 250 and upright[17:].max() < 5


def test_resizing_keeps_the_middle_and_the_aspect(tmp_path):
    wide = np.zeros((4, 8, 1), np.uint8)
    wide[:, 2:6] = 100
    np.testing.assert_array_equal(fit(wide, (4, 4)), np.full((4, 4, 1), 100))
    tall = np.swapaxes(wide, 0, 1)
    np.testing.assert_array_equal(fit(tall, (2, 2)), np.full((2, 2, 1), 100))
    # If the image is too wide, only its sides are cut.
    rows = np.broadcast_to(np.arange(4, dtype=np.uint8)[:, None, None], (4, 10, 1))
    np.testing.assert_array_equal(fit(rows, (4, 6)), rows[:, :6])


def test_resizing_is_antialiased(tmp_path):
    """A small version of a checkerboard of single pixels is grey. Without a filter it would be
    black and white."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    small = fit(board, (8, 8)).astype(float)
    assert np.abs(small[2:-2, 2:-2] - 127.5).max() < 3


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_channels_are_resized_each_for_itself(channels):
    values = np.array([10, 250, 90, 0, 60], np.uint8)[:channels]
    image = np.broadcast_to(values, (9, 7, channels))
    np.testing.assert_array_equal(fit(image, (3, 3)), np.broadcast_to(values, (3, 3, channels)))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(6, 5), (31, 9), (40, 40)])
def test_a_picture_is_resized_as_its_channels_alone(mode, size):
    """To the bit, from a picture of Pillow and from an array; transparent pixels keep colours."""
    rng, channels = np.random.default_rng(0), len(mode)
    image = rng.integers(0, 256, (23, 37, channels)).astype(np.uint8)
    # The largest part of that aspect: of 23 x 37 the rows or the columns are cut.
    high, wide = min(23, round(37 * size[0] / size[1])), min(37, round(23 * size[1] / size[0]))
    top, left = (23 - high) // 2, (37 - wide) // 2
    planes = [image[top : top + high, left : left + wide, c] for c in range(channels)]
    small = lambda p: Image.fromarray(p.copy()).resize(size[::-1], Image.Resampling.LANCZOS)
    wanted = np.stack([np.asarray(small(plane)) for plane in planes], axis=-1)
    np.testing.assert_array_equal(fit(image, size), wanted)
    picture = Image.fromarray(image.squeeze(-1) if channels == 1 else image)
    assert picture.mode == mode
    np.testing.assert_array_equal(fit(picture, size), wanted)
    np.testing.assert_array_equal(fit(picture, None, (7, 9)), image[8:15, 14:23])


def test_image_size_makes_different_sizes_agree(tmp_path):
    save(tmp_path, "a.png", (10, 20, 3), value=7)
    save(tmp_path, "b.png", (40, 30, 3), value=9)
    source = load(tmp_path, image_size=(6, 4))
    assert source.shape == (6, 4, 3)
    batch = source.fetch(np.arange(2))
    assert (batch[0] == 7).all() and (batch[1] == 9).all()
    assert load(tmp_path, image_size=5).shape == (5, 5, 3)


def test_crop_takes_the_central_pixels(tmp_path):
    array = save(tmp_path, "a.png", (8, 10, 1))
    source = load(tmp_path, crop=(4, 6))
    np.testing.assert_array_equal(source.fetch(np.array([0]))[0], array[2:6, 2:8])
    with pytest.raises(ValueError, match=r"a.png has \(height, width\) \(8, 10\): crop=\(9, 9\)"):
        load(tmp_path, crop=9)


def test_sizes_that_differ_are_refused_with_the_file(tmp_path):
    save(tmp_path, "a.png", (4, 6, 3))
    save(tmp_path, "sub/b.png", (6, 4, 3))
    with pytest.raises(ValueError, match=r"b.png has .* \(6, 4\), but .*a.png has \(4, 6\).*size"):
        load(tmp_path)


def test_greys_are_not_made_colour_unless_asked(tmp_path):
    grey = save(tmp_path, "a.png", (4, 6, 1))
    assert load(tmp_path).shape == (4, 6, 1)
    with pytest.raises(ValueError, match=r"a.png has channels 1, but channels=3 asks for 3"):
        load(tmp_path, num_channels=3)
    save(tmp_path, "b.png", (4, 6, 3))
    with pytest.raises(ValueError, match=r"b.png has channels 3, but .*a.png has 1.*convert=True"):
        load(tmp_path)
    source = load(tmp_path, num_channels=3, convert=True)
    np.testing.assert_array_equal(source.fetch(np.array([0]))[0], np.repeat(grey, 3, axis=-1))
    with pytest.raises(ValueError, match="be given for `convert`"):
        load(tmp_path, convert=True)


def test_sixteen_bit_images_are_refused_not_cut_to_eight(tmp_path):
    Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) * 1000).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png cannot be read .*not 8 bits"):
        load(tmp_path)


def test_an_unreadable_file_is_named_at_once_and_a_damaged_one_when_it_is_read(tmp_path):
    save(tmp_path, "a.png", (64, 64, 3))
    save(tmp_path, "b.png", (64, 64, 3))
    damaged = tmp_path / "b.png"
    damaged.write_bytes(damaged.read_bytes()[:4000])
    source = load(tmp_path)
    source.fetch(np.array([0]))
    with pytest.raises(ValueError, match=r"b.png cannot be read as an image .*remove or replace"):
        source.fetch(np.array([0, 1]))
    (tmp_path / "c.png").write_text("no image")
    with pytest.raises(ValueError, match=r"c.png cannot be read as an image"):
        load(tmp_path)


def names_by_value(source):
    return set(source.fetch(np.arange(len(source)))[:, 0, 0, 0].tolist())


def test_hold_out_parts_the_files_and_files_stay_where_they_are(tmp_path):
    for i in range(100):
        save(tmp_path, f"{i}.png", (1, 1, 1), value=i)
    train, test = load(tmp_path, "train", 0.2), load(tmp_path, "test", 0.2)
    assert names_by_value(train) | names_by_value(test) == set(range(100))
    assert len(train) + len(test) == 100
    # The number of held-out files is binomial.
    assert abs(len(test) - 20) < 4 * (100 * 0.2 * 0.8) ** 0.5
    for i in range(100, 150):
        save(tmp_path, f"{i}.png", (1, 1, 1), value=i)
    assert names_by_value(train) <= names_by_value(load(tmp_path, "train", 0.2))
    assert names_by_value(test) <= names_by_value(load(tmp_path, "test", 0.2))


def test_hold_out_is_the_same_on_every_machine(tmp_path):
    """`printf a/b.png | sha256sum` begins with 88f7ec79, and 0x88f7ec79 / 2**32 = 0.53503."""
    save(tmp_path, "a/b.png", (1, 1, 1))
    assert len(load(tmp_path, "train", 0.5350)) == 1
    assert len(load(tmp_path, "test", 0.5351)) == 1


def test_folders_train_and_test_are_the_splits(tmp_path):
    save(tmp_path, "train/a.png", (1, 1, 1), value=1)
    save(tmp_path, "test/a.png", (1, 1, 1), value=2)
    save(tmp_path, "test/b.png", (1, 1, 1), value=3)
    assert names_by_value(load(tmp_path, "train", 0.5)) == {1}
    assert names_by_value(load(tmp_path, "test", 0.5)) == {2, 3}


def test_subfolders_are_classes_if_asked(tmp_path):
    for i, folder in enumerate(["cat", "ant", "bee/young", "bee/old"]):
        save(tmp_path, f"{folder}/{i}.png", (1, 1, 1), value=i)
    assert load(tmp_path).labels is None
    source = load(tmp_path, class_folders=True)
    values = source.fetch(np.arange(4))[:, 0, 0, 0]
    classes = {0: 2, 1: 0, 2: 1, 3: 1}  # ant 0, bee 1, cat 2
    assert source.labels.tolist() == [classes[v] for v in values]
    save(tmp_path, "stray.png", (1, 1, 1))
    with pytest.raises(ValueError, match=r"stray.png lies in no subfolder"):
        load(tmp_path, class_folders=True)


def test_classes_have_the_same_number_in_both_splits(tmp_path):
    save(tmp_path, "train/bee/a.png", (1, 1, 1))
    save(tmp_path, "train/ant/a.png", (1, 1, 1))
    save(tmp_path, "test/bee/a.png", (1, 1, 1))
    assert load(tmp_path, "test", class_folders=True).labels.tolist() == [1]


def test_a_folder_without_images_says_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No images .*\.png.* for split 'train'"):
        load(tmp_path)
    save(tmp_path, "a.png")
    with pytest.raises(FileNotFoundError, match=r"for split 'test'.*1 lie there, holdout=0;"):
        load(tmp_path, "test")


def test_sizes_are_checked():
    assert as_pair("image_size", 8) == (8, 8) and as_pair("image_size", [4, 6]) == (4, 6)
    assert as_pair("image_size", (4,)) == (4, 4) and as_pair("image_size", ()) is None
    for wrong in (0, (0,), (4, -1), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"^image_size is .*; it must be one side, or"):
            as_pair("image_size", wrong)
    with pytest.raises(ValueError, match=r"crop=\(5, 5\) is larger than the image"):
        fit(np.zeros((4, 4, 1), np.uint8), None, (5, 5))
