"""A classifier of noisy digits, to guide a model of `digits_ve.py`.

python main.py --config configs/digits_ve_classifier.py --workdir runs/classifier_ve \\
    --mode train
python main.py --config configs/digits_ve.py --workdir runs/digits_ve --mode sample \\
    --config.guidance.method=classifier --config.guidance.classifier=runs/classifier_ve
"""

from configs.digits import digits_classifier


def get_config():
    return digits_classifier("ve")
