"""Handwritten digits in colour, 8x8x3, variance-preserving law, for the colouring of grey images.

python -m tools.coloured_digits runs/coloured_digits.npz
python main.py --config configs/coloured_digits_vp.py --workdir runs/coloured --mode train
python main.py --config configs/coloured_digits_vp.py --workdir runs/coloured --mode sample \\
    --config.guidance.method=impute --config.guidance.operator=greyscale \\
    --config.sampling.corrector=langevin
"""

from ml_collections import ConfigDict

from builders.constructors import section_of
from configs.digits import digits


def get_config():
    config = digits("vp")
    config.model.width = 512
    rest = {key: config.data[key] for key in config.data if key != "dataset"}
    config.data = ConfigDict({**section_of("data", "npz"), **rest})
    config.data.path = "runs/coloured_digits.npz"
    config.eval.mixture = False
    config.eval.classifier = ""  # fitted to these images; the file "digits" is for grey images
    return config
