"""Image files before a long pass over them: missing, empty or twice there, by name and count."""

import contextlib
import hashlib
import os
import stat
from collections import defaultdict

import numpy as np

from ..runtime.english import some
from ..runtime.errors import UserError


def check_image_files(table, skip_broken=False):
    """An `ImageTable` whose files are there, with notes of what was left out; what is no file comes back as it is.

    Two files of the same content are told of; with `skip_broken` only the first is kept, and missing and empty files
    are left out. Whether a file can be decoded is known when it is.

    Raises:
        UserError: missing or empty files without `skip_broken`, or no file is left.
    """
    paths = table.paths
    if paths is None:
        return table
    bad, sizes = {}, np.zeros(len(paths), dtype=np.int64)
    for i, path in enumerate(paths):
        problem, sizes[i] = _problem(path)
        if problem:
            bad[i] = problem
    if len(bad) == len(paths):
        raise UserError(
            f"none of the {len(paths)} images of {table.name} is there, such as {paths[0]}: give --image-root, the "
            "folder that the paths are relative to"
        )
    if bad and not skip_broken:
        first = next(iter(bad))
        raise UserError(
            f"{len(bad)} of the {len(paths)} images of {table.name} {_are(bad)}, such as {paths[first]}: mend the "
            "list, or leave them out with --skip-broken"
        )
    notes = [f"left out: {len(bad)} image(s) that {_are(bad)}: {some(paths[i] for i in bad)}"] if bad else []
    copies = _copies(paths, sizes, bad)
    if copies:
        notes.append(_about_copies(table, copies, skip_broken))
    out = {*bad, *(copies if skip_broken else ())}
    kept = np.array([i for i in range(len(paths)) if i not in out], dtype=np.int64)
    return table.keep(kept, *notes)


def _problem(path):
    """What is wrong with a file ("missing", ...) or None, and its size in bytes."""
    try:
        status = os.stat(path)
    except OSError:
        return "missing", 0
    if not stat.S_ISREG(status.st_mode):
        return "no ordinary files", 0
    return ("empty", 0) if status.st_size == 0 else (None, status.st_size)


def _are(bad):
    kinds = sorted(set(bad.values()))
    return "are " + " or ".join(kinds)


def _copies(paths, sizes, bad):
    """dict of row -> the earlier row with the same content, or the same path."""
    by_size = defaultdict(list)
    for i, size in enumerate(sizes.tolist()):
        if i not in bad:
            by_size[size].append(i)
    copies = {}
    for rows in by_size.values():
        if len(rows) < 2:
            continue
        first, by_path = {}, {}
        for i in rows:
            if paths[i] in by_path:
                copies[i] = by_path[paths[i]]
                continue
            by_path[paths[i]] = i
            with contextlib.suppress(OSError), open(paths[i], "rb") as stream:
                earlier = first.setdefault(hashlib.file_digest(stream, "blake2b").digest(), i)
                if earlier != i:
                    copies[i] = earlier
    return dict(sorted(copies.items()))


def _about_copies(table, copies, skip_broken):
    row, earlier = next(iter(copies.items()))
    note = f"{len(copies)} image(s) are copies of others, such as {table.paths[row]} of {table.paths[earlier]}"
    different = sum(not np.array_equal(table.labels[i], table.labels[j]) for i, j in copies.items())
    if different:
        note += f"; {different} of them have another label than the first"
    if table.split is not None and (across := sum(table.split[i] != table.split[j] for i, j in copies.items())):
        note += f"; {across} lie in another split than the first, which makes tests too hopeful"
    return note + ("; left out, all but the first" if skip_broken else "; --skip-broken leaves out all but the first")
