"""Pieces of a log that begin and end between characters, however its bytes were cut. Pure."""

from __future__ import annotations

_LONGEST = 4


def lead_in(data: bytes) -> int:
    """How many bytes at the beginning belong to a character that began before them."""
    count = 0
    while count < min(len(data), _LONGEST - 1) and data[count] & 0xC0 == 0x80:
        count += 1
    return count


def whole_characters(data: bytes) -> bytes:
    """Without the beginning of a last character whose end is not there yet; all of it where nothing else would be left."""
    for back in range(1, min(len(data), _LONGEST - 1) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        wanted = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return data if wanted <= back else data[:-back] or data
    return data
