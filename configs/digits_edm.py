"""Handwritten digits, 8x8, the law of Karras et al. 2022.

python main.py --config configs/digits_edm.py --workdir runs/digits_edm --mode train
python main.py --config configs/digits_edm.py --workdir runs/digits_edm --mode eval
"""

from configs.digits import digits


def get_config():
    return digits("edm")
