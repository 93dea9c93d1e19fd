"""What the package defines, read from its text: dotted names that a page writes are looked up here."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from notebook_form import PACKAGE

from thesis_surrogates.running.registry import SYSTEMS

FOLDERS = ("core", *SYSTEMS, "running")


@cache
def names_of(module: Path) -> set[str]:
    """What a module defines, and `Class.method` or `Class.field`."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
            members += [ast.unparse(n.target) for n in node.body if isinstance(n, ast.AnnAssign)]
            names |= {f"{node.name}.{member}" for member in members}
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def is_there(name: str) -> bool:
    """Whether a dotted name is a folder, a module or something that a module defines."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:n])
        if n == len(parts) and path.is_dir():
            return True
        if path.with_suffix(".py").is_file():
            return n == len(parts) or ".".join(parts[n:]) in names_of(path.with_suffix(".py"))
    return False
