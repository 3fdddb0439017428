"""Handwritten digits, 8x8, the kinetic-optimal law of the training digits.

python main.py --config configs/digits_kinetic.py --workdir runs/digits_kinetic --mode train
python main.py --config configs/digits_kinetic.py --workdir runs/digits_kinetic --mode eval

The table of the law of least kinetic energy was made from the training digits (--draws 20000) by
python -m tools.kinetic_path --config configs/digits_vp.py --out configs/paths/digits.json
"""

from configs.digits import digits


def get_config():
    config = digits("kinetic")
    config.sde.table = "configs/paths/digits.json"
    return config
