"""Compiled readers of JSON values: strings, whole numbers, decimals, and the structure around them (RFC 8259).

Promises: nothing at or behind the given end is read; a reader answers -1 instead of a place where it finds
anything but the usual form of what it reads, be it wrong or merely rare. A decimal becomes the nearest float64,
as from every correct parser. Escapes in strings are resolved in place: the buffer must be a copy that nobody else
needs.
"""

import math

import numpy as np

from bandits.numba_inner import inner
from bandits.numba_memory import load, pointer, store
from streams.wire.fields import is_utf8, same_bytes

QUOTE, _BACKSLASH, _COMMA, _COLON, _MINUS, _PLUS, _POINT, _U = (ord(c) for c in '"\\,:-+.u')
OPEN, CLOSE, OPEN_LIST, _CLOSE_LIST = (ord(c) for c in "{}[]")
_BLANKS = (ord(" "), ord("\n"), ord("\r"), ord("\t"))
_FIRST_PRINTED = 0x20
_EXPONENT = ord("e")
_LOWER = 0x20  # of a letter, beside its capital
_SHORT, _MEANT = (np.frombuffer(text, np.uint8) for text in (b'"\\/bfnrt', b'"\\/\b\f\n\r\t'))
_CONSTANTS = np.frombuffer(b"nulltruefalse", np.uint8)
NO_MEMBER, NOT_A_WORD = -1, 0
_MOST_DIGITS = 19  # below 2^64
_EXACT_MANTISSA, _EXACT_POWERS = 2**53, np.array([float(10**k) for k in range(23)])
_POWERS_OF_5 = np.array([5**k for k in range(28)], np.uint64)  # below 2^63
_ENOUGH_BITS = np.uint64(2**54)  # two more than a float64 has: one to round by, one for all that follows


@inner
def behind_blanks(data, at, end):  # type: ignore[no-untyped-def]
    """The first place that is not blank, `end` if there is none."""
    while at < end and load(data, at) in _BLANKS:
        at += 1
    return at


@inner
def _hex4(data, at, end):  # type: ignore[no-untyped-def]
    """Four hexadecimal digits as a number, -1 if they are none."""
    number = np.int64(0)
    if at + 4 > end:
        return np.int64(-1)
    for place in range(at, at + 4):
        byte = np.int64(load(data, place))
        if 48 <= byte <= 57:
            number = number * 16 + byte - 48
        elif 97 <= byte | _LOWER <= 102:
            number = number * 16 + (byte | _LOWER) - 87
        else:
            return np.int64(-1)
    return number


@inner
def _put_utf8(data, to, code):  # type: ignore[no-untyped-def]
    """Write a code point; where it ends."""
    if code < 0x80:
        store(data, to, np.uint8(code))
        return to + 1
    size = 2 if code < 0x800 else 3 if code < 0x10000 else 4
    for place in range(size - 1, 0, -1):
        store(data, to + place, np.uint8(code & 0x3F | 0x80))
        code >>= 6
    store(data, to, np.uint8(code | (0xF00 >> size) & 0xFF))
    return to + size


@inner
def _unescaped(data, at, end, to):  # type: ignore[no-untyped-def]
    """Resolve the escape whose backslash is just before `at`; where it ends and what it became ends, or -1."""
    if at >= end:
        return -1, to
    kind = load(data, at)
    if kind != _U:
        for number in range(len(_SHORT)):
            if kind == _SHORT[number]:
                store(data, to, _MEANT[number])
                return at + 1, to + 1
        return -1, to
    code = _hex4(data, at + 1, end)
    at += 5
    if 0xD800 <= code < 0xDC00 and at + 6 <= end and load(data, at) == _BACKSLASH and load(data, at + 1) == _U:
        low = _hex4(data, at + 2, end)
        if not 0xDC00 <= low < 0xE000:
            return -1, to
        code = 0x10000 + ((code - 0xD800) << 10 | low - 0xDC00)
        at += 6
    if code < 0 or 0xD800 <= code < 0xE000:
        return -1, to
    return at, _put_utf8(data, to, code)


