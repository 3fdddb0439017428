"""Handwritten digits, 8x8, variance-preserving law: the demo.

python main.py --config configs/digits_vp.py --workdir runs/digits --mode train
python main.py --config configs/digits_vp.py --workdir runs/digits --mode eval
"""

from configs.digits import digits


def get_config():
    return digits("vp")
