"""A picture of a report, as the README shows it: the top of the page in headless Chromium.

python scripts/screenshot_report.py demo/report.html docs/report.png
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.files import atomic_path


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="HTML file of visualization_utils.py")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument(
        "--size", default="1200x1900", help="of the window, width x height, pixels (default: 1200x1900)"
    )
    args = parser.parse_args(argv)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise UserError(
            "the picture is taken by Chromium, which is not installed; call: bash scripts/install.sh browser"
        )
    if not args.report.is_file():
        raise UserError(f"report {args.report} does not exist; write it with visualization_utils.py --report")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        taken = Path(folder) / "picture.png"
        finished = subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
                f"--user-data-dir={folder}/profile",
                f"--screenshot={taken}",
                f"--window-size={args.size.replace('x', ',')}",
                args.report.resolve().as_uri(),
            ],
            capture_output=True,
            text=True,
        )
        if finished.returncode or not taken.is_file():
            raise UserError(f"Chromium took no picture of {args.report}; it says: {finished.stderr.strip()[-300:]}")
        with atomic_path(args.picture) as temporary:
            shutil.copyfile(taken, temporary)
    print(f"picture: {args.picture}")


if __name__ == "__main__":
    main()
