"""Handwritten digits, 8x8, rectified flow.

python main.py --config configs/digits_flow.py --workdir runs/digits_flow --mode train
python main.py --config configs/digits_flow.py --workdir runs/digits_flow --mode eval
"""

from configs.digits import digits


def get_config():
    return digits("flow")
