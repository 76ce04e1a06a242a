"""The worker program: compares two answers with math-verify, one JSON line in, one JSON line out.

It is started by path (`python -P symbolic.py PARENT`), and lives until its input ends, or its parent, the process of
that id, kills it or ends. In: `[[[gold, answer], ...], seconds]`, the two answers in one or more spellings. Out:
`[equal, readable]`. math-verify's own time limits raise from a SIGALRM handler and are off; the parent's kill is the
limit. An alarm with its default action (the kernel ends the process) stands behind it.
"""

from __future__ import annotations

import json
import logging
import math
import re
import signal
import sys
from collections.abc import Iterable
from typing import Any

from scorl.parent import end_with_parent
from scorl.verifiers.letters import keep_last_letter, split_signs

__all__ = ["compare", "main"]

MEMORY = 4 << 30
SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])")
OR = re.compile(r"\\(?:text|mbox|textrm|mathrm)\s*\{[\s,]*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|\\(?:lor|vee)\b")
COMPARED = re.compile(r"[<>]|\\(?:leq?|geq?|lt|gt)(?![A-Za-z])")
PLAIN = r"-?\d+(?:\.\d+)?"
FACTOR = re.compile(rf"((?<![_^\d.])\d+(?:\.\d+)?|\({PLAIN}\))\s*(?=\({PLAIN}\))|\({PLAIN}\)\s*(?=\d)")
"""What multiplies the number behind it, as in `2(3)`, `(2)(3)` and `(2)3`."""


def limit_memory() -> None:
    """Bounds the address space, so that a huge integer ends as a MemoryError and not in swapping."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass  # no such limit on this system; the time limit remains


def parse(text: str) -> Any:
    """What math-verify makes of an answer: an expression, or None."""
    from math_verify import LatexExtractionConfig
    from math_verify import parse as read

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    # math-verify adds a whole number and what follows it, as in 1 1/2, and so takes 2(3) for 5.
    text = FACTOR.sub(r"\g<0>\\cdot ", keep_last_letter(split_signs(SIZES.sub("", text))))
    expressions = read(f"\\boxed{{{text}}}", config, parsing_timeout=None, fallback_mode="no_fallback")
    return expressions[0] if expressions and not is_statement(expressions[0]) else None


def is_statement(expression: Any) -> bool:
    """Whether it is an inequality that holds always or never, `10 < 12`: no answer, but the empty set equals it."""
    from sympy import Equality  # type: ignore[import-untyped]
    from sympy.core.relational import Relational  # type: ignore[import-untyped]
    from sympy.logic.boolalg import BooleanAtom  # type: ignore[import-untyped]

    compared = isinstance(expression, Relational) and not isinstance(expression, Equality)
    return compared and isinstance(expression.doit(), BooleanAtom)


def are_close(gold: Any, answer: Any) -> bool:
    """Whether two numbers that math-verify called equal are so relative to their size.

    It rounds to six decimals, by which 1/2004! equals 1/2006!. Other things than numbers pass.
    """
    from sympy import Expr, Float

    if not all(isinstance(side, Expr) and side.is_number for side in (gold, answer)):
        return True
    tolerance = 1e-4 if gold.has(Float) or answer.has(Float) else 1e-12
    left, right = gold.evalf(30), answer.evalf(30)
    return bool(abs(left - right) <= tolerance * max(abs(left), abs(right)))


def compare(pairs: Iterable[tuple[str, str]]) -> tuple[bool, bool]:
    """Whether gold answer and answer are equal in one of the spellings, and whether the answer is read."""
    readable = False
    for gold, answer in pairs:
        left, right = parse(gold), parse(answer)
        readable |= right is not None
        if left is None or right is None:
            continue
        if are_equal(left, right) or are_equal_numbers(left, right) or are_equal_unions(gold, answer):
            return True, True
    return False, readable


def are_equal(gold: Any, answer: Any) -> bool:
    """Whether math-verify calls two expressions equal, rightly."""
    from math_verify import verify

    return verify(gold, answer, timeout_seconds=None, allow_set_relation_comp=True) and are_close(gold, answer)


def are_equal_numbers(gold: Any, answer: Any) -> bool:
    """Whether two expressions are equal if the symbol i, where there is one, is the imaginary unit."""
    from sympy import I, Symbol
    from sympy.core.relational import Relational

    symbols = gold.free_symbols | answer.free_symbols
    if "i" not in {symbol.name for symbol in symbols} or any(side.has(Relational) for side in (gold, answer)):
        return False
    # Beside an i math-verify takes a symbol for complex, which makes it another than a real one of that name.
    values = {symbol: I if symbol.name == "i" else Symbol(symbol.name) for symbol in symbols}
    return are_equal(gold.subs(values), answer.subs(values))


def are_equal_unions(gold: str, answer: str) -> bool:
    """Whether inequalities joined by "or" are a set: `x < 2 or x > 3` and the union of two intervals."""
    sides = [read_union(side) for side in (gold, answer)]
    if all(side is not None for side in sides) or sides == [None, None]:
        return False
    left, right = (parse(text) if side is None else side for text, side in zip((gold, answer), sides, strict=True))
    return left is not None and right is not None and are_equal(left, right)


def read_union(text: str) -> Any:
    """The set that inequalities of one unknown describe, joined by "or"; None for anything else."""
    from sympy import Union

    parts = OR.split(text)
    if len(parts) == 1 or not all(COMPARED.search(part) for part in parts):
        return None
    read = [parse(part) for part in parts]
    if any(part is None for part in read) or len({symbol for part in read for symbol in part.free_symbols}) != 1:
        return None
    try:
        return Union(*(part.as_set() for part in read))
    except (NotImplementedError, TypeError, ValueError, AttributeError):
        return None  # nothing that sympy solves


def set_alarm(seconds: float) -> None:
    """Sets the last-resort alarm, a few seconds behind the parent's kill; 0 clears it."""
    if hasattr(signal, "alarm"):
        signal.alarm(math.ceil(seconds) + 5 if seconds else 0)


def main() -> None:
    """Says that it is ready, then answers line by line."""
    end_with_parent(int(sys.argv[1]))
    limit_memory()
    logging.disable(logging.CRITICAL)
    compare([("1", "1")])  # imports and the first grammar tables take seconds: not on the first answer's time
    print("ready", flush=True)
    for line in sys.stdin:
        pairs, seconds = json.loads(line)
        set_alarm(seconds)
        try:
            reply: list[Any] = list(compare(dict.fromkeys(map(tuple, pairs))))
        except MemoryError:  # what is lost may be missing from now on: a new worker is tried
            sys.exit(1)
        except Exception as error:  # what a response makes math-verify raise is a verdict, not a crash
            reply = [f"{type(error).__name__} while comparing"]
        set_alarm(0)
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
