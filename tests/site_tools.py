"""The modules of the folder site/, which is no package: `site` is taken by the standard library."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "site"))

import figures
import pages
import render

# By its path and under a name of its own: `build` is also the package that builds wheels.
_spec = importlib.util.spec_from_file_location("site_build", ROOT / "site" / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)

__all__ = ["build", "figures", "pages", "render"]
