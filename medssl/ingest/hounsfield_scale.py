"""Marks on the scale of CT values that every reader goes by."""

from __future__ import annotations

AIR_HU = -1024.0
"""What padding becomes."""
HIGHEST_HU = 31744.0
"""The most that 16 signed bits hold above an offset of -1024. Extended scales of scanners end at 30,710."""
UNSIGNED_PADDING = 63536
"""Stored: -2000, the padding of some scanners outside their circle, in 16 bits that lost their sign. No scanner measures it."""