@inner
def string(data, at, end):  # type: ignore[no-untyped-def]
    """Where the content of a string starts and where it ends, and the place behind it."""
    if at >= end or load(data, at) != QUOTE:
        return 0, 0, -1
    start = to = at + 1
    at = start
    while at < end:
        byte = load(data, at)
        if byte == QUOTE:
            return start, to, at + 1 if is_utf8(data, start, to) else -1
        if byte < _FIRST_PRINTED:
            return 0, 0, -1
        if byte == _BACKSLASH:
            at, to = _unescaped(data, at + 1, end, to)
            if at < 0:
                return 0, 0, -1
        else:
            if to < at:
                store(data, to, byte)
            at, to = at + 1, to + 1
    return 0, 0, -1


@inner
def _digits(data, at, end, number, n_digits):  # type: ignore[no-untyped-def]
    """Append digits to a number; the number, how many it has without leading zeros, and the place behind them."""
    while at < end and 48 <= load(data, at) <= 57:
        number = number * np.uint64(10) + np.uint64(load(data, at) - 48)
        n_digits += n_digits > 0 or load(data, at) != 48
        at += 1
    return number, n_digits, at


@inner
def _ends_number(data, at, end):  # type: ignore[no-untyped-def]
    """True if no part of a number can follow."""
    if at >= end:
        return True
    byte = load(data, at)
    return not (48 <= byte <= 57 or byte == _POINT or byte | _LOWER == _EXPONENT)


@inner
def whole(data, at, end):  # type: ignore[no-untyped-def]
    """A whole number, 0 <= number < 10^18, or a string of one, and the place behind it."""
    quoted = at < end and load(data, at) == QUOTE
    start = at + 1 if quoted else at
    number, n_digits, at = _digits(data, start, end, np.uint64(0), 0)
    # No sign, no fraction, no exponent, no leading zeros.
    if at == start or at - start != max(n_digits, 1) or n_digits >= _MOST_DIGITS or not _ends_number(data, at, end):
        return np.int64(0), -1
    if quoted:
        return np.int64(number), at + 1 if at < end and load(data, at) == QUOTE else -1
    return np.int64(number), at


@inner
def decimal(data, at, end):  # type: ignore[no-untyped-def]
    """The float64 nearest to a number >= 0, and the place behind it."""
    number, n_digits, stop = _digits(data, at, end, np.uint64(0), 0)
    if stop == at or stop - at != max(n_digits, 1):
        return 0.0, -1
    at, exponent = stop, np.int64(0)
    if at < end and load(data, at) == _POINT:
        number, n_digits, stop = _digits(data, at + 1, end, number, n_digits)
        exponent = np.int64(at + 1 - stop)
        if exponent == 0:
            return 0.0, -1
        at = stop
    if at < end and load(data, at) | _LOWER == _EXPONENT:
        at += 1
        negative = at < end and load(data, at) == _MINUS
        if at < end and load(data, at) in (_MINUS, _PLUS):
            at += 1
        power, n_power, stop = _digits(data, at, end, np.uint64(0), 0)
        if stop == at or n_power > 3:
            return 0.0, -1
        exponent = exponent - np.int64(power) if negative else exponent + np.int64(power)
        at = stop
    if n_digits > _MOST_DIGITS or not _ends_number(data, at, end):
        return 0.0, -1
    value = nearest(number, exponent)
    return value, at if value >= 0.0 else -1


