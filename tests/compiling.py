"""How the tests compile: little, quickly, and without XLA's optimiser.

Most of the time of a test is compilation, and outside `jit` every single operation is a program of
its own. So functions that tests often call outside `jit` are made one program each here.
"""

import functools
import inspect
import os
from importlib.metadata import version

import jax

import sde_lib
from samplers import grids

# Methods of laws whose arguments are arrays; they can be jitted with the law as a static argument.
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

# XLA's earlier code generator, without threads, takes a third of the time. Other releases of jaxlib
# may not know these flags, and would stop at them.
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
QUICK = QUICK if version("jaxlib") == "0.10.2" else ""


def compile_quickly():
    """Set the flags for quick compilation, in this process and in those that tests start.

    Call this before anything is compiled.
    """
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)


def one_program(method):
    """Return a method of a law as one compiled program for each law.

    Laws without a hash (because they hold arrays or are traced) call the method without `jit`.
    """
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
    """Make each method of the laws one program, and each grid."""
    laws = [cls for _, cls in inspect.getmembers(sde_lib, inspect.isclass)]
    for law in {base for cls in laws for base in cls.__mro__ if hasattr(base, "coeffs")}:
        for name in METHODS:
            if name in vars(law):
                setattr(law, name, one_program(vars(law)[name]))
    for name in GRIDS:
        # The law is a traced argument. With a constant law, `make_grid` would evaluate each
        # operation as a program of its own.
        grids.GRIDS[name] = jax.jit(grids.GRIDS[name], static_argnums=1)
