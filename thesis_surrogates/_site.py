"""The way from the package to the tools of the site, which lie in `site/` of a checkout and not in the wheel.

`nbdev_docs` imports what `procs` in settings.ini names before anything of ours has run, wherever it was started.
A folder `site` cannot be imported: the standard library's `site` is there first. So `procs` names this module, which
loads `site/pages.py` by its path. Hand-written, like the command line.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

from thesis_surrogates.core.files import package_folder

FOLDER = package_folder().parent / "site"
REMEDY = (
    "the site is made from the notebooks of a checkout, and this package was installed without one: "
    "get the sources and run `make site` there"
)


@cache
def _page_processor() -> Any:
    """Class `PageProcessor` of `site/pages.py`. ImportError without a checkout."""
    path = FOLDER / "pages.py"
    spec = importlib.util.spec_from_file_location("thesis_surrogates_site_pages", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"no {path}: {REMEDY}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PageProcessor


def __getattr__(name: str) -> Any:
    """`PageProcessor`, loaded when it is asked for: the command line needs the folder alone."""
    if name == "PageProcessor":
        return _page_processor()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
