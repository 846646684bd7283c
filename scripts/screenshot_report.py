"""A picture of a report, as the README shows it: the top of the page in headless Chromium.

python scripts/screenshot_report.py demo/report.html docs/report.png --size 1200x2400
"""

import argparse
import contextlib
import re
import shutil
from pathlib import Path

from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.files import atomic_path


@contextlib.contextmanager
def chromium_page(width, height):
    """A Playwright page of this size in the system's Chromium. Raises `UserError` where there is none."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise UserError("Chromium is not installed; call: bash scripts/install.sh browser")
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, and a container's /dev/shm is too small for it.
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser.new_page(viewport={"width": width, "height": height})
        browser.close()


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="HTML file of failure-directions report")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument(
        "--size", default="1200x1900", help="of the window, width x height, pixels (default: 1200x1900)"
    )
    args = parser.parse_args(argv)
    size = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", args.size)
    if size is None:
        raise UserError(f"--size {args.size} is not WIDTHxHEIGHT in pixels, such as 1200x1900")
    if not args.report.is_file():
        raise UserError(f"report {args.report} does not exist; write it with failure-directions report --report")
    with chromium_page(*map(int, size.groups())) as page:
        page.goto(args.report.resolve().as_uri())
        with atomic_path(args.picture) as temporary:
            temporary.write_bytes(page.screenshot())
    print(f"picture: {args.picture}")


if __name__ == "__main__":
    main()
