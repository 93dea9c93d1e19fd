"""Processes that start in a tenth of a second: forked from a server that has imported the large libraries.

A fresh Python spends three seconds on these imports.
"""

import multiprocessing
from multiprocessing.context import ForkServerContext

LIBRARIES = [
    "h5py",
    "IPython",
    "matplotlib.pyplot",
    "nbdev.test",
    "numba",
    "pandas",
    "pydantic",
    "scipy.integrate",
    "scipy.linalg",
    "scipy.optimize",
    "scipy.stats",
    "seaborn",
    "torch",
    "torch._dynamo",
    "typer",
]


def forked_context() -> ForkServerContext:
    """Processes of this context are forked from the server, which the first of them starts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context
