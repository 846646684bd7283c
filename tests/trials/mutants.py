"""Which small changes of the code do the tests not notice? Mutants: one operator or number of a module is another.

    OMP_NUM_THREADS=1 python -m tests.trials.mutants --sample 300 --out OUT

Draws mutants of the modules in `TESTS` (comparisons, arithmetic, logic, numbers; not what is raised), puts each into a
copy of src/, and runs the tests of that module on it. A mutant that no test notices has survived: it is printed with
its line, is a row of OUT/mutants.csv, and is either a missing test or a change that makes no difference. A run that
takes ten times as long as the unchanged one counts as noticed.

Tests run in forks of one process that has imported the large libraries; those of several processes are left out.
"""

import argparse
import ast
import contextlib
import csv
import importlib
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.files import write_csv
from tabulate import tabulate
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
# Module of src/ -> its test files.
TESTS = {
    "directions/confirmation.py": ("confirmation",),
    "directions/slices.py": ("slices", "confirmation"),
    "directions/class_fit.py": ("svm_utils",),
    "directions/minority.py": ("minority",),
    "directions/label_noise.py": ("interventions",),
    "interventions/choosing.py": ("interventions",),
    "interventions/comparison.py": ("comparison",),
    "training/metrics.py": ("minority",),
    "training/loss_weights.py": ("interventions", "training", "finetuning"),
    "data/index_files.py": ("index_files", "splits"),
    "data/splits.py": ("splits", "index_files"),
}
LIBRARIES = ("pytest", "torch", "numba", "joblib", "matplotlib", "hypothesis", "yaml", "PIL.Image", "tqdm")
LIBRARIES += ("scipy.stats", "scipy.optimize", "sklearn.svm", "sklearn.model_selection", "sklearn.neural_network")
OPERATORS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
    ast.And: "or",
    ast.Or: "and",
}


@dataclass(frozen=True)
class Mutant:
    """A change of one module: bytes `begin` to `end` become `new`. `code` is the line, `what` the change in words."""

    module: str
    line: int
    code: str
    begin: int
    end: int
    new: str
    what: str

    def apply(self, code):
        return code[: self.begin] + self.new.encode() + code[self.end :]


def mutants_of(module, code):
    """All mutants of a module, from its code in bytes, in the order of the lines."""
    starts = np.cumsum([0, *(len(line) for line in code.splitlines(keepends=True))]).tolist()

    def place(node):
        begin = starts[node.lineno - 1] + node.col_offset
        return begin, starts[node.end_lineno - 1] + node.end_col_offset

    def between(left, operator, right):
        """The operator between two operands; brackets may stand around them."""
        begin, end = place(left)[1], place(right)[0]
        found = re.search(rb"[^\s()\\]+(\s+[^\s()\\]+)*", code[begin:end])
        return begin + found.start(), begin + found.end(), OPERATORS[type(operator)]

    def changes(node):
        if isinstance(node, ast.Compare):
            for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                yield between(left, operator, right)
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not isinstance(node.left, ast.Constant):
            yield between(node.left, node.op, node.right)
        elif isinstance(node, ast.BoolOp):
            yield between(node.values[0], node.op, node.values[1])
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert | ast.USub):
            yield place(node)[0], place(node.operand)[0], " "
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            begin, end = place(node)
            yield begin, end, str(node.value + 1 if isinstance(node.value, int) else node.value * 1.5 + 0.01)
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            yield *place(node), str(not node.value)

    def walk(node):
        if not isinstance(node, ast.Raise | ast.JoinedStr):
            yield node
            for child in ast.iter_child_nodes(node):
                if child not in getattr(node, "decorator_list", ()):
                    yield from walk(child)

    found = []
    for node in walk(ast.parse(code)):
        for begin, end, new in changes(node):
            what = f"{code[begin:end].decode().strip()} -> {new.strip() or 'nothing'}"
            line = code.splitlines()[node.lineno - 1].decode().strip()
            mutant = Mutant(module, node.lineno, line, begin, end, new, what)
            try:
                ast.parse(mutant.apply(code))
            except SyntaxError:
                continue
            found.append(mutant)
    return sorted(found, key=lambda mutant: mutant.begin)


