"""numba's threads and its cache, as the project sets them."""

import os
import subprocess
import sys


def printed(program, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=environment | variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_openmp_is_asked_for_before_tbb_also_where_numba_was_imported_first():
    program = """
import failure_directions.data.ffcv_patches
import numba
print(*numba.config.THREADING_LAYER_PRIORITY)
"""
    assert printed(program) == printed("import numba\n" + program) == ["omp", "workqueue", "tbb"]
    assert printed(program, NUMBA_THREADING_LAYER_PRIORITY="workqueue omp tbb") == ["workqueue", "omp", "tbb"]


def test_where_nothing_can_be_kept_functions_are_compiled_all_the_same():
    # A function without a file has no place for a cache: numba's error is the one of folders that cannot be written.
    program = """
import numba
from failure_directions.runtime.compiling import compiled
def twice(x):
    return x + x
try:
    numba.njit(cache=True)(twice)
except RuntimeError as error:
    print("refused" if "cannot cache" in str(error) else error)
print(compiled()(twice)(3))
"""
    assert printed(program) == ["refused", "6"]
