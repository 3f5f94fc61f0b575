"""Values on the CT scale that all readers use."""

from __future__ import annotations

AIR_HU = -1024.0
"""What padding becomes."""
HIGHEST_HU = 31744.0
"""The highest value of 16 signed bits with an offset of -1024. Extended scales of scanners end at 30,710."""
UNSIGNED_PADDING = 63536
"""Stored: -2000, the padding of some scanners outside their circle, in 16 bits that lost their sign. No scanner measures it."""
