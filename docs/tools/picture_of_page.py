"""The picture of a report in README.md: `make readme-picture`, of the bundled study after `make report`."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "results" / "demo" / "7_report" / "study" / "report.html"
OUT = ROOT / "docs" / "_static" / "report.png"
SIZE = (1100, 1400)
MOST_BYTES = 300_000


def main() -> int:
    """Write the picture of a page, which may be named; 1 where there is no page or no browser."""
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None or not page.is_file():
        print(f"needs chromium, and {page}: run `make report` first")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
        place = [f"--user-data-dir={folder}/profile", f"--screenshot={shot}", f"--window-size={SIZE[0]},{SIZE[1]}"]
        subprocess.run([browser, *quiet, *place, page.resolve().as_uri()], check=True, capture_output=True)
        picture = Image.open(shot).convert("RGB")
    for colours in (256, 128, 64, 32):
        held = io.BytesIO()
        picture.quantize(colours).save(held, "PNG", optimize=True)
        if held.tell() < MOST_BYTES:
            break
    OUT.write_bytes(held.getvalue())
    print(OUT.relative_to(ROOT), held.tell() // 1000, "kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
