"""Plain data as bytes, and frames over a pipe: what the two sides of an examination say to each other.

The side of the program is hostile, so nothing is ever unpickled: a value is rebuilt piece by piece from a few
known types, bounded in depth and size. Instances of a subclass travel as their plain base (an `int` with an
`__eq__` of its own arrives as the `int` that it is). Whatever is not plain stays where it is and travels as a
handle. This file also runs inside the sandbox, where only the standard library is; it imports little, since
every program pays for it.
"""

from __future__ import annotations

import builtins
import posix

TYPE_CHECKING = False  # mypy knows the name; importing typing would cost every program some milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["LONGEST", "Channel", "ClosedError", "Handle", "WireError", "decode", "encode"]

DEPTH = 100
"""The deepest nesting that is sent or rebuilt."""
LONGEST = 1 << 25
"""The most bytes that a program may send at once."""

TYPES = {name: value for name, value in vars(builtins).items() if isinstance(value, type)}
FUNCTIONS = {name: value for name, value in vars(builtins).items() if type(value) is type(len)}
NAMES = {id(value): name for name, value in {**FUNCTIONS, **TYPES}.items()}
SINGLE = {b"N": None, b"T": True, b"F": False, b".": ...}
STANDARD: dict[str, Callable[[Any], Any]] = {
    "decimal.Decimal": str,
    "fractions.Fraction": lambda value: (value.numerator, value.denominator),
    "datetime.date": lambda value: (value.year, value.month, value.day),
    "datetime.time": lambda value: (value.hour, value.minute, value.second, value.microsecond),
    "datetime.timedelta": lambda value: (value.days, value.seconds, value.microseconds),
    "datetime.datetime": lambda value: (*value.timetuple()[:6], value.microsecond),
    "collections.deque": list,
}
"""Types of the standard library that are plain data as well, and what they are made of."""


class WireError(ValueError):
    """What cannot be sent, or does not read as anything that was sent."""


class ClosedError(Exception):
    """The other side is gone."""


class Handle:
    """Something that stays where it is.

    `mine` says whether it belongs to the program (else to the tests), `kind` is `function`, `class`,
    `iterator` or `object`, and `type` the name of its class, or its own if it is one.
    """

    __slots__ = ("kind", "mine", "number", "type")

    def __init__(self, mine: bool, number: int, kind: str, type: str) -> None:
        self.mine, self.number, self.kind, self.type = mine, number, kind, type


