"""One docstring dialect: arguments, results and errors are described in sections only."""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"

SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises):")
SENTENCE = re.compile(r"(^|[.;:] )(Raises|Returns|raises|returns) \S|(^|\. )(Raises|Returns)$", re.M)
HEADING_WITH_TEXT = re.compile(r"^(Args|Attributes|Returns|Yields|Raises): \S", re.M)


def names(node):
    """Arguments of a function; fields of a class, and arguments and attributes of its constructor."""
    if isinstance(node, ast.Module):
        return set()
    if isinstance(node, ast.ClassDef):
        found = {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)}
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                found |= names(part) | {one.attr for one in ast.walk(part) if isinstance(one, ast.Attribute)}
        return found
    of = node.args
    every = [*of.posonlyargs, *of.args, of.vararg, *of.kwonlyargs, of.kwarg]
    return {one.arg for one in every if one}


def prose(docstring):
    """The lines that belong to no section."""
    outside, inside = [], False
    for line in docstring.splitlines():
        inside = bool(SECTION.fullmatch(line)) or (inside and (not line or line.startswith(" ")))
        if not inside:
            outside.append(line)
    return "\n".join(outside)


def complaints(node):
    """What in the docstring of a module, class or function is said outside of the sections for it."""
    docstring = inspect.cleandoc(ast.get_docstring(node) or "")
    known = "|".join(map(re.escape, sorted(names(node)))) or "(?!)"
    entry = re.compile(rf"^[`*]*({known})`?(, `?({known})`?)*: ", re.M)
    second_entry = re.compile(rf"[.;] ({known})(, ({known}))*: ")
    outside = prose(docstring)
    found = [found[0] for pattern in (SENTENCE, HEADING_WITH_TEXT, entry) for found in pattern.finditer(outside)]
    return found + [found[0] for found in second_entry.finditer(docstring)]


def documented(tree):
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def test_docstrings_describe_in_sections():
    found = []
    for path in sorted(SRC.rglob("*.py")):
        for node in documented(ast.parse(path.read_text())):
            place = f"src/{path.relative_to(SRC)}:{getattr(node, 'lineno', 1)}"
            found += [f"{place} {said!r}" for said in complaints(node)]
    assert not found, "each needs a line of its own in a section:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "body",
    [
        "x: int (n,).",
        "x, y: int (n,).",
        "Returns (n,) floats.",
        "Reads in chunks. Raises `UserError` for an empty file.",
        "Reads in chunks; returns the path.",
        "Returns: (n,) floats.",
        "Args:\n        x: int (n,). y: float (n,).",
        "Args:\n        x: int (n,).\n\n    Raises `UserError` for an empty file.",
    ],
)
def test_the_prose_dialect_is_recognised(body):
    function = ast.parse(f'def f(x, y):\n    """One.\n\n    {body}\n    """').body[0]
    assert complaints(function)


def test_one_line_says_what_not_which_errors():
    assert complaints(ast.parse('def f(x):\n    """Read a file. Raises `UserError`."""').body[0])
    assert not complaints(ast.parse('def f(x):\n    """What a file holds: rows."""').body[0])


def test_sections_are_not_taken_for_prose():
    sections = "Args:\n  x, y: int (n,).\n\nReturns:\n  (n,).\n\nRaises:\n  UserError: an empty file."
    function = ast.parse(f'def f(x, y):\n  """One.\n\n{textwrap.indent(sections, "  ")}\n  """').body[0]
    assert complaints(function) == []
