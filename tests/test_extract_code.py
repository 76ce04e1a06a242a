"""The program in an answer, found without running or parsing anything."""

import time

import pytest

from scorl.verifiers.extract_code import extract_program, put_before, remove_comments

ADD = "def add(a, b):\n    return a + b"
SUB = "def sub(a, b):\n    return a - b"


def fenced(text, mark="python"):
    return f"```{mark}\n{text}\n```"


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        (fenced(ADD), ADD),
        (fenced(ADD, ""), ADD),
        (fenced(ADD, "Python"), ADD),
        (f"Here it is:\n\n{fenced(ADD)}\n\nIt adds `a` and `b`.", ADD),
        (f"~~~py\n{ADD}\n~~~", ADD),
        (f"````\n{ADD}\n````", ADD),
        (f"1. First:\n   ```python\n   {ADD.replace(chr(10), chr(10) + '   ')}\n   ```", ADD),
        (fenced(ADD).replace("\n", "\r\n"), ADD),
        (f"```python\n{ADD}", ADD),  # cut off
        (f"<think>```python\nx = 1\n```</think>{fenced(ADD)}", ADD),
        (f"{fenced(SUB)}\nBetter:\n{fenced(ADD)}", ADD),  # the last definition counts
        (f"{fenced(ADD)}\nUse it so:\n{fenced('print(add(1, 2))')}", ADD),  # a call defines nothing
        (f"{fenced(ADD)}\nOutput:\n{fenced('3', 'text')}", ADD),
        (f"{fenced('pip install x', 'bash')}\n{fenced(ADD)}", ADD),
        (ADD, ADD),
        (f"Sure, here is the function.\n\n{ADD}\n\nThis function adds two numbers.", ADD),
        (f"import math\n\n{ADD}\nx = add(1, 2)\nmain()", f"import math\n\n{ADD}\nx = add(1, 2)\nmain()"),
        ("n = int(input())\nprint(n * 2)", "n = int(input())\nprint(n * 2)"),
        ("    return a + b\n", "    return a + b"),  # goes on from a head
        (
            '"""A module.\n\nWith some more words here.\n"""\n' + ADD,
            '"""A module.\n\nWith some more words here.\n"""\n' + ADD,
        ),
        ("def f(x):\n    return [\n1,\n2\n]", "def f(x):\n    return [\n1,\n2\n]"),
        ("while True: pass", "while True: pass"),
        ("for i in range(3): print(i)\nHope that helps", "for i in range(3): print(i)"),
        ("if you ask me: no, I do not know.", None),
        ("I do not know.", None),
        ("", None),
        (f"<think>{fenced(ADD)}", None),  # a thought that never closes
        (f"<think>{fenced(ADD)}</think>", None),
        (f"<answer>\n{ADD}\n</answer>", ADD),
        (f"{fenced(SUB)}\n<answer>{fenced(ADD)}</answer>", ADD),
        (f"[PYTHON]\n{ADD}\n[/PYTHON]\nIt adds.", ADD),
        (f"[BEGIN]\n{ADD}\n[DONE]", ADD),
        (f"{ADD}\n[DONE]\nAnother task", ADD),  # the prompt has opened it
        (fenced(f"[PYTHON]\n{ADD}\n[/PYTHON]"), ADD),
        (f"{ADD}<|im_end|>\n</s>", ADD),
        (f"```python\n{ADD}```", ADD),
        (f"<code>\n{ADD}\n</code>", ADD),
        (f"{ADD}\n```", ADD),  # likewise
        (f"{ADD}\n```\nThis adds.\n{fenced('print(add(1, 2))')}", ADD),
        (f"{ADD}\n```\nThis adds.\n```python\nprint(add(1, 2))", ADD),
        ("    return a + b\n```", "    return a + b"),
        (
            f"{fenced('import math')}\n{fenced('def f(x): return math.sqrt(x)')}",
            "import math\n\ndef f(x): return math.sqrt(x)",
        ),
        (f"{fenced(SUB)}\n{fenced('def f(x): return sub(x, 1)')}", f"{SUB}\n\ndef f(x): return sub(x, 1)"),
        (f"{fenced('x = [1]')}\n{fenced('def f(x): return x')}", "def f(x): return x"),
        (
            fenced('def f():\n    """\n    ```\n    f()\n    ```\n    """\n    return 1'),
            'def f():\n    """\n    ```\n    f()\n    ```\n    """\n    return 1',
        ),
        (fenced("rm -rf /", "bash"), None),
        (fenced(""), None),
    ],
)
def test_the_program_is_found(answer, program):
    assert extract_program(answer) == program


def test_the_block_with_the_entry_point_counts():
    answer = f"{fenced(ADD)}\nand a helper:\n{fenced(SUB)}"
    assert extract_program(answer) == SUB
    assert extract_program(answer, "add") == ADD
    assert extract_program(answer, "mul") == SUB
    assert extract_program(f"{fenced('class Stack: ...')}\n{fenced(ADD)}", "Stack") == "class Stack: ..."


