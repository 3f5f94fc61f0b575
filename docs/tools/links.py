"""Checks the links of the built site: `python docs/tools/links.py build/docs`.

Every link within the site must lead to a file and a place in it. Nothing may be loaded from elsewhere. Addresses outside
are listed.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""Elements whose address a browser fetches by itself."""


class Page(HTMLParser):
    """The places of a page, and what it links to and loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a tag's places and addresses."""
        given = dict(attrs)
        self.places |= {str(given[name]) for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag in LOADS and given.get(LOADS[tag]):
            self.loads.append(str(given[LOADS[tag]]))


def check(site: Path) -> tuple[list[str], set[str]]:
    """What is broken, a sentence each; and the addresses outside that are linked to."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    broken, outside = [], set()
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for address in page.loads:
            if urlsplit(address).netloc:
                broken.append(f"{name} loads {address}")
        for address in [*page.links, *page.loads]:
            parts = urlsplit(address)
            if parts.scheme in ("data", "mailto"):
                continue
            if parts.netloc:
                outside.add(address)
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                broken.append(f"{name} links to {address}, which is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                broken.append(f"{name} links to {address}, a place that {target.name} does not have")
    return broken, outside


def main() -> int:
    """Print what is broken, then the addresses outside; 1 if anything is broken."""
    broken, outside = check(Path(sys.argv[1]))
    for sentence in broken:
        print(sentence)
    print(f"{len(outside)} addresses outside, which are not asked:", *sorted(outside), sep="\n  ")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
