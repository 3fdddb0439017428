"""Handwritten digits, 8x8, variance-exploding law.

python main.py --config configs/digits_ve.py --workdir runs/digits_ve --mode train
python main.py --config configs/digits_ve.py --workdir runs/digits_ve --mode eval
"""

from configs.digits import digits


def get_config():
    return digits("ve")
