"""The trusted side of an examination: runs the tests, for which the program's names are stand-ins.

It is an interpreter in a sandbox of its own (tests are data of somebody, too). One process starts at first and
copies itself for each examination, so that nothing stays behind. It gets the tests, never the program.
"""

from __future__ import annotations

import ast
import builtins
import posix
import traceback

from scorl.sandbox.candidate import lower_limits
from scorl.sandbox.proxy import Gone, Link, RefusedError, ask_names
from scorl.sandbox.wire import Channel, ClosedError, WireError, decode, encode, refuse_handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["main"]

FORBIDDEN = (1, 13, 30, 101)
"""EPERM, EACCES, EROFS and ENETUNREACH: what a sandbox answers."""
SHOWN, LONGEST_REASON = 200, 600


def main() -> None:
    """Takes examinations until the input closes; says so where a copy of this process ended without a verdict."""
    channel = Channel.from_stdio()
    channel.send(b"ready")
    while True:
        try:
            request = channel.receive()
        except ClosedError:
            posix._exit(0)
        # A copy for each examination: tests may change modules and builtins, and a fork costs a millisecond where a new
        # interpreter costs twelve.
        child = posix.fork()
        if not child:
            try:
                examine(channel, request)
            finally:
                posix._exit(0)
        _, status = posix.waitpid(child, 0)
        channel.send(b"e" + encode(status, refuse_handle))


def examine(channel: Channel, request: bytes) -> None:
    """Runs the tests and sends what comes of them."""
    limits, setup, tests, entry_point = decode(request, refuse_handle)
    lower_limits(limits)
    outcome, reason = run_tests(Link(channel), setup, tests, entry_point)
    channel.send(b"v" + encode((outcome, reason[:LONGEST_REASON]), refuse_handle))


def run_tests(link: Link, setup: str, tests: list[str], entry_point: str) -> tuple[str, str]:
    """The outcome and its reason: the first thing that goes wrong decides."""
    try:
        link.ask("loaded")
        namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
        # Statement by statement, so that the reason can name the line, and a second test sees what the first defined.
        units = [(text, unit) for text in tests for unit in ast.parse(text).body]
        exec(compile(setup, "setup", "exec"), namespace)
        bind_names(link, namespace, [unit for _, unit in units], entry_point)
        tested = namespace.get(entry_point)  # a test may define another thing of this name
        for link.test, unit in units:
            exec(compile(ast.Module([unit], []), "test", "exec"), namespace)
        for link.test, unit in units:
            if is_check(unit) and not calls_check(units):
                namespace["check"](tested)
    except BaseException as error:
        return explain(error, link)
    return "passed", ""


def bind_names(link: Link, namespace: dict[str, Any], units: list[ast.stmt], entry_point: str) -> None:
    """Gives the tests what they name and neither define nor find among the builtins."""
    used = {node.id for unit in units for node in ast.walk(unit) if isinstance(node, ast.Name)}
    asked = {name for name in used if name not in namespace and not hasattr(builtins, name)}
    if not entry_point and not asked:  # a function named like a builtin; of several, nobody could say which
        asked = {name for name in used if not isinstance(getattr(builtins, name), type)}
        asked = asked if len(asked) == 1 else set()
    meanings = ask_names(link, sorted(asked | {entry_point} - {""}))
    namespace |= meanings
    if entry_point and entry_point not in meanings:
        raise RefusedError(f"the program does not define {entry_point}")


def is_check(unit: ast.stmt) -> bool:
    """Whether it defines `check(candidate)`."""
    return isinstance(unit, ast.FunctionDef) and unit.name == "check" and len(unit.args.args) == 1


def calls_check(units: list[tuple[str, ast.stmt]]) -> bool:
    """Whether the tests call `check` themselves."""
    calls = (node for _, unit in units for node in ast.walk(unit) if isinstance(node, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == "check" for call in calls)


def explain(error: BaseException, link: Link) -> tuple[str, str]:
    """The outcome that an exception means, and the reason."""
    place = find_line(error, link.test)
    if isinstance(error, Gone):  # the broker knows how it ended; this says at which test
        return "gone", place
    if names := getattr(error, "names", None):
        said = f"{names[0]}: {error.args[-1]}" if error.args else names[0]
        if "MemoryError" in names:
            return "memory", place + said
        forbidden = "PermissionError" in names or error.__dict__["number"] in FORBIDDEN
        return ("forbidden" if forbidden else "error"), f"{place}raised {said}"
    if isinstance(error, AssertionError):
        return "failed", place + link.last
    if isinstance(error, (RefusedError, WireError)):
        return "failed", f"{place}{error}"
    return "error", f"{place}the test raised {type(error).__name__}: {error}"


def find_line(error: BaseException, text: str) -> str:
    """The line of the test at which it happened."""
    numbers = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "test"]
    lines = text.splitlines()
    if not numbers or not 0 < numbers[-1] <= len(lines):
        return ""
    line = lines[numbers[-1] - 1].strip()
    return (line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}...") + ": "


if __name__ == "__main__":
    main()
