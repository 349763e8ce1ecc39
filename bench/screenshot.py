"""The README's picture: the viewer on a run, as a headless browser sees it.

    python bench/screenshot.py RUN [--out docs/viewer.png] [--at joint/10/3/2] [--theme dark]

Needs Playwright for Python and a Chromium (`playwright install chromium`, or the system's).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("run", type=Path)
    options.add_argument("--out", type=Path, default=Path("docs/viewer.png"))
    options.add_argument("--at", help="STAGE/STEP/GROUP/MEMBER; without it the largest fall")
    options.add_argument("--theme", choices=("light", "dark"), default="light")
    options.add_argument("--width", type=int, default=1500)
    options.add_argument("--height", type=int, default=860)
    args = options.parse_args()
    command = [sys.executable, "-m", "genac.cli", "view", str(args.run), "--no-browser"]
    server = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        url = next(word for word in line.split() if word.startswith("http"))
        take(args, url)
    finally:
        server.terminate()
        server.wait(30)
    print(f"{args.out}: {args.out.stat().st_size / 1000:.0f} kB")


def take(args: argparse.Namespace, url: str) -> None:
    from playwright.sync_api import sync_playwright

    at = f"&at={args.at}" if args.at else ""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(
            viewport={"width": args.width, "height": args.height}, color_scheme=args.theme
        )
        page.goto(f"{url}#outcome=wrong&sort=drop{at}")
        page.wait_for_selector("#reasoning")
        page.wait_for_timeout(500)  # the curve is drawn once the steps have their height
        page.screenshot(path=str(args.out))
        browser.close()


if __name__ == "__main__":
    main()
