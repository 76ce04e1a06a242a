"""The program as the tests see it: names that stand for its functions, classes and objects.

This runs on the trusted side, which never sees the program. A comparison between what the program returned and
what a test expects is one of plain data and happens here. An object of a class of the program is never equal to
data. Its operators are asked for only where the tests themselves name its class (docs/code.md, "The second
way"): otherwise it could answer a comparison itself.
"""

from __future__ import annotations

import builtins

from scorl.sandbox.wire import Channel, Handle, decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Gone", "Link", "Proxy", "RefusedError"]

SENT = 1 << 26
"""The most bytes that a test may send at once."""
PLAIN = frozenset(name for kind in (str, bytes, list, tuple, dict, set, int, float, complex) for name in dir(kind))
"""Names of methods that an object could pretend to have in order to be taken for plain data."""
PREDICATES = ("startswith", "endswith", "issubset", "issuperset", "isdisjoint")
"""Those of them that are told what is expected and say whether it is so."""
FROM_DATA = ("len", "bool", "int", "float", "index", "str", "repr", "abs", "neg", "round", "getitem")
"""Operators that give plain data and do not tell the program what is expected."""
BETWEEN = (
    *("lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow"),
    *("matmul", "and_", "or_", "xor", "contains", "setitem", "delitem"),
)
"""Operators that would tell the program what is expected, or let it claim that this is met."""


class Gone(BaseException):
    """The program has ended, or has been ended."""


class RefusedError(Exception):
    """The program returned an object where the test needs data."""


class Link:
    """The way to the program: asks it, and answers what it asks back about functions that a test lent."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.test = ""
        self.named: set[str] = set()
        self.lent: list[Any] = []
        self.classes: dict[str, type[BaseException]] = {}
        self.last = ""

    def export(self, value: Any) -> Handle:
        """The handle of something that the tests have."""
        if type(value) is Proxy:
            handle: Handle = object.__getattribute__(value, "_handle")
            return handle
        self.lent.append(value)
        return Handle(False, len(self.lent) - 1, "object", "")

    def import_(self, handle: Handle) -> Any:
        """What a handle stands for."""
        return Proxy(self, handle) if handle.of_program else self.lent[handle.number]

    def ask(self, *message: Any) -> Any:
        """The program's answer to a request; what it raised is raised here.

        Raises:
            RefusedError: what it returned cannot be sent.
        """
        self.send(message)
        while True:
            reply = self.channel.receive()
            if not reply:
                raise Gone
            word, *rest = decode(reply, self.import_)
            if word == "callback":
                self.send(self.answer(*rest))
            elif word == "value":
                if rest[1] is not None and rest[0] is None and message[0] == "call":
                    for argument, changed in zip(message[2], rest[1], strict=True):
                        copy_into(argument, changed)
                return rest[0]
            elif word == "unfit":
                raise RefusedError(f"what the program returned is {rest[0]}")
            else:
                raise self.raised(*rest)

    def send(self, message: tuple[Any, ...]) -> None:
        """A frame to the program, by way of the broker."""
        self.channel.send(b"c" + encode(message, self.export, SENT, functions=True))

    def answer(self, number: int, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[str, Any]:
        """A call, or a public attribute, of something that a test lent."""
        thing = self.lent[number]
        try:
            # No private names, no attributes of classes, functions and modules: they lead to the tests' globals.
            if name and (name.startswith("_") or isinstance(thing, (type, type(ask_names), type(builtins)))):
                raise AttributeError(name)
            return "returned", getattr(thing, name) if name else thing(*arguments, **named)
        except Exception as error:
            return "raised", f"{type(error).__name__}: {error}"[:300]

    def raised(self, names: list[str], text: str, number: int) -> BaseException:
        """An exception of the program, as one of the same name and the nearest builtin ancestry."""
        kind = self.exception(names)
        if issubclass(kind, (StopIteration, StopAsyncIteration, GeneratorExit)):
            kind = RuntimeError  # in a test's own loop it would end the loop in silence
        error = kind.__new__(kind)
        error.args = (number, text) if number else (text,) if text else ()
        error.__dict__.update(program=True, number=number, names=names)
        return error

    def exception(self, names: list[str]) -> type[BaseException]:
        """The class of an exception by the names of its ancestry."""
        first, rest = names[0], names[1:]
        builtin = vars(builtins).get(first)
        if isinstance(builtin, type) and issubclass(builtin, BaseException):
            return builtin
        if first not in self.classes:
            self.classes[first] = type(first, (self.exception(rest) if rest else Exception,), {})
        return self.classes[first]


def ask_names(link: Link, names: list[str]) -> dict[str, Any]:
    """What the program means by these names; a module of the standard library is our own copy of it."""
    import sys

    meanings: dict[str, Any] = {}
    for name, (word, value) in link.ask("names", names).items():
        if word == "module" and value == name and name in sys.stdlib_module_names:
            meanings[name] = __import__(name)
        elif word == "exception":
            kind = link.exception(value)  # an alias of Exception would catch the test's own assert False
            meanings[name] = type(name, (Exception,), {}) if issubclass(AssertionError, kind) else kind
        elif word == "value":
            meanings[name] = value
            if type(value) is Proxy and (handle := link.export(value)).kind == "class":
                link.named.add(handle.type)
    return meanings


def copy_into(argument: Any, changed: Any) -> None:
    """Makes a test's own list, dict, set or bytearray what a call that returned nothing has made of it."""
    if type(argument) is not type(changed):
        return
    if isinstance(argument, (list, bytearray)):
        argument[:] = changed
    elif isinstance(argument, (dict, set)):
        argument.clear()
        argument.update(changed)


