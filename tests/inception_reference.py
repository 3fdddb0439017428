"""Reference outputs of Inception-v3 in torch, with random weights and images that are reproducible.

The released weights are 100 MB, so random ones are used here: the array of a key comes from NumPy's
default generator with the CRC-32 of the key as its seed, see `weights`. The outputs of
torchvision's module with these weights, in float64, are stored in `evaluation/data/inception.json`.
To write this file, run

    python tests/inception_reference.py

in an environment with torch and torchvision besides the requirements.
"""

import functools
import json
import sys
import zlib
from pathlib import Path
from unittest import mock

import numpy as np

STORED = Path(__file__).parent / "evaluation" / "data" / "inception.json"
CLASSES = {"inception": 1008, "inception_v3": 1000}
# With this size the last grid is 2x1, so that no pooling is trivial and swapped axes would show.
SHAPE = (2, 107, 75, 3)
STRIDE = 61  # every 61st number of an output is stored
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def weights(shapes):
    """Return a state dict of float32 arrays for keys with these shapes.

    With u uniform in [0, 1), arrays of two axes or more are (u - 1/2) sqrt(24 / fan_in), with the
    variance of He et al. 2015. Scales and variances of BatchNorm are u + 1/2, all others u - 1/2.
    """
    state = {}
    for key, shape in shapes.items():
        u = np.random.default_rng(zlib.crc32(key.encode())).random(shape, np.float32)
        if len(shape) > 1:
            state[key] = (u - 0.5) * np.float32(np.sqrt(24 / np.prod(shape[1:])))
        else:
            state[key] = u + np.float32(0.5 if key.endswith(("bn.weight", "var")) else -0.5)
    return state


def scaled_images(shape=SHAPE):
    """Return images in [-1, 1], as the networks take them, NHWC float32."""
    return np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)


def torch_network(name):
    """Return torchvision's module in float64; for the graph of 2015, with its own poolings."""
    import torch
    from torchvision.models.inception import Inception3

    options = {"transform_input": name == "inception_v3", "init_weights": False}
    module = Inception3(CLASSES[name], aux_logits=False, **options)
    if name == "inception":
        functional = torch.nn.functional
        inside_mean = functools.partial(functional.avg_pool2d, count_include_pad=False)
        for block in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"):
            use_pool(getattr(module, f"Mixed_{block}"), inside_mean)
        use_pool(module.Mixed_7c, functional.max_pool2d)
    return module.double().eval()


def use_pool(block, pool):
    """Make the block call `pool` in place of `avg_pool2d`."""
    plain = block.forward

    def forward(x):
        with mock.patch("torch.nn.functional.avg_pool2d", pool):
            return plain(x)

    block.forward = forward


def torch_state(module, name):
    """Load the random weights into the module, and return them as a state dict."""
    import torch

    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    state = weights({key: shape for key, shape in shapes.items() if "num_batches" not in key})
    loaded = {key: torch.from_numpy(value.astype(np.float64)) for key, value in state.items()}
    missing, unknown = module.load_state_dict(loaded, strict=False)
    assert not unknown and all("num_batches" in key for key in missing)
    return state


def torch_outputs(name, module, x):
    """Return `pool3`, `logits` and `logits_unbiased` of images in [-1, 1], as float64 arrays."""
    import torch

    seen = {}
    module.fc.register_forward_hook(lambda _, ins, out: seen.update(pool3=ins[0], logits=out))
    x = np.asarray(x, np.float64)
    if name == "inception_v3":
        # Its forward pass begins by undoing ImageNet's scaling.
        mean, std = IMAGENET
        x = ((x + 1) / 2 - mean) / std
    with torch.no_grad():
        module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    seen["logits_unbiased"] = seen["logits"] - module.fc.bias
    return {key: value.detach().numpy() for key, value in seen.items()}


def small_image():
    """Return an image (1, 5, 7, 3) in [0, 1], which is resized to 12x12 and to 3x3."""
    return np.random.default_rng(8).random((1, 5, 7, 3)).astype(np.float32)


def torch_resized(image, side, **options):
    """Resize NHWC images by torch's `interpolate`."""
    import torch

    x = torch.from_numpy(image.astype(np.float64).transpose(0, 3, 1, 2).copy())
    y = torch.nn.functional.interpolate(x, size=(side, side), align_corners=False, **options)
    return y.numpy().transpose(0, 2, 3, 1)


def main():
    stored = {}
    for name in CLASSES:
        module = torch_network(name)
        torch_state(module, name)
        outputs = torch_outputs(name, module, scaled_images())
        stored[name] = {key: value[:, ::STRIDE].tolist() for key, value in outputs.items()}
    for side in (3, 12):
        stored[f"bilinear_{side}"] = torch_resized(small_image(), side, mode="bilinear").tolist()
        stored[f"bicubic_{side}"] = torch_resized(
            small_image(), side, mode="bicubic", antialias=True
        ).tolist()
    STORED.parent.mkdir(exist_ok=True)
    rounded = json.loads(json.dumps(stored), parse_float=lambda text: float(f"{float(text):.9g}"))
    STORED.write_text(json.dumps(rounded) + "\n")
    print(f"wrote {STORED}", file=sys.stderr)


if __name__ == "__main__":
    main()
