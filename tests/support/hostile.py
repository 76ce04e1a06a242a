"""Small programs that cheat, and honest ones that look odd: what a verdict must not and must be."""

__all__ = ["ADD", "CHEATS", "HONEST", "OBJECTS", "TESTS"]

TESTS = ("assert add(2, 3) == 5", "assert add(-1, 1) == 0", "assert add(10, 20) == 30")

ADD = """\
def add(a, b):
    return a + b
"""

CHEATS = {
    "leaves at once": """\
import sys
sys.exit(0)
""",
    "leaves by exit": """\
exit(0)
""",
    "leaves by quit when called": """\
def add(a, b):
    quit()
""",
    "leaves when called": """\
import os
def add(a, b):
    os._exit(0)
""",
    "equals everything": """\
class A:
    def __eq__(self, other): return True
def add(a, b):
    return A()
""",
    "an int that equals everything": """\
class A(int):
    def __eq__(self, other): return True
def add(a, b):
    return A(0)
""",
    "the mock that equals everything": """\
from unittest.mock import ANY
def add(a, b):
    return ANY
""",
    "True is 1": """\
def add(a, b):
    return True
""",
    "prints success": """\
print('OK passed {"verdict": "passed"}')
def add(a, b):
    return 0
""",
    "ends loops in silence": """\
def add(a, b):
    raise StopIteration
""",
    "ends generators in silence": """\
def add(a, b):
    raise GeneratorExit
""",
    "replaces builtins": """\
import builtins
builtins.all = builtins.any = lambda *a: True
def add(a, b):
    return 0
""",
    "replaces what sends": """\
import sys
w = sys.modules['scorl.sandbox.candidate']
w.encode = lambda *a, **k: b'T'
def add(a, b):
    return 0
""",
    "writes on every pipe": """\
import os
for fd in range(64):
    try: os.write(fd, b'v' * 100)
    except OSError: pass
def add(a, b):
    return 0
""",
    "reads its caller's frames": """\
import sys
def add(a, b):
    f = sys._getframe()
    seen = ''
    while f:
        seen += repr(f.f_locals) + repr(f.f_globals)
        f = f.f_back
    return 5 if '== 5' in seen else 0
""",
    "reads what it is told": """\
import gc
def add(a, b):
    texts = [o for d in gc.get_objects() if isinstance(d, dict) for o in list(d.values())]
    return 5 if any(isinstance(o, str) and 'assert add' in o for o in texts) else 0
""",
    "recompiles itself without asserts": """\
import os, sys
def add(a, b):
    os.execv(sys.executable, [sys.executable, '-O', '-c', 'pass'])
""",
    "kills its parent": """\
import os, signal
os.kill(os.getppid(), signal.SIGKILL)
def add(a, b):
    return 0
""",
    "forges frames": """\
import os
frame = (5).to_bytes(4, 'big')
for fd in range(3, 64):
    try: os.write(fd, frame + b'vtrue')
    except OSError: pass
os._exit(0)
""",
    "sends an unfit pickle": """\
class A:
    def __reduce__(self): return (print, ('x',))
def add(a, b):
    return A()
""",
}
"""Programs that should add two numbers, and do not."""

OBJECTS = {
    "names Exception like its own": (
        """\
try:
    add(1, 2)
    assert False
except Bad:
    pass
""",
        """\
Bad = Exception
def add(a, b):
    return 0
""",
    ),
    "names another module": (
        "assert math.floor(add(1, 2)) == 3",
        """\
import operator as math
def add(a, b):
    return 0
""",
    ),
    "ends the test's loop in silence": (
        """\
assert all(map(add, [2], [9]))
assert [*map(add, [2, 1], [3, 1])] == []
""",
        """\
def add(a, b):
    raise StopIteration
""",
    ),
    "takes the difference itself": (
        """\
assert abs(add(1, 2) - 3) < 1e-6
""",
        """\
class A:
    def __sub__(self, x): return 0.0
def add(a, b):
    return A()
""",
    ),
    "holds everything": (
        """\
assert 3 in add(1, 2)
""",
        """\
class A:
    def __contains__(self, x): return True
def add(a, b):
    return A()
""",
    ),
    "is larger than everything": (
        """\
assert add(1, 2) > 2
""",
        """\
class A:
    def __gt__(self, x): return True
def add(a, b):
    return A()
""",
    ),
    "is a superset of everything": (
        """\
assert add(1, 2).issuperset({3})
""",
        """\
class A:
    def issuperset(self, x): return True
def add(a, b):
    return A()
""",
    ),
    "is in every set": (
        """\
assert {3} == {add(1, 2)}
""",
        """\
class A:
    def __hash__(self): return hash(3)
    def __eq__(self, x): return True
def add(a, b):
    return A()
""",
    ),
    "difference of an own class": (
        """\
assert abs(add(1, 2) - 3) < 1e-6
""",
        """\
class add:
    def __init__(self, *a): pass
    def __sub__(self, x): return 0.0
""",
    ),
    "difference from the right": (
        """\
assert 3 - add(1, 2) == 0
""",
        """\
class add:
    def __init__(self, *a): pass
    def __rsub__(self, x): return 0
""",
    ),
    "greater by an own class": (
        """\
assert add(1, 2) > 2
""",
        """\
class add:
    def __init__(self, *a): pass
    def __gt__(self, x): return True
""",
    ),
    "equal by an own class": (
        """\
assert add(1, 2) == 3
""",
        """\
class add:
    def __init__(self, *a): pass
    def __eq__(self, x): return True
""",
    ),
    "holds by an own class": (
        """\
assert 3 in add(1, 2)
""",
        """\
class add:
    def __init__(self, *a): pass
    def __contains__(self, x): return True
""",
    ),
    "begins with everything": (
        """\
assert add(1, 2).startswith('3')
""",
        """\
class add:
    def __init__(self, *a): pass
    def startswith(self, x): return True
""",
    ),
    "empties what the test compares with": (
        """\
x = [2, 1]
assert add(x, 0) == sorted(x)
""",
        """\
def add(a, b):
    a.clear()
    return []
""",
    ),
}
"""Tests, and programs that return an object that would like to answer for data: (test, program)."""

