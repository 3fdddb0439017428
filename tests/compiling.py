"""How the tests compile: little, quickly, and without XLA's optimiser.

Most of the time of a test goes into compiling, and outside `jit` every single operation is a
program of its own. What tests call outside `jit` again and again is therefore one program here.
"""

import functools
import inspect
import os
from importlib.metadata import version

import jax

import sde_lib
from samplers import grids

# Methods of laws that take a law and arrays, and Python numbers nowhere else.
METHODS = (
    "coeffs",
    "lam",
    "t_of_lam",
    "rates",
    "f",
    "g2",
    "beta",
    "drift",
    "diffusion",
    "marginal",
)
METHODS += ("forward_step", "prior_std", "prior_logp")
GRIDS = ("uniform", "uniform_lam", "quadratic", "karras", "tangent")

# The code generator before the present one, and no threads: a third of the time. Another release of
# jaxlib may not know these flags, and would stop at them.
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
QUICK = QUICK if version("jaxlib") == "0.10.2" else ""


def compile_quickly():
    """Here, before anything is compiled, and in the processes that tests start."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)


def one_program(method):
    """A method of a law as one compiled program, for each law that has a hash; as it is for others
    (a law that holds arrays, a law that is traced)."""
    compiled = jax.jit(method, static_argnums=0)

    @functools.wraps(method)
    def call(law, *args, **kwargs):
        try:
            hash(law)
        except TypeError:
            return method(law, *args, **kwargs)
        return compiled(law, *args, **kwargs)

    return call


def compile_laws():
    """Makes each method of a law one program, and each grid."""
    laws = [cls for _, cls in inspect.getmembers(sde_lib, inspect.isclass)]
    for law in {base for cls in laws for base in cls.__mro__ if hasattr(base, "coeffs")}:
        for name in METHODS:
            if name in vars(law):
                setattr(law, name, one_program(vars(law)[name]))
    for name in GRIDS:
        # The law is an argument here, for `make_grid` would evaluate what is made of constants
        # alone one operation after the other.
        grids.GRIDS[name] = jax.jit(grids.GRIDS[name], static_argnums=1)
