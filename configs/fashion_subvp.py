"""Fashion-MNIST, 28x28, sub-VP law, a small DDPM++.

python main.py --config configs/fashion_subvp.py --config.data.path=DIR \\
    --workdir runs/fashion_subvp --mode train
"""

from configs.fashion import fashion


def get_config():
    return fashion("subvp")