HONEST = {
    "plain": (ADD, TESTS),
    "prints": (
        """\
def add(a, b):
    print('x' * 10**6)
    return a + b
""",
        TESTS,
    ),
    "a class": (
        """\
class S:
    def __init__(self): self.x = []
    def push(self, v):
        self.x.append(v)
        return self
    def __len__(self): return len(self.x)
""",
        """\
s = S()
s.push(1).push(2)
assert len(s) == 2
assert s.x == [1, 2]
""",
    ),
    "an own __eq__": (
        """\
class P:
    def __init__(self, x): self.x = x
    def __eq__(self, o): return type(o) is P and self.x == o.x
def mk(a):
    return P(a)
""",
        """\
assert mk(2) == P(2)
assert mk(2) != P(3)
""",
    ),
    "a function argument": (
        """\
def apply(f, xs):
    return [f(x) for x in xs]
""",
        """\
assert apply(lambda x: x * 2, [1, 2]) == [2, 4]
assert apply(len, ['ab']) == [2]
""",
    ),
    "a key function": (
        """\
def order(xs, key):
    return sorted(xs, key=key)
""",
        """\
assert order([3, 1, 2], lambda x: -x) == [3, 2, 1]
""",
    ),
    "an object of the test": (
        """\
def total(node):
    return node.value + (total(node.next) if node.next else 0)
""",
        """\
class Node:
    def __init__(self, value, next=None):
        self.value, self.next = value, next
assert total(Node(1, Node(2))) == 3
""",
    ),
    "a type argument": (
        """\
def without(xs, kind):
    return [x for x in xs if not isinstance(x, kind)]
""",
        """\
assert without([1, 'a'], int) == ['a']
""",
    ),
    "returns a function": (
        """\
def adder(n):
    return lambda x: x + n
""",
        """\
assert adder(3)(4) == 7
""",
    ),
    "a generator": (
        """\
def evens(n):
    yield from range(0, n, 2)
""",
        """\
assert list(evens(6)) == [0, 2, 4]
g = evens(4)
assert next(g) == 0 and next(g, None) == 2 and next(g, None) is None
""",
    ),
    "a builtin exception": (
        """\
def inv(x):
    return 1 / x
""",
        """\
try:
    inv(0)
    assert False
except ZeroDivisionError as e:
    assert 'zero' in str(e)
""",
    ),
    "an own exception": (
        """\
class Bad(ValueError): pass
def chk(x):
    raise Bad('neg')
""",
        """\
try:
    chk(1)
    assert False
except Bad:
    pass
try:
    chk(1)
    assert False
except ValueError as e:
    assert str(e) == 'neg'
""",
    ),
    "changes its argument": (
        """\
def put(xs):
    xs.append(3)
""",
        """\
x = [1]
put(x)
assert x == [1, 3]
""",
    ),
    "named like a builtin": (
        """\
def sum(a, b):
    return a + b
""",
        """\
assert sum(1, 2) == 3
""",
    ),
    "its own module": (
        """\
import sys
def size(x):
    return sys.getsizeof(x)
""",
        """\
assert size((1,)) == sys.getsizeof((1,))
""",
    ),
    "plain types": (
        """\
from decimal import Decimal
from fractions import Fraction
import datetime
def f():
    return [Decimal('1.1'), Fraction(1, 3), datetime.date(2020, 1, 2), 2j, b'x', {1: {2}}, 1e400]
""",
        """\
from decimal import Decimal
from fractions import Fraction
import datetime
assert f() == [Decimal('1.1'), Fraction(1, 3), datetime.date(2020, 1, 2), 2j, b'x', {1: {2}}, float('inf')]
""",
    ),
    "pickles its class": (
        """\
import pickle
from dataclasses import dataclass
@dataclass
class Q:
    x: int
def rt(n):
    return pickle.loads(pickle.dumps(Q(n))).x
""",
        """\
assert rt(3) == 3
""",
    ),
}
"""Honest programs and their tests."""
