"""Siemens mosaics: all slices of a volume as tiles of one image, described in a private header (CSA)."""

from __future__ import annotations

import math
import struct

from medssl.ingest.dicom.fields import Fields
from medssl.ingest.dicom.pixel_layout import PixelLayout
from medssl.ingest.dicom.tags import TAGS
from medssl.ingest.refusal import Refusal


def mosaic_tiles(fields: Fields, layout: PixelLayout) -> tuple[int, list[float] | None]:
    """(number of tiles, slice normal) of a mosaic, from the CSA header (or the count's own private tag).

    Raises:
        Refusal: the number of tiles is missing, or does not fit its pixels.
    """
    csa = fields.values.get(TAGS["csa"], b"")
    found = csa_values(csa, ("NumberOfImagesInMosaic", "SliceNormalVector")) if isinstance(csa, bytes) else {}
    count = (
        int(found["NumberOfImagesInMosaic"][0]) if found.get("NumberOfImagesInMosaic") else fields.unsigned("mosaic_count") or 0
    )
    if not 1 <= count <= 4096:
        raise Refusal("missing_tag", "a mosaic that does not say how many tiles it has")
    side = math.ceil(math.sqrt(count))
    rows, columns = layout.rows, layout.columns
    if rows % side or columns % side:
        raise Refusal("corrupt", f"{columns}×{rows} pixels do not divide into {side}×{side} tiles")
    normal = found.get("SliceNormalVector", [])
    return count, normal if len(normal) == 3 else None


def csa_values(csa: bytes, names: tuple[str, ...]) -> dict[str, list[float]]:
    """Numbers of the named entries of a Siemens CSA header (version SV10), empty if it is another header or damaged.

    Source: nibabel `nicom/csareader` describes the layout.
    """
    found: dict[str, list[float]] = {}
    if csa[:4] != b"SV10":
        return found
    try:
        (num_tags,) = struct.unpack_from("<I", csa, 8)
        offset = 16
        for _ in range(min(num_tags, 1000)):
            name = csa[offset : offset + 64].split(b"\0", 1)[0].decode("latin-1")
            (num_items,) = struct.unpack_from("<I", csa, offset + 76)
            offset += 84
            items = []
            for _ in range(min(num_items, 1000)):
                (length,) = struct.unpack_from("<I", csa, offset + 4)
                if name in names and length:
                    items.append(csa[offset + 16 : offset + 16 + length].split(b"\0", 1)[0].decode("latin-1").strip())
                offset += 16 + (length + 3) // 4 * 4
            if name in names:
                found[name] = [float(item) for item in items if item]
    except (struct.error, ValueError):
        return found
    return found
