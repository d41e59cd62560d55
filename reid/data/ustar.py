"""How a shard is laid out in bytes: a plain ustar archive, in which name and size are all that members differ by.

    member_header, content, zeros up to the next block, ..., two empty blocks, zeros up to the next record

The packer writes by these rules, and whoever reads a whole shard compares with them. The bytes are those of `tarfile`,
which takes three times as long to make a header as it takes to hash the frame behind it.
"""

import tarfile
from zlib import adler32

BLOCK = tarfile.BLOCKSIZE
_LONGEST_NAME, _SIZE_DIGITS = 100, 11


def _template() -> bytes:
    """The header of an empty read-only file of nobody, made at time zero, without name and checksum."""
    info = tarfile.TarInfo()
    info.mode = 0o444
    header = info.tobuf(tarfile.USTAR_FORMAT)
    return header[:148] + b" " * 8 + header[156:]


_BEFORE_SIZE = _template()[100:124]
_AFTER_SIZE = _template()[135:148]
_AFTER_CHECKSUM = _template()[156:]
_SUM_WITHOUT_SIZE = sum(_template()) - sum(b"0" * _SIZE_DIGITS)


def member_header(name: str, size: int) -> bytes:
    """The header of a member of `size` bytes. Raises ValueError for what a plain header cannot express."""
    place, digits = name.encode("ascii").ljust(_LONGEST_NAME, b"\0"), b"%011o" % size
    if len(place) > _LONGEST_NAME or len(digits) > _SIZE_DIGITS:
        raise ValueError(f"no plain tar header can express {name!r} of {size:,} bytes")
    # the low half of adler32 is one more than the sum of the bytes, which are too few to reach its modulus
    checksum = _SUM_WITHOUT_SIZE - 1 + (adler32(place + digits) & 0xFFFF)
    return place + _BEFORE_SIZE + digits + _AFTER_SIZE + b"%06o\0 " % checksum + _AFTER_CHECKSUM


def member(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    """The pieces of a member, in order: header, content, padding."""
    return member_header(name, len(data)), data, bytes(-len(data) % BLOCK)


def padded(size: int) -> int:
    """The bytes that a payload of `size` takes in a tar."""
    return -size % BLOCK + size


def archive_size(content: int) -> int:
    """The bytes of a tar whose members, headers included, take `content`: two empty blocks, then whole records."""
    return -(content + 2 * BLOCK) % tarfile.RECORDSIZE + content + 2 * BLOCK
