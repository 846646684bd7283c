"""Files that travel with the project, found by name: configs and index files."""

from pathlib import Path

from .english import nearest
from .errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]


def find_shipped(folder, name, suffix):
    """The path of a file that ships with the project, where `name` is one; else `name` itself as a path.

    What is there under the name given comes first: a user's file is never passed over for one of ours.

    Raises:
        UserError: a bare name, without a suffix, of nothing that is there.

    >>> find_shipped("dataset_configs", "cifar", ".yaml").name, str(find_shipped("dataset_configs", "my.yaml", ".yaml"))
    ('cifar.yaml', 'my.yaml')
    """
    path = Path(name)
    if path.exists() or path.name != str(name):
        return path
    # In an installed package the folder lies in it, in a checkout beside it.
    shipped = {file.stem: file for place in (_PACKAGE.parent, _PACKAGE) for file in (place / folder).glob(f"*{suffix}")}
    found = shipped.get(path.name.removesuffix(suffix), path)
    if found is path and not path.suffix:
        hint = nearest(path.name, shipped, f"give a path, or one of {', '.join(sorted(shipped))}")
        raise UserError(f"{path.name} is no file, and none of {folder}; {hint}")
    return found