def run_tests(module, shim, seconds, log):
    """Run the tests of a module in a fork: "passed", "noticed", "ended" (by a signal) or "too long"."""
    sys.stdout.flush()
    process = os.fork()
    if not process:
        code = 70
        try:
            os.setpgid(0, 0)
            stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            # As if this process had never seen the package.
            for name in [name for name in sys.modules if name.partition(".")[0] in ("failure_directions", "src")]:
                del sys.modules[name]
            sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "_OneCopy"]
            sys.dont_write_bytecode = True
            sys.path.insert(0, str(shim))
            os.environ["PYTHONPATH"] = str(shim)
            files = [str(ROOT / "tests" / f"test_{name}.py") for name in TESTS[module]]
            code = importlib.import_module("pytest").main(
                ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not check", "-k", "not process", *files]
            )
        finally:
            sys.stdout.flush()
            os._exit(int(code))
    began, done = time.monotonic(), 0
    while not done and time.monotonic() < began + seconds:
        time.sleep(0.05)
        done, status = os.waitpid(process, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if not done:
        os.waitpid(process, 0)
        return "too long"
    code = os.waitstatus_to_exitcode(status)
    return "ended" if code < 0 else "passed" if code == 0 else "noticed"


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=300, help="mutants, of all modules together (default: 300)")
    parser.add_argument("--only", default="", metavar="REGEX", help="of the modules")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument(
        "--again", metavar="CSV", help="try those that survived in this table of an earlier run, no others"
    )
    parser.add_argument("--out", required=True, help="folder for the copy and the table; must not exist")
    args = parser.parse_args(argv)
    out = Path(args.out).absolute()
    if out.exists():
        raise UserError(f"--out {out} exists; name a new folder")
    shim = out / "path"
    shim.mkdir(parents=True)
    shutil.copytree(ROOT / "src", out / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("dataset_configs", "svm_configs", "index_files"):
        (out / folder).symlink_to(ROOT / folder)
    (shim / "failure_directions").symlink_to(out / "src")
    (shim / "dataset_interfaces").symlink_to(ROOT / "dataset_interfaces")
    for name in LIBRARIES:
        importlib.import_module(name)

    every = [
        m for name in TESTS if re.search(args.only, name) for m in mutants_of(name, (ROOT / "src" / name).read_bytes())
    ]
    drawn = np.random.default_rng(args.seed).permutation(len(every))[: args.sample]
    chosen, rows = [every[k] for k in drawn], []
    if args.again:
        with open(args.again, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        survived = {(row["module"], row["change"], row["code"]) for row in rows if row["end"] == "passed"}
        chosen = [mutant for mutant in every if (mutant.module, mutant.what, mutant.code) in survived]
        rows = [row | {"line": int(row["line"])} for row in rows if row["end"] != "passed"]
    seconds = {}
    for mutant in tqdm(chosen, unit="mutant", disable=None):
        path = out / "src" / mutant.module
        good = path.read_bytes()
        if mutant.module not in seconds:
            began = time.monotonic()
            if run_tests(mutant.module, shim, 600, out / "log.txt") != "passed":
                raise UserError(f"the tests of {mutant.module} fail on the unchanged code; see {out / 'log.txt'}")
            seconds[mutant.module] = max(60, 10 * (time.monotonic() - began))
        try:
            path.write_bytes(mutant.apply(good))
            end = run_tests(mutant.module, shim, seconds[mutant.module], out / "log.txt")
        finally:
            path.write_bytes(good)
        rows.append(
            {"module": mutant.module, "line": mutant.line, "change": mutant.what, "end": end, "code": mutant.code}
        )
        write_csv(out / "mutants.csv", rows[0], [row.values() for row in rows])
    rows.sort(key=lambda row: (row["module"], row["line"]))
    print(summary(rows, every))
    for row in rows:
        if row["end"] == "passed":
            print(f"{row['module']}:{row['line']}: {row['change']}: {row['code']}")


def summary(rows, every):
    """Markdown: of each module the mutants that there are, that were tried, and that a test noticed."""
    lines = []
    for name in dict.fromkeys(row["module"] for row in rows):
        own = [row["end"] != "passed" for row in rows if row["module"] == name]
        lines.append([f"`{name}`", sum(mutant.module == name for mutant in every), len(own), sum(own)])
    lines.append(["all", *(sum(line[k] for line in lines) for k in (1, 2, 3))])
    return tabulate(lines, ["module", "mutants", "tried", "noticed"], tablefmt="github")


if __name__ == "__main__":
    main()
