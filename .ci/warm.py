"""What the server of forked.py does once for all its processes: import the large libraries, compile the steppers."""

import importlib

from forked import forget_folder
from thesis_surrogates.tracks.field import LHCbLikeField
from thesis_surrogates.tracks.propagation import METHODS, propagate, propagate_with_jacobian

LIBRARIES = (
    "h5py",
    "IPython",
    "matplotlib.pyplot",
    "nbdev.test",
    "pydantic",
    "scipy.integrate",
    "scipy.optimize",
    "scipy.stats",
    "seaborn",
    "torch._dynamo",
    "typer",
)
TRACK = ([[0.0, 0.0, 0.01, 0.01]], 0.1, 0.0, 100.0, LHCbLikeField())

forget_folder()
for name in LIBRARIES:
    importlib.import_module(name)
for method in METHODS:
    propagate(*TRACK, method)
propagate_with_jacobian(*TRACK, "rk4")
