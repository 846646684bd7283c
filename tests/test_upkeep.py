"""What those who carry the project on rely on says the same in every place."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from test_rooms import FLOORS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_development_page_has_every_room_from_the_top_down():
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", read("docs/development.md"), re.MULTILINE)
    assert [set(re.findall(r"\w+", row)) for row in rows] == list(reversed(FLOORS))


def test_the_modules_of_the_development_page_are_there():
    rooms = read("docs/development.md").partition("| --- |")[2].partition("\n\n")[0].splitlines()[1:]
    for row in rooms:
        places, _, modules = (cell.strip() for cell in row.strip("| ").split("|"))
        for module in re.findall(r"`([\w/]+\.py)`", modules):
            folders = [ROOT / "src" / room for room in re.findall(r"\w+", places)]
            found = [folder / module for folder in (ROOT, ROOT / "src", *folders) if (folder / module).is_file()]
            assert found, f"{module} is in none of {places}"


def test_every_supported_python_is_tested():
    low, above = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    supported = [f"3.{minor}" for minor in range(int(low), int(above))]
    jobs = yaml.safe_load(read(".github/workflows/tests.yml"))["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == supported
    assert [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step] == [
        "make test",
        "make check",
    ]
    assert f"(3, {low}) <= v <= (3, {int(above) - 1})" in read("scripts/install.sh")


def test_every_change_is_tested_and_checked():
    assert re.search(r"^for target in test check; do$", read(".ci/run"), re.MULTILINE)


def test_the_version_is_one():
    assert yaml.safe_load(read("CITATION.cff"))["version"] == PROJECT["version"]
    assert re.findall(r"^## (.+)", read("CHANGELOG.md"), re.MULTILINE)[:2] == ["Unreleased", PROJECT["version"]]


def test_the_container_sets_up_with_what_the_set_up_is_made_from_and_ends_with_the_demo():
    lines = [line for line in read("Dockerfile").splitlines() if line and not line.startswith("#")]
    assert json.loads(lines[-1].removeprefix("CMD ")) == ["make", "demo"]
    before = " ".join(lines[: lines.index("RUN make setup")])
    needed = re.search(r"^\$\(STAMP\): (.+)$", read("Makefile"), re.MULTILINE)[1].split()
    needed += re.findall(r'"([\w]+)",$', read("setup.py"), re.MULTILINE)[-1:]  # dataset_interfaces
    needed += re.findall(r'": "(\w+)"', read("setup.py"))
    for name in (*needed, PROJECT["readme"], *PROJECT["license-files"]):
        assert name in before, name


def test_hooks_run_what_is_there():
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    for hook in repository["hooks"]:
        for path in re.findall(r"tests/\S+", hook["entry"]):
            assert (ROOT / path).is_file()


def called_by_path():
    paths = sorted((ROOT / "benchmarks").glob("*.py"))
    return [path for path in paths if f"python benchmarks/{path.name}" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", called_by_path(), ids=lambda path: path.stem)
def test_a_benchmark_that_is_called_by_its_path_finds_what_it_imports(path):
    """Called so, Python knows its own folder and what is installed, and not the folders beside it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert not [module for module in modules if module.split(".")[0] in ("benchmarks", "scripts", "tests")]