DOUBLE = "n = int(input())\nprint(n * 2)"
SOLVE = "def solve(n):\n    return n * 2"
MAIN = "print(solve(int(input())))"


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        (f"{fenced(DOUBLE)}\nFor input 4 it prints\n{fenced('8', '')}", DOUBLE),
        (f"{fenced('4', '')}\nis read by\n{fenced(DOUBLE)}\nand gives\n{fenced('8', '')}", DOUBLE),
        (f"{fenced(DOUBLE, '')}\nFor input 4 it prints\n{fenced('8', '')}", DOUBLE),
        (f"{DOUBLE}\n```\nFor input 4 it prints\n{fenced('8', '')}", DOUBLE),
        (f"{fenced(DOUBLE)}\nThe first line reads:\n{fenced('n = int(input())')}", DOUBLE),
        (f"{fenced(DOUBLE)}\nThe second doubles:\n{fenced('print(n * 2)')}", DOUBLE),
        (f"{fenced(DOUBLE)}\nAs a function:\n{fenced(SOLVE)}", DOUBLE),
        (f"{fenced(DOUBLE.replace('2', '3'))}\nis wrong:\n{fenced(DOUBLE)}", DOUBLE),
        (f"{fenced(SOLVE)}\nThen:\n{fenced(MAIN)}", f"{SOLVE}\n\n{MAIN}"),
        (f"{fenced(f'{SOLVE}{chr(10)}{MAIN}')}\nThe last line reads:\n{fenced(MAIN)}", f"{SOLVE}\n{MAIN}"),
        (f"{fenced('print(8)')}\nA function:\n{fenced(SOLVE)}", "print(8)"),
        (fenced(SOLVE), SOLVE),
    ],
)
def test_a_program_that_reads_and_prints_is_no_sample_and_no_excerpt(answer, program):
    assert extract_program(answer, prints=True) == program


def test_what_is_not_marked_beside_a_marked_block_is_no_program_unless_it_defines_something():
    assert extract_program(f"{fenced(DOUBLE)}\nprints\n{fenced('8', '')}") == DOUBLE
    assert extract_program(f"{fenced(ADD, '')}\nUse it so:\n{fenced('print(add(1, 2))')}") == ADD


FUTURE = "from __future__ import annotations"


@pytest.mark.parametrize(
    "head",
    [
        FUTURE,
        f"# A comment.\n\n{FUTURE}",
        f'"""A docstring.\n\n{FUTURE}\n"""\n{FUTURE}  # why',
        f"'One line.'\nfrom __future__ import division\n\n{FUTURE}; import math",
        f"from __future__ import (\n    division,\n)\n{FUTURE}",
        f"from __future__ import \\\n    division\n{FUTURE}",
    ],
)
def test_nothing_is_put_before_the_future(head):
    for body in ("\nx = 1", ""):
        whole = put_before("import typing", head + body)
        assert whole == f"{head}\nimport typing\n{body.lstrip()}"
        compile(whole, "", "exec")
    using = f"{head}\ndef f(x): return add(x, 1)"
    assert extract_program(f"{fenced(ADD)}\nthen\n{fenced(using)}") == using.replace("\ndef f", f"\n{ADD}\n\ndef f")


def test_what_only_looks_like_the_future_stays():
    for text in (f'x = """\n{FUTURE}\n"""', f'def f():\n    """\n{FUTURE}\n"""', '"""A docstring."""\nx = 1'):
        assert put_before("import typing", text) == f"import typing\n{text}"


def test_an_entry_point_is_a_name_and_no_pattern():
    assert extract_program(fenced(ADD), "a.*(") == ADD


@pytest.mark.parametrize(
    ("program", "bare"),
    [
        ("# 1+1=2 ok\ndef f():\n    # two\n\n    return 2  # kept", "def f():\n    return 2  # kept"),
        ('x = """\n# text\n"""', 'x = """\n# text\n"""'),
        ("x = 'a\\\n# text'", "x = 'a\\\n# text'"),
        ("x = '''a'''\n# note", "x = '''a'''\n# note"),  # a string might go on: left as it is
        ("\xa0# no space of Python's\nx = 1", "\xa0# no space of Python's\nx = 1"),
        ("# nothing", ""),
    ],
)
def test_comments_are_left_out_where_they_cannot_be_part_of_a_string(program, bare):
    assert remove_comments(program) == bare


def test_many_blanks_take_no_time():
    begun = time.process_time()
    extract_program("the answer is 1" + " " * 50_000 + "x")
    for text in ('"""', '"""\n', "'\n", " \n", f"{FUTURE}\n", "from __future__ import ("):
        put_before("import typing", text * 10_000 + "x")
    assert time.process_time() - begun < 1
