"""Processes that start in a tenth of a second: forked from a server that has done what warm.py says.

A fresh Python spends three seconds on importing torch, and three more on compiling the steppers.
"""

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

FOLDER = os.path.dirname(os.path.abspath(__file__))


def forked_context() -> ForkServerContext:
    """Start the server, or find it running; processes of this context are forked from it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm"])
    # Before Python 3.13 the server does not take over sys.path, so it is given this folder by its environment.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [FOLDER, os.environ.get("PYTHONPATH")]))
    try:
        forkserver.ensure_running()
    finally:
        forget_folder()
    return context


def forget_folder() -> None:
    """Take this folder out of the environment again, so that no process further down sees it."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in entries if entry != FOLDER)
    if not os.environ["PYTHONPATH"]:
        del os.environ["PYTHONPATH"]
