"""`failure-directions`: every subcommand has its help, and what documents say to type is what the parsers know."""

import argparse
import ast
import functools
import io
import json
import re
import runpy
import shlex
import sys
import tokenize
from pathlib import Path

import pytest
from failure_directions.commands.main import SUBCOMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "scripts", "benchmarks", "dataset_interfaces", "tests")
CONSOLE = {"ffcv_main": "train", "train_svms": "distil", "sparse_main": "sparse", "generate_images": "generate"}
PYTHON = re.compile(r"(\S*/)?python3?(\.\d+)?$")
# Folders that hold what users make.
MADE = ("data", "runs", "demo", "results", "index_files")
# Options of torchrun, pytest, pip and apt that documents speak of.
FOREIGN = {
    *("--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint"),
    *("--hypothesis-profile", "--hypothesis-show-statistics", "--no-deps", "--no-build-isolation"),
}


class Made(Exception):
    """A parser that was about to parse."""


def parser_of(start):
    """The parser with which `start()` would parse the command line."""

    def stop(parser, *args, **kwargs):
        raise Made(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", ["command"])
        with pytest.raises(Made) as made:
            start()
    return made.value.args[0]


@functools.cache
def subcommand_parser(name):
    return parser_of(lambda: main([name]))


@functools.cache
def script_parser(path):
    """The parser of a script, or None where it takes no arguments."""
    if "parse_args" not in path.read_text() and "main" not in path.read_text():
        return None
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        return parser_of(lambda: runpy.run_path(str(path), run_name="__main__"))


def choices(parser):
    """Name -> parser of the subcommands below a parser."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return below[0].choices if below else {}


# ---- help


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_and_those_below_it_have_their_help(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    paths = [(name,), *((name, below) for below in choices(subcommand_parser(name)))]
    for path in paths:
        with pytest.raises(SystemExit) as stopped:
            main([*path, "--help"])
        out, err = capsys.readouterr()
        assert stopped.value.code in (0, None)
        assert err == ""
        assert out.startswith(f"usage: failure-directions {' '.join(path)} ")
        assert "-h, --help" in out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_without_a_subcommand_all_are_listed(words, capsys):
    main(words)
    out = capsys.readouterr().out
    assert out.startswith("usage: failure-directions SUBCOMMAND")
    for name, what in SUBCOMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what)}$", out, re.MULTILINE)


def test_an_unknown_subcommand_ends_with_code_2_and_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["distill"])
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert out == ""
    assert re.fullmatch(r"error: there is no subcommand 'distill'; .*\bdistil\b.*\n", err)


# ---- what documents say


def python_texts(path):
    """Docstrings and comments of a Python file, each with its line."""
    code = path.read_text()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            yield node.body[0].lineno, ast.get_docstring(node)
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


@functools.cache
def texts():
    """(where, text) of everything that speaks of commands."""
    found = []
    for path in (ROOT / "README.md", ROOT / "CITATION.cff", *sorted((ROOT / "docs").glob("*.md"))):
        found.append((path.name, path.read_text()))
    for path in sorted({*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))}):
        found += [(f"{path.relative_to(ROOT)}:{line}", text) for line, text in python_texts(path)]
    for folder in ("dataset_configs", "svm_configs", "src/captions/configs"):
        for path in sorted((ROOT / folder).glob("*.yaml")):
            lines = re.findall(r"(?:^|\s)#(.*)", path.read_text())
            found.append((str(path.relative_to(ROOT)), "\n".join(line.removeprefix(" ") for line in lines)))
    for path in sorted(ROOT.glob("*_nbs/*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                found.append((str(path.relative_to(ROOT)), "".join(cell["source"])))
    return found


def snippets(text):
    """What may be a command in a text: its lines, continued ones joined, and its spans of code."""
    text = re.sub(r"\\\\?\n\s*", " ", text)
    yield from (line.strip().removeprefix("$ ") for line in text.splitlines() if "`" not in line)
    for paragraph in re.split(r"\n\s*\n", text):
        yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", paragraph))


def words_of(snippet):
    """The words of a command up to where a shell would end it, without variables that are set before it."""
    try:
        words = shlex.split(snippet, comments=True)
    except ValueError:  # an apostrophe: this is prose
        words = snippet.split()
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    for end in ("|", "&&", ">", ";"):
        if end in words:
            words = words[: words.index(end)]
    return words


def file_called(name):
    """A file of the checkout by its path or, for a name alone, wherever it is."""
    if (ROOT / name).is_file() or "/" in name:
        return ROOT / name
    places = [path for folder in FOLDERS for path in (ROOT / folder).rglob(name)]
    return places[0] if places else ROOT / name


def command(words):
    """(parser, its arguments) of a command of ours; (None, what is wrong) for one that is not; None for others."""
    if not words:
        return None
    name, *rest = words
    if name == "failure-directions" or name in CONSOLE:
        subcommand, rest = (CONSOLE[name], rest) if name in CONSOLE else (rest[0] if rest else "--help", rest[1:])
        if subcommand in ("SUBCOMMAND", "--help"):
            return None
        if subcommand not in SUBCOMMANDS:
            return None, f"there is no subcommand {subcommand}"
        return subcommand_parser(subcommand), rest
    if name == "make":
        known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        wrong = [word for word in rest[:1] if re.fullmatch("[a-z]+", word) and word not in known]
        return (None, f"make has no target {wrong[0]}") if wrong else None
    if PYTHON.match(name) and rest[:1] == ["-m"]:
        module = rest[1] if len(rest) > 1 else ""
        if module == "dataset_interfaces":
            return subcommand_parser("interfaces"), rest[2:]
        if module.startswith(("src.", "tests.", "failure_directions.")):
            path = ROOT / f"{module.replace('failure_directions.', 'src.').replace('.', '/')}.py"
            return (script_parser(path), rest[2:]) if path.is_file() else (None, f"there is no module {module}")
        return None
    if name == "torchrun":
        scripts = [k for k, word in enumerate(rest) if word.endswith(".py")]
        return command(rest[scripts[0] :]) if scripts else None
    if PYTHON.match(name) or name == "bash":
        if not rest or not rest[0].endswith((".py", ".sh")):
            return None
        path, rest = ROOT / rest[0], rest[1:]
    elif re.fullmatch(r"[\w/]+\.py", name):
        path = file_called(name)
    else:
        return None
    if not path.is_file():
        return None, f"there is no {path.relative_to(ROOT)}"
    if not any(word.startswith("-") for word in rest) or path.suffix == ".sh" or path.name == "setup.py":
        return None
    return script_parser(path), rest


def wrong_words(parser, words):
    """Of a command's words, those that its parser does not know: options, and the subcommands below it."""
    options, below = set(parser._option_string_actions), choices(parser)
    for k, word in enumerate(words):
        word = word.strip("[](),;:")
        if below and (word == "..." or word.isupper()):
            options, below = options.union(*(each._option_string_actions for each in below.values())), {}
        elif word.startswith("-") and not re.match(r"-[\d.]", word):
            if word.partition("=")[0].rstrip(".") not in options:
                yield word
        elif below and re.fullmatch(r"[\w|-]+", word):
            names = word.split("|")
            yield from (name for name in names if name not in below)
            for name in names:
                yield from wrong_words(below.get(name, parser), words[k + 1 :])
            return


def test_every_command_that_is_spelled_somewhere_exists_with_its_options():
    problems, commands = [], 0
    for where, text in texts():
        for snippet in snippets(text):
            found = command(words_of(snippet))
            if found is None:
                continue
            parser, rest = found
            wrong = [rest] if parser is None else list(wrong_words(parser, rest))
            problems += [f"{where}: {snippet[:120]}: {word}" for word in wrong]
            commands += 1
    assert not problems, "\n".join(problems)
    assert commands > 100  # they are found at all


def test_every_option_that_is_spelled_alone_is_one_of_some_command():
    parsers = [subcommand_parser(name) for name in SUBCOMMANDS]
    parsers += [below for parser in parsers for below in choices(parser).values()]
    parsers += [script_parser(path) for folder in ("benchmarks", "scripts") for path in (ROOT / folder).glob("*.py")]
    parsers += [script_parser(path) for path in (ROOT / "tests" / "trials").glob("*.py")]
    known = FOREIGN.union(*(parser._option_string_actions for parser in parsers if parser))
    spelled = [
        (where, word.partition("=")[0].rstrip(".,;)"))
        for where, text in texts()
        for snippet in snippets(text)
        if snippet.startswith("--")
        for word in snippet.split()
        if re.match("--[a-z]", word)
    ]
    assert len(spelled) > 30
    assert sorted({(option, where) for where, option in spelled if option not in known}) == []


def test_messages_name_subcommands_and_scripts_that_exist():
    problems = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = re.findall(r"\bfailure-directions ([a-z][\w-]*)", node.value)
                problems += [(path.name, node.lineno, name) for name in names if name not in SUBCOMMANDS]
                scripts = re.findall(r"(?<![\w/.])([\w/]+\.py)\b", node.value)
                problems += [(path.name, node.lineno, name) for name in scripts if not file_called(name).is_file()]
    assert problems == []


def test_every_path_of_the_project_that_is_named_is_there():
    own = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in MADE)
    named = re.compile(rf"(?<![\w/.-])((?:{own})/[\w./-]*\w)/?(?![\w*{{])")
    missing = [
        f"{where}: {path}" for where, text in texts() for path in named.findall(text) if not (ROOT / path).exists()
    ]
    assert not missing, "\n".join(missing)


def test_code_spans_are_closed():
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        for paragraph in re.split(r"\n\s*\n", text):
            if not paragraph.startswith("    "):
                assert paragraph.count("`") % 2 == 0, f"{path.name}: {paragraph}"
