"""What a device is sent is the code: comments, and the docstrings of what is private, stay with the sources. Lines keep their numbers."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def lean(source: str) -> str:
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    for node in _private(ast.parse(source), private=False):
        first, rest = node.body[0], node.body[1:]
        if rest and ast.get_docstring(node) is not None:
            lines[first.lineno - 1 : first.end_lineno] = ["\n"] * (first.end_lineno - first.lineno + 1)
    return "".join(lines)


def _private(node, private):
    """Functions and classes that nobody outside calls, by their name or because of what they are in."""
    for child in ast.iter_child_nodes(node):
        inside = private or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if isinstance(child, _DOCUMENTED):
            hidden = inside or (child.name.startswith("_") and not child.name.startswith("__"))
            if hidden:
                yield child
            yield from _private(child, hidden)
        else:
            yield from _private(child, private)


class Lean(build_py):
    def build_module(self, module, module_file, package):
        made, copied = super().build_module(module, module_file, package)
        file = Path(made)
        file.write_text(lean(file.read_text("utf-8")), "utf-8")
        return made, copied


setup(cmdclass={"build_py": Lean})