@inner
def nearest(number, exponent):  # type: ignore[no-untyped-def]
    """The float64 nearest to number * 10^exponent, -1 if that would take wider arithmetic than this.

    One rounding (Clinger 1990) where both are float64 exactly; otherwise long division by the power of five, whose
    remainder decides between neighbours.
    """
    if number == np.uint64(0):
        return 0.0
    if number <= np.uint64(_EXACT_MANTISSA) and -len(_EXACT_POWERS) < exponent < len(_EXACT_POWERS):
        scaled = np.float64(number)
        return scaled * _EXACT_POWERS[exponent] if exponent >= 0 else scaled / _EXACT_POWERS[-exponent]
    if not -len(_POWERS_OF_5) < exponent <= 0:
        return -1.0
    divisor = _POWERS_OF_5[-exponent]
    quotient, rest, shift = number // divisor, number % divisor, exponent
    while quotient < _ENOUGH_BITS:
        rest <<= np.uint64(1)
        quotient <<= np.uint64(1)
        shift -= 1
        if rest >= divisor:
            rest -= divisor
            quotient |= np.uint64(1)
    # The last bit stands for everything behind it, so that the conversion rounds as if it saw all of it.
    if rest != np.uint64(0):
        quotient |= np.uint64(1)
    return math.ldexp(np.float64(quotient), shift)


@inner
def behind_scalar(data, at, end):  # type: ignore[no-untyped-def]
    """The place behind a value that is neither an array nor an object."""
    if at >= end:
        return -1
    byte = load(data, at)
    if byte == QUOTE:
        return string(data, at, end)[2]
    start = 0
    for stop in (4, 8, 13):
        size = stop - start
        if end - at >= size and same_bytes(pointer(_CONSTANTS), start, data, at, size):
            return at + size
        start = stop
    return decimal(data, at + 1 if byte == _MINUS else at, end)[1]


@inner
def element(data, at, end, first):  # type: ignore[no-untyped-def]
    """Whether an array goes on, and where: at its next element or behind it; `at` is behind the one before."""
    at = behind_blanks(data, at, end)
    if at >= end:
        return False, -1
    if load(data, at) == _CLOSE_LIST:
        return False, at + 1
    if first:
        return True, at
    if load(data, at) != _COMMA:
        return False, -1
    at = behind_blanks(data, at + 1, end)
    return (True, at) if at < end and load(data, at) != _CLOSE_LIST else (False, -1)


@inner
def opens(data, at, end, bracket):  # type: ignore[no-untyped-def]
    """The place behind an opening bracket."""
    return at + 1 if 0 <= at < end and load(data, at) == bracket else -1


@inner
def member(data, at, end, first, words):  # type: ignore[no-untyped-def]
    """The next member of an object: the number of its key in `words`, and where its value starts.

    The number is `NOT_A_WORD` for any other key, and `NO_MEMBER` if the object ends; then the place is behind it.
    """
    at = behind_blanks(data, at, end)
    if at >= end:
        return np.int64(NO_MEMBER), -1
    if load(data, at) == CLOSE:
        return np.int64(NO_MEMBER), at + 1
    if not first:
        if load(data, at) != _COMMA:
            return np.int64(NO_MEMBER), -1
        at = behind_blanks(data, at + 1, end)
    start, stop, at = string(data, at, end)
    if at < 0:
        return np.int64(NO_MEMBER), -1
    at = behind_blanks(data, at, end)
    if at >= end or load(data, at) != _COLON:
        return np.int64(NO_MEMBER), -1
    at = behind_blanks(data, at + 1, end)
    number = word_at(data, start, stop, words)
    # Brackets would name an extension, which makes the record one for the message's own parser.
    if number == NOT_A_WORD and start < stop and load(data, start) == OPEN_LIST:
        return number, -1
    return number, at


@inner
def word_at(data, start, stop, words):  # type: ignore[no-untyped-def]
    """Number of a word of a `WordPlaces`, NOT_A_WORD if it is none of them."""
    before = 0
    for place in range(words.n):
        behind = load(words.ends, place)
        if behind - before == stop - start and same_bytes(words.text, before, data, start, stop - start):
            return load(words.numbers, place)
        before = behind
    return np.int64(NOT_A_WORD)
