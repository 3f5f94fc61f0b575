"""What no sentence of an error holds."""

from __future__ import annotations

import re

DOUBLED = re.compile(r"[?!][.,]|\.,(?=\s|$)|(?<![./])\.\.(?=\s|$)")
"""Two marks at the end of a sentence: a hint that ends in one, and another after it."""