def encode(value: Any, export: Callable[[Any], Handle], longest: int = LONGEST, functions: bool = False) -> bytes:
    """A value as bytes; `export` gives the handle of what is not plain, `functions` lets builtins go by name.

    Raises:
        WireError: it is nested too deeply or too large.
    """
    out = bytearray()

    def put(tag: bytes, body: bytes) -> None:
        out.extend(tag)
        out.extend(len(body).to_bytes(4, "big"))
        out.extend(body)

    def items(tag: bytes, values: list[Any], depth: int) -> None:
        out.extend(tag)
        out.extend(len(values).to_bytes(4, "big"))
        for one in values:
            write(one, depth + 1)

    def write(one: Any, depth: int) -> None:
        if depth > DEPTH:
            raise WireError("nested too deeply")
        if len(out) > longest:
            raise WireError("too large")
        if one is None or one is True or one is False or one is ...:
            out.extend(b"N" if one is None else b"T" if one is True else b"F" if one is False else b".")
        elif isinstance(one, int):
            number = int.__add__(one, 0)
            put(b"i", number.to_bytes((number.bit_length() + 8) // 8, "big", signed=True))
        elif isinstance(one, float):
            put(b"f", float.hex(one).encode())
        elif isinstance(one, str):
            put(b"s", str.encode(one, "utf-8", "surrogatepass"))
        elif isinstance(one, list):
            items(b"l", list(list.__iter__(one)), depth)
        elif isinstance(one, tuple):
            items(b"t", list(tuple.__iter__(one)), depth)
        elif isinstance(one, dict):
            items(b"d", [part for pair in dict.items(one) for part in pair], depth)
        elif isinstance(one, set):
            items(b"S", list(set.__iter__(one)), depth)
        elif isinstance(one, frozenset):
            items(b"Z", list(frozenset.__iter__(one)), depth)
        elif isinstance(one, (bytes, bytearray)):
            put(b"b" if isinstance(one, bytes) else b"B", bytes(one))
        elif isinstance(one, complex):
            items(b"c", [one.real, one.imag], depth)
        elif isinstance(one, (range, slice)):
            items(b"r" if isinstance(one, range) else b":", [one.start, one.stop, one.step], depth)
        elif (name := f"{type(one).__module__}.{type(one).__qualname__}") in STANDARD:
            items(b"x", [name, STANDARD[name](one)], depth)
        elif id(one) in NAMES and (functions or isinstance(one, type)):
            put(b"n", NAMES[id(one)].encode())
        else:
            handle = export(one)
            items(b"h", [handle.mine, handle.number, handle.kind, handle.type], depth)

    write(value, 0)
    if len(out) > longest:
        raise WireError("too large")
    return bytes(out)


def decode(data: bytes, import_: Callable[[Handle], Any], functions: bool = False) -> Any:
    """The value of the bytes, rebuilt from plain types; `import_` makes something of a handle.

    Raises:
        WireError: the bytes are no value.
    """
    place = 0

    def take(count: int) -> bytes:
        nonlocal place
        if place + count > len(data):
            raise WireError("cut short")
        place += count
        return data[place - count : place]

    def read(depth: int) -> Any:
        if depth > DEPTH + 1:
            raise WireError("nested too deeply")
        tag = take(1)
        if tag in SINGLE:
            return SINGLE[tag]
        size = int.from_bytes(take(4), "big")
        if tag in b"ifsbBn":
            return atom(tag, take(size), functions)
        if size > len(data) - place:
            raise WireError("cut short")
        return whole(tag, [read(depth + 1) for _ in range(size)], import_)

    try:
        value = read(0)
    except WireError:
        raise
    except Exception as error:  # unhashable keys, wrong numbers, unknown names: whatever the bytes bring about
        raise WireError(f"does not read: {type(error).__name__}") from None
    if place != len(data):
        raise WireError("more than one value")
    return value


def atom(tag: bytes, body: bytes, functions: bool) -> Any:
    """A value without parts."""
    if tag == b"i":
        return int.from_bytes(body, "big", signed=True)
    if tag == b"f":
        return float.fromhex(body.decode())
    if tag == b"s":
        return body.decode("utf-8", "surrogatepass")
    if tag == b"n":
        return ({**FUNCTIONS, **TYPES} if functions else TYPES)[body.decode()]
    return body if tag == b"b" else bytearray(body)


def whole(tag: bytes, parts: list[Any], import_: Callable[[Handle], Any]) -> Any:
    """A value made of parts."""
    if tag == b"l":
        return parts
    if tag == b"d":
        return dict(zip(parts[::2], parts[1::2], strict=True))
    if tag == b"x":
        return standard(*parts)
    if tag == b"h":
        return import_(Handle(bool(parts[0]), int(parts[1]), str(parts[2]), str(parts[3])))
    if tag in (b"t", b"S", b"Z"):
        return {b"t": tuple, b"S": set, b"Z": frozenset}[tag](parts)
    return {b"c": complex, b"r": range, b":": slice}[tag](*parts)


def standard(name: str, state: Any) -> Any:
    """A value of one of the types in `STANDARD`."""
    if name not in STANDARD:
        raise WireError(f"no type {name}")
    module, _, kind = name.rpartition(".")
    return getattr(__import__(module), kind)(*(state if isinstance(state, tuple) else (state,)))


class Channel:
    """Two pipe ends, over which frames go: four bytes of length, then the body."""

    def __init__(self, input: int, output: int) -> None:
        self.input, self.output = input, output

    @classmethod
    def seat(cls) -> Channel:
        """The channel that a process finds as its stdin and stdout; in their place it gets /dev/null."""
        channel, null = cls(posix.dup(0), posix.dup(1)), posix.open("/dev/null", posix.O_RDWR)
        for descriptor in (0, 1, 2):
            posix.dup2(null, descriptor)
        return channel

    def send(self, body: bytes) -> None:
        """Sends a frame."""
        data = memoryview(len(body).to_bytes(4, "big") + body)
        while data:
            data = data[posix.write(self.output, data[: 1 << 16]) :]

    def receive(self) -> bytes:
        """The next frame.

        Raises:
            ClosedError: there is none.
        """
        return self.read(int.from_bytes(self.read(4), "big"))

    def read(self, count: int) -> bytes:
        """So many bytes."""
        parts = []
        while count:
            part = posix.read(self.input, min(count, 1 << 20))
            if not part:
                raise ClosedError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
