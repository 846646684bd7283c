"""numba as the project uses it: the threads that it takes, and where it keeps what it has compiled.

A module that uses numba imports this one first.
"""

import os
import sys

# Of the threading layers that there are, numba takes the first. TBB is the last: with it, the process that writes
# betons hung at its end. OpenMP is there wherever torch is.
os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "omp workqueue tbb")
if "numba" in sys.modules:  # which read the environment as it was imported
    sys.modules["numba"].config.reload_config()


def compiled(**options):
    """`numba.njit` whose result is kept for the next process, where there is a place for it.

    numba keeps it beside the source or in the user's cache, and raises an error where it can write neither.
    """
    import numba

    def decorate(function):
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            return numba.njit(**options)(function)

    return decorate
