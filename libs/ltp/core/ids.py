"""UUIDv7 (RFC 9562 §5.7): ids that sort by the time they were made, from values passed in."""

from __future__ import annotations

from uuid import UUID


def uuid7(unix_ms: int, entropy: bytes) -> UUID:
    """Build a UUIDv7 from milliseconds since the epoch and at least 10 random bytes."""
    if len(entropy) < 10:
        raise ValueError("entropy must be at least 10 bytes")
    value = (unix_ms & ((1 << 48) - 1)) << 80 | int.from_bytes(entropy[:10])
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)
