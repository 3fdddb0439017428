"""Linear measurements of a state: one a file, all a `LinearOperator`.

`OPERATORS` are constructors. Their first argument is the shape of one state; the other arguments
have defaults, and plain numbers and strings among them are keys of a config (`guidance.blur.std`).
`in_basis` applies an operator in another basis.
"""

from operators.base import SVD, LinearOperator, dense, measure
from operators.basis import COLOUR, greyscale, in_basis
from operators.blur import BOUNDARIES, blur, gaussian_kernel
from operators.complex_fourier import complex_fourier
from operators.downsample import downsample
from operators.fourier import fourier, random_lines
from operators.mask import mask
from operators.matrix import matrix
from operators.named import named_mask
from operators.radon import radon

OPERATORS = {
    "mask": mask,
    "blur": blur,
    "downsample": downsample,
    "fourier": fourier,
    "complex_fourier": complex_fourier,
    "radon": radon,
    "matrix": matrix,
    "greyscale": greyscale,
}

__all__ = [
    "BOUNDARIES",
    "COLOUR",
    "OPERATORS",
    "SVD",
    "LinearOperator",
    "blur",
    "complex_fourier",
    "dense",
    "downsample",
    "fourier",
    "gaussian_kernel",
    "greyscale",
    "in_basis",
    "mask",
    "matrix",
    "measure",
    "named_mask",
    "radon",
    "random_lines",
]
