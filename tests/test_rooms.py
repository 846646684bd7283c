"""The house: imports go down the loop only, never in a circle, and a room is entered without loading what is in it."""

import ast
import graphlib
import json
import re
import subprocess
import sys
from pathlib import Path

import failure_directions
import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
# From the ground up; the rooms of a floor do not know one another.
FLOORS = (
    {"runtime"},
    {"data", "models"},
    {"training"},
    {"embeddings"},
    {"directions"},
    {"captions", "sparse", "interfaces"},
    {"interventions"},
    {"report"},
    {"api"},
    {"commands"},
)
# Modules that keep the names by which the papers' users know them, and the rooms they belong to.
PUBLISHED = {"config_parsing": "data", "loaders": "data", "svm_utils": "directions"}
# What a checkout that is not installed runs, and the published names that its notebooks may import.
FACES = {
    *(ROOT / name for name in ("ffcv_main.py", "train_svms.py", "sparse_main.py", "generate_images.py")),
    *(ROOT / name for name in ("clip_utils.py", "visualization_utils.py")),
    *(ROOT / "scripts" / name for name in ("make_betons.py", "make_index_files.py")),
    ROOT / "dataset_interfaces" / "__init__.py",
}


def module_name(path):
    """Dotted name below src; of an `__init__.py` that of its folder, "" for the package itself."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SRC.rglob("*.py"))}


def imports(name, tree):
    """Modules of the package that a module imports, wherever in it the import stands."""
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                inner = ".".join([*start, alias.name])
                yield inner if inner in MODULES else ".".join(start)
        else:
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            absolute = [found for found in names if re.match(r"(src|failure_directions|dataset_interfaces)\b", found)]
            assert not absolute, f"{MODULES[name]}:{node.lineno} imports {absolute[0]}: inside, imports are relative"


IMPORTS = {name: sorted(set(imports(name, ast.parse(path.read_text())))) for name, path in MODULES.items()}


def room(name):
    first = name.partition(".")[0]
    return PUBLISHED.get(first, first)


def test_every_module_lives_in_a_room():
    rooms = {room(name) for name in MODULES if name}
    assert rooms - set().union(*FLOORS) == set()
    # Not those of which an update has left the bytecode alone.
    files = (path.relative_to(SRC).parts for path in SRC.rglob("*") if path.is_file())
    assert {parts[0] for parts in files if parts[1:] and "__pycache__" not in parts} <= rooms


def test_imports_go_down_only():
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    upward = [
        f"{name} imports {imported}"
        for name, found in IMPORTS.items()
        for imported in found
        if name and room(name) != room(imported) and floor[room(imported)] >= floor[room(name)]
    ]
    assert upward == []


def test_no_modules_import_one_another_in_a_circle():
    try:
        graphlib.TopologicalSorter(IMPORTS).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_entering_a_room_loads_nothing_but_the_standard_library():
    rooms = [name for name, path in MODULES.items() if name and path.name == "__init__.py"]
    code = f"""
import importlib, json, sys
before = set(sys.modules)
for room in {rooms}:
    importlib.import_module(f"failure_directions.{{room}}")
print(json.dumps(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout)) - sys.stdlib_module_names
    assert loaded == {"failure_directions"}


def test_a_type_checker_sees_what_the_package_gives_by_name():
    for node in ast.walk(ast.parse(MODULES[""].read_text())):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            seen = {(alias.asname, f"failure_directions.{line.module}") for line in node.body for alias in line.names}
    given = {(name, getattr(failure_directions, name).__module__) for name in failure_directions.__all__}
    assert seen == given


# ---- around the house


def code_outside():
    """(path, code) of every Python file outside src and of every notebook's cells."""
    for path in sorted(ROOT.glob("*.py")):
        yield path, path.read_text()
    for folder in ("tests", "benchmarks", "scripts", "dataset_interfaces"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, path.read_text()
    for folder in ("analysis_nbs", "setup_nbs"):
        for path in sorted((ROOT / folder).glob("*.ipynb")):
            cells = json.loads(path.read_text())["cells"]
            yield path, "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_no_path_is_inserted_and_only_faces_import_src():
    inserting, importing = set(), set()
    for path, code in code_outside():
        if re.search(r"sys\.path\.(insert|append|extend)\(", code):
            inserting.add(path)
        for node in ast.walk(ast.parse(code)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(re.match(r"src\b", module) for module in modules):
                importing.add(path)
    # A script in a folder of its own has no other way to a package that is not installed; mutants are another package.
    scripts = {ROOT / "scripts" / "make_betons.py", ROOT / "scripts" / "make_index_files.py"}
    assert inserting == {*scripts, ROOT / "tests" / "trials" / "mutants.py"}
    assert importing == FACES


def test_documents_import_the_installed_package():
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        found = re.findall(r"sys\.path\.\w+|^\s*(?:from|import) src\b.*", path.read_text(), re.MULTILINE)
        assert found == [], path
