"""Handwritten digits, 8x8, sub-VP law.

python main.py --config configs/digits_subvp.py --workdir runs/digits_subvp --mode train
python main.py --config configs/digits_subvp.py --workdir runs/digits_subvp --mode eval
"""

from configs.digits import digits


def get_config():
    return digits("subvp")
