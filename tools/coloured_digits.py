"""Handwritten digits in colour: 8x8 RGB images of 17 levels, each digit in a hue of its own.

python -m tools.coloured_digits runs/coloured_digits.npz

The splits are those of `data.dataset = "digits"`. A grey level becomes `round(level h)`, where h is
the RGB colour of a uniformly drawn hue at full saturation and brightness; black stays black. So the
posterior of a colouring task is known: one hue for the whole digit, and all hues equally likely.
"""

import argparse

import numpy as np
from matplotlib.colors import hsv_to_rgb

from builders.places import place
from data import load
from whole_files import put_arrays


def coloured(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images (n, 8, 8, 3) uint8 of levels 0 to 16, labels (n,), and hues (n,) in [0, 1)."""
    source = load("digits", split)
    grey = source.fetch(np.arange(source.size))
    hue = np.random.default_rng({"train": 0, "test": 1}[split]).random(source.size)
    colour = hsv_to_rgb(np.stack([hue, np.ones_like(hue), np.ones_like(hue)], axis=1))
    image = np.round(grey * colour[:, None, None]).astype(np.uint8)
    return image, source.labels, hue


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=place, help="where the npz file is written")
    file = parser.parse_args(argv).file
    (x, y, _), (x_test, y_test, _) = coloured("train"), coloured("test")
    file.parent.mkdir(parents=True, exist_ok=True)
    put_arrays(file, x=x, y=y, x_test=x_test, y_test=y_test, levels=17)
    print(f"wrote {file}: {len(x)} and {len(x_test)} images {x.shape[1:]}")


if __name__ == "__main__":
    main()
