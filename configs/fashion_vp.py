"""Fashion-MNIST, 28x28, VP law, a small DDPM++.

python main.py --config configs/fashion_vp.py --config.data.path=DIR \\
    --workdir runs/fashion_vp --mode train
"""

from configs.fashion import fashion


def get_config():
    return fashion("vp")