class Proxy:
    """An object of the program. Its methods are called, and its attributes read, over there."""

    __slots__ = ("_handle", "_link")

    def __init__(self, link: Link, handle: Handle) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_handle", handle)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        value = self._link.ask("call", self, arguments, named)
        self._link.last = f"{self._handle.type}{show(arguments)[:-2] + ')' if len(arguments) == 1 else show(arguments)}"
        self._link.last += f" returned {show(value)}"
        return value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # Methods that only plain data should have: called on an object of the program, they could claim what they like.
        if name in PREDICATES or (name in PLAIN and not is_named(self)):
            raise refuse(self)
        return self._link.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.ask("set", self, name, value)

    def __iter__(self) -> Any:
        return self._link.ask("operate", "iter", (self,))

    def __next__(self) -> Any:
        value = self._link.ask("operate", "next", (self, END))
        if value == END and type(value) is str:
            raise StopIteration
        return value

    def __eq__(self, other: object) -> bool:
        # Two questions, or the program's `==` could say yes to everything: is it equal, and is it unlike an object that
        # it cannot know? Without the class among the names of the tests, neither is asked.
        if type(other) is not Proxy or not (is_named(self) and is_named(other)):
            return self is other or (type(other) is Proxy and self._handle.number == other._handle.number)
        ask = self._link.ask
        return bool(ask("operate", "eq", (self, other))) and ask("operate", "different", (self,)) is True

    def __hash__(self) -> int:
        return hash(self._link.ask("operate", "hash", (self,)))

    def __instancecheck__(self, thing: object) -> bool:
        return type(thing) is Proxy and self._link.ask("operate", "isinstance", (thing, self)) is True


END = "\x00the end of an iterator\x00"


def is_named(proxy: Proxy) -> bool:
    """Whether the tests themselves name its class."""
    handle: Handle = proxy._handle
    return handle.type in proxy._link.named


def refuse(proxy: Proxy) -> RefusedError:
    """What is raised where a test treats an object like data."""
    return RefusedError(f"the program returned an object of its class {proxy._handle.type}, not data")


def show(value: Any) -> str:
    """A value in few words."""
    if type(value) is Proxy:
        return f"<{value._handle.type}>"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int of more digits than Python prints
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."


def make_operator(name: str) -> Any:
    """The method of an operator that gives data."""

    def method(self: Proxy, *operands: Any) -> Any:
        return self._link.ask("operate", name, (self, *operands))

    return method


def make_guarded_operator(name: str) -> Any:
    """The method of an operator that is only asked for between objects of classes that the tests name."""

    def method(self: Proxy, *operands: Any) -> Any:
        item = name in ("setitem", "delitem")  # changes the object, and claims nothing
        if not is_named(self) or not (item or all(type(one) is Proxy and is_named(one) for one in operands)):
            raise refuse(self)
        return self._link.ask("operate", name, (self, *operands))

    return method


# On the class, where Python looks operators up; `__getattr__` is never asked for them.
for _name in FROM_DATA:
    setattr(Proxy, f"__{_name}__", make_operator(_name))
for _name in BETWEEN:
    setattr(Proxy, f"__{_name.rstrip('_')}__", make_guarded_operator(_name))
for _name in ("add", "sub", "mul"):  # with data on the left: refused, in words
    setattr(Proxy, f"__r{_name}__", make_guarded_operator(_name))
