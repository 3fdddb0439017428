"""Fashion-MNIST, 28x28, VE law, a small NCSN++.

python main.py --config configs/fashion_ve.py --config.data.path=DIR \\
    --workdir runs/fashion_ve --mode train
"""

from configs.fashion import fashion


def get_config():
    return fashion("ve")
