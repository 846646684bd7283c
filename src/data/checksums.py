"""`NAME.beton.sha256` beside a beton: its SHA-256, as `sha256sum` writes and checks it.

FFCV decodes a JPEG that was damaged on a disk to whatever comes out and does not tell; this is how it is noticed.
"""

import re
from pathlib import Path

from ..runtime.errors import UserError
from ..runtime.files import file_digest, write_file


def checksum_beside(beton_path):
    """Where the checksum of a beton is."""
    return Path(f"{beton_path}.sha256")


def write_checksum(beton_path, digest):
    """Write the checksum of a beton: `digest`, in hexadecimal."""
    write_file(checksum_beside(beton_path), f"{digest}  {Path(beton_path).name}\n".encode())


def check_content(beton_path, digest=None):
    """Compare a beton with the checksum beside it.

    Args:
        digest: the first hexadecimal digits of its SHA-256, where they are known; else all of it is read.

    Returns:
        Whether there is a checksum.

    Raises:
        UserError: the beton is not as it was written, or the checksum is none.
    """
    beside = checksum_beside(beton_path)
    if not beside.is_file():
        return False
    with open(beside, encoding="ascii", errors="replace") as stream:
        written = re.match(r"\\?([0-9a-f]{64})\b", stream.read(100))  # a backslash: the name has a line's end in it
    if not written:
        raise UserError(f"{beside} is no checksum; write it with sha256sum, or delete it")
    if not written[1].startswith(digest or file_digest(beton_path)):
        raise UserError(
            f"beton {beton_path} is damaged, or another than the one that {beside} was written for: write it again "
            "with failure-directions betons, or delete the checksum of a beton that was meant to change"
        )
    return True
