"""Handwritten digits, 8x8, variance-preserving law, with a network that may get the class.

python main.py --config configs/digits_vp_conditional.py --workdir runs/conditional --mode train
python main.py --config configs/digits_vp_conditional.py --workdir runs/conditional --mode sample \\
    --config.guidance.method=classifier_free --config.guidance.scale=1.5
"""

from configs.digits import digits


def get_config():
    config = digits("vp")
    config.model.num_classes = 10
    return config
