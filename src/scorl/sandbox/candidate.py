"""What runs inside the sandbox beside the program: it does what the tests ask for and sends back plain data.

Nothing here decides anything. The program shares this process, so it may read and replace all of it; it never
sees an expected value, and whatever it makes this file send is only taken for what the program answers.
"""

from __future__ import annotations

import builtins
import posix
import sys

from scorl.sandbox.wire import Channel, ClosedError, Handle, WireError, decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Program", "main"]

MODULE = "program"
TEXT = 300
"""The longest message of an exception that is sent."""
CHANGEABLE = (list, dict, set, bytearray)


class Program:
    """The program as a module, and the objects of it that the tests hold handles of."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.objects: list[Any] = []
        self.lent: dict[int, Any] = {}
        self.module = type(sys)(MODULE)
        sys.modules[MODULE] = self.module

    def load(self, text: str) -> None:
        """Runs the program as a module that is not the main one."""
        exec(compile(text.removeprefix("\ufeff"), f"{MODULE}.py", "exec", dont_inherit=True), self.module.__dict__)

    def export(self, value: Any) -> Handle:
        """The handle of an object; what the tests lent goes back as theirs."""
        for number, proxy in self.lent.items():
            if proxy is value:
                return Handle(False, number, "object", "")
        self.objects.append(value)
        return Handle(True, len(self.objects) - 1, kind_of(value), getattr(value, "__name__", type(value).__name__))

    def import_(self, handle: Handle) -> Any:
        """The object of a handle, or a stand-in for one of the tests' objects."""
        if handle.of_program:
            return self.objects[handle.number]
        if handle.number not in self.lent:
            self.lent[handle.number] = make_stand_in(self, handle.number)
        return self.lent[handle.number]

    def ask(self, message: tuple[Any, ...]) -> Any:
        """What the tests answer to a call of something that they lent."""
        self.channel.send(encode(message, self.export))
        word, value = self.serve()
        if word == "raised":
            raise RuntimeError(value)
        return value

    def serve(self) -> tuple[str, Any]:
        """Does what the tests ask until they answer a question of ours."""
        while True:
            word, *rest = decode(self.channel.receive(), self.import_, functions=True)
            if word in ("returned", "raised"):
                return word, rest[0]
            self.channel.send(self.reply(word, rest))

    def reply(self, word: str, rest: list[Any]) -> bytes:
        """The answer to a request: a value and the changed arguments, or what was raised."""
        try:
            value, changed = getattr(self, f"do_{word}")(*rest)
            return encode(("value", value, changed), self.export)
        except WireError as error:
            return encode(("unfit", str(error)), self.export)
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: a program may raise what it likes
            return encode(("raised", *describe(error)), self.export)

    def do_load(self, text: str) -> tuple[Any, Any]:
        """Loads the program."""
        self.load(text)
        return None, None

    def do_names(self, names: list[str]) -> tuple[Any, Any]:
        """What the program means by names; a module goes by its name, an exception class by its ancestry."""
        meanings: dict[str, Any] = {}
        for name in names:
            if name in self.module.__dict__:
                value = self.module.__dict__[name]
                if type(value) is type(sys):
                    meanings[name] = ("module", value.__name__)
                elif isinstance(value, type) and issubclass(value, BaseException):
                    meanings[name] = ("exception", list_ancestors(value))
                else:
                    meanings[name] = ("value", value)
        return meanings, None

    def do_call(self, function: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        """A call. One that returns nothing also sends back what became of its arguments."""
        value = function(*arguments, **named)
        # Arguments are copies here. Only of a call without a result is it clear that the change is what was wanted.
        changed = value is None and any(type(one) in CHANGEABLE for one in arguments)
        return value, arguments if changed else None

    def do_get(self, thing: Any, name: str) -> tuple[Any, Any]:
        """An attribute."""
        return getattr(thing, name), None

    def do_set(self, thing: Any, name: str, value: Any) -> tuple[Any, Any]:
        """Sets an attribute."""
        setattr(thing, name, value)
        return None, None

    def do_operate(self, name: str, operands: tuple[Any, ...]) -> tuple[Any, Any]:
        """An operator or a builtin of this name."""
        if name == "different":  # an object that equals everything also equals this one, made a moment ago
            unlike = object()
            return not (operands[0] == unlike or unlike == operands[0]), None
        return find_operation(name)(*operands), None


def find_operation(name: str) -> Any:
    """A function of `builtins` or `operator`."""
    import operator

    return getattr(builtins, name, None) or getattr(operator, name)


def kind_of(value: Any) -> str:
    """What sort of thing an object is."""
    if isinstance(value, type):
        return "class"
    if hasattr(value, "__next__"):
        return "iterator"
    return "function" if callable(value) else "object"


def list_ancestors(kind: type) -> list[str]:
    """The names of a class and its bases, `object` left out."""
    return [one.__name__ for one in kind.__mro__[:-1]]


def describe(error: BaseException) -> tuple[list[str], str, int]:
    """An exception: the names of its classes, its message, and its error number."""
    try:
        text = str(error)[:TEXT]
    except BaseException:
        text = ""
    number = getattr(error, "errno", None)
    return list_ancestors(type(error)), text, number if type(number) is int else 0


def make_stand_in(program: Program, number: int) -> Any:
    """Something that is called, or whose attributes are read, over the pipe."""

    class Lent:
        def __call__(self, *arguments: Any, **named: Any) -> Any:
            return program.ask(("callback", number, "", arguments, named))

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            return program.ask(("callback", number, name, (), {}))

    return Lent()


def lower_limits(limits: dict[str, int]) -> None:
    """Lowers the limits of this process and all that it starts."""
    import resource

    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        # Between the two limits the kernel sends SIGXCPU, by which the broker tells lack of time from other deaths.
        hard = value + 1 if name == "CPU" else value
        resource.setrlimit(number, (value, hard))


def replace_stdin(text: str) -> None:
    """Makes a text the standard input."""
    # A file in memory, not a pipe: a program need not read it, and nobody has to stand by and write.
    memory = posix.memfd_create("stdin")
    posix.write(memory, text.encode("utf-8", "surrogatepass"))
    posix.lseek(memory, 0, 0)
    posix.dup2(memory, 0)


def main() -> None:
    """Says that the sandbox stands, takes the limits and the program's input, and serves or runs it."""
    channel = Channel.from_stdio()
    channel.send(b"ready")
    program = Program(channel)
    limits, stdin, script = decode(channel.receive(), program.import_)
    lower_limits(limits)
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # `site`, which is not imported here, would bring them
    if stdin:
        replace_stdin(stdin)
    if script is not None:
        posix.dup2(channel.output, 1)
        posix.close(channel.output)
        run_script(script)
    try:
        program.serve()
    except ClosedError:
        posix._exit(0)


def run_script(script: str) -> None:
    """Runs the program as the main one, with its output on the pipe."""
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    exec(compile(script.removeprefix("\ufeff"), "main.py", "exec", dont_inherit=True), main.__dict__)
    sys.exit()


if __name__ == "__main__":
    main()
