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

__all__ = ["LONGEST", "Channel", "ClosedError", "Handle", "WireError", "decode", "encode", "refuse_handle"]

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

    `of_program` says whether it belongs to the program (else to the tests), `kind` is `function`, `class`,
    `iterator` or `object`, and `type` the name of its class, or its own if it is one.
    """

    __slots__ = ("kind", "number", "of_program", "type")

    def __init__(self, of_program: bool, number: int, kind: str, type: str) -> None:
        self.of_program, self.number, self.kind, self.type = of_program, number, kind, type


def encode(value: Any, export: Callable[[Any], Handle], longest: int = LONGEST, functions: bool = False) -> bytes:
    """A value as bytes; `export` gives the handle of what is not plain, `functions` lets builtins go by name.

    Raises:
        WireError: it is nested too deeply or too large.
    """
    writer = Writer(export, longest, functions)
    writer.write(value, 0)
    if len(writer.out) > longest:
        raise WireError("too large")
    return bytes(writer.out)


class Writer:
    """Writes values one behind the other. Methods are taken from the plain types, not from their instances."""

    def __init__(self, export: Callable[[Any], Handle], longest: int, functions: bool) -> None:
        self.out = bytearray()
        self.export, self.longest, self.functions = export, longest, functions

    def write(self, one: Any, depth: int) -> None:
        """Writes a value: a tag, then a size and the body or the parts."""
        if depth > DEPTH:
            raise WireError("nested too deeply")
        if len(self.out) > self.longest:
            raise WireError("too large")
        # By the base's methods (`int.__add__`): an instance of a subclass travels as its base and is never asked.
        if one is None or one is True or one is False or one is ...:
            self.out.extend(b"N" if one is None else b"T" if one is True else b"F" if one is False else b".")
        elif isinstance(one, int):
            number = int.__add__(one, 0)
            self.write_atom(b"i", number.to_bytes((number.bit_length() + 8) // 8, "big", signed=True))
        elif isinstance(one, float):  # in hexadecimal, which loses no bit
            self.write_atom(b"f", float.hex(one).encode())
        elif isinstance(one, str):
            self.write_atom(b"s", str.encode(one, "utf-8", "surrogatepass"))
        elif isinstance(one, (bytes, bytearray)):
            self.write_atom(b"b" if isinstance(one, bytes) else b"B", bytes(one))
        elif id(one) in NAMES and (self.functions or isinstance(one, type)):
            self.write_atom(b"n", NAMES[id(one)].encode())
        else:
            self.write_parts(one, depth)

    def write_atom(self, tag: bytes, body: bytes) -> None:
        """Writes a value without parts."""
        self.out.extend(tag)
        self.out.extend(len(body).to_bytes(4, "big"))
        self.out.extend(body)

    def write_parts(self, one: Any, depth: int) -> None:
        """Writes a value made of parts, or the handle of what is not plain."""
        tag, values = take_apart(one)
        if not tag:
            handle = self.export(one)
            tag, values = b"h", [handle.of_program, handle.number, handle.kind, handle.type]
        self.out.extend(tag)
        self.out.extend(len(values).to_bytes(4, "big"))
        for value in values:
            self.write(value, depth + 1)


def take_apart(one: Any) -> tuple[bytes, list[Any]]:
    """The tag and the parts of a value; no tag if it is not plain."""
    if isinstance(one, list):
        return b"l", list(list.__iter__(one))
    if isinstance(one, tuple):
        return b"t", list(tuple.__iter__(one))
    if isinstance(one, dict):
        return b"d", [part for pair in dict.items(one) for part in pair]
    if isinstance(one, set):
        return b"S", list(set.__iter__(one))
    if isinstance(one, frozenset):
        return b"Z", list(frozenset.__iter__(one))
    if isinstance(one, complex):
        return b"c", [one.real, one.imag]
    if isinstance(one, (range, slice)):
        return b"r" if isinstance(one, range) else b":", [one.start, one.stop, one.step]
    name = f"{type(one).__module__}.{type(one).__qualname__}"
    return (b"x", [name, STANDARD[name](one)]) if name in STANDARD else (b"", [])


def refuse_handle(value: Any) -> Handle:
    """For `export`, where there must be no handles.

    Raises:
        WireError: always.
    """
    raise WireError(f"not plain: {type(value).__name__}")


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
            return read_atom(tag, take(size), functions)
        if size > len(data) - place:  # each part takes a byte at least: a forged size costs no memory
            raise WireError("cut short")
        return assemble(tag, [read(depth + 1) for _ in range(size)], import_)

    try:
        value = read(0)
    except WireError:
        raise
    except Exception as error:  # unhashable keys, wrong numbers, unknown names: whatever the bytes bring about
        raise WireError(f"does not read: {type(error).__name__}") from None
    if place != len(data):
        raise WireError("more than one value")
    return value


def read_atom(tag: bytes, body: bytes, functions: bool) -> Any:
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


def assemble(tag: bytes, parts: list[Any], import_: Callable[[Handle], Any]) -> Any:
    """A value made of parts."""
    if tag == b"l":
        return parts
    if tag == b"d":
        return dict(zip(parts[::2], parts[1::2], strict=True))
    if tag == b"x":
        return make_standard(*parts)
    if tag == b"h":
        return import_(Handle(bool(parts[0]), int(parts[1]), str(parts[2]), str(parts[3])))
    if tag in (b"t", b"S", b"Z"):
        return {b"t": tuple, b"S": set, b"Z": frozenset}[tag](parts)
    return {b"c": complex, b"r": range, b":": slice}[tag](*parts)


def make_standard(name: str, state: Any) -> Any:
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
    def from_stdio(cls) -> Channel:
        """The channel that a process finds as its stdin and stdout; in their place it gets /dev/null."""
        # So that what the program prints, or reads as input, is no part of our frames.
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
