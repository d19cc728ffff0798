"""Damage to bytes and texts, the same for the same random numbers."""

import re
import struct
import zlib

_SIZES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_TOKENS = (
    "", "0", "-1", "1", "255", "256", "65536", "2147483648", "-9223372036854775809", "1e308", "1e999", "-1e-320", "nan",
    "Infinity", "null", "true", "[]", "{}", '""', '"\\u0000"', "0x10", "1_000", "٣", "1,5", "é", "\x00", "\x1b[2J",
    "../../x", "9" * 5000, "[" * 2000, "a" * 200_000,
)  # fmt: skip


def damage(rng, data):
    """Change bytes one to four times: flips, fields of extreme values, cuts, repeats, holes, noise."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not data:
            break
        place = int(rng.integers(len(data)) if rng.random() < 0.5 else rng.integers(min(len(data), 400)))
        length = int(rng.integers(1, 64))
        kind = rng.integers(8)
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place] = int(rng.integers(256))
        elif kind in (2, 3):  # a length, a size, an offset
            order = "<" if rng.random() < 0.5 else ">"
            width = "BHIQ"[rng.integers(4)]
            value = int(rng.choice(_SIZES)) & (1 << 8 * struct.calcsize(width)) - 1
            field = struct.pack(order + width, value)
            data[place : place + len(field)] = field
        elif kind == 4:
            del data[place : None if rng.random() < 0.5 else place + length]
        elif kind == 5:
            data[place:place] = data[place : place + length] * int(rng.choice([1, 2, 50]))
        elif kind == 6:
            data[place : place + length] = bytes(length)
        else:
            data[place : place + length] = rng.bytes(length)
    return bytes(data)


def damage_text(rng, data):
    """Change a text one to four times by what parsers stumble over, or its bytes as they are."""
    if rng.random() < 0.3:
        return damage(rng, data)
    text = data.decode("utf-8", "replace")
    for _ in range(rng.integers(1, 5)):
        token = str(rng.choice(_TOKENS))
        numbers = list(re.finditer(r"-?\d+(\.\d+)?", text))
        words = list(re.finditer(r'"[^"]*"|\w+', text))
        lines = text.split("\n")
        kind = rng.integers(6)
        if kind in (0, 1) and numbers:
            found = numbers[rng.integers(len(numbers))]
            text = text[: found.start()] + token + text[found.end() :]
        elif kind == 2 and words:
            found, other = (words[rng.integers(len(words))] for _ in range(2))
            text = text[: found.start()] + (other[0] if rng.random() < 0.5 else token) + text[found.end() :]
        elif kind == 3:
            place = int(rng.integers(len(text) + 1))
            text = text[:place] + str(rng.choice(list(",;\"\n\t{}[]<>/\\'#&%"))) + text[place + int(rng.integers(3)) :]
        elif kind == 4:
            place, other = (int(rng.integers(len(lines))) for _ in range(2))
            lines.insert(place, lines[other])
            text = "\n".join(lines)
        else:
            del lines[int(rng.integers(len(lines)))]
            text = "\n".join(lines)
    return text.encode("utf-8", "surrogatepass")


def mend_png(data):
    """Make a PNG's checksums right again, so that damage reaches what is behind them."""
    data, place = bytearray(data), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(data)
