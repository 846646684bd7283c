"""numba as the project uses it: the threads that it takes, and where it keeps what it has compiled."""

import os

# Of the layers that there are, numba takes the first. TBB is the last: with it a process that writes betons hung at its
# end. OpenMP is everywhere where torch is.
os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "omp workqueue tbb")

import numba

numba.config.reload_config()  # it may have been imported before


def compiled(**options):
    """`numba.njit` whose result is kept for the next process, where there is a place for it.

    numba keeps it beside the source or in the user's cache, and raises an error where it can write neither.
    """

    def decorate(function):
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            return numba.njit(**options)(function)

    return decorate
