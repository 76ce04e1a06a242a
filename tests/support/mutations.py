"""Recipes, overrides and files of data as nobody should write them, each decided by a random generator."""

import copy
import csv
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

__all__ = ["FORMATS", "TASKS", "Damaged", "damage_file", "damage_rows", "mutate_recipe", "odd_override"]

RAW = {
    "long number": "1" * 5000,
    "deep lists": "[" * 3000 + "]" * 3000,
    "deep mappings": "{a: " * 150 + "x" + "}" * 150,
    "laughs": "[&a [x,x,x,x,x,x,x,x,x,x]"
    + "".join(f", &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]",
    "circle": "&round [*round]",
    "circle of keys": "&round {x: *round}",
    "no anchor": "*nowhere",
    "python tag": "!!python/object/apply:os.getcwd []",
    "odd tag": "!custom {a: 1}",
    "tag of a number": "!!int x",
    "tag of a float": "!!float x",
    "tag of a bool": "!!bool x",
    "tag of null": "!!null x",
    "tag of bytes": "!!binary '%%'",
    "good bytes": "!!binary aGk=",
    "set": "!!set {a, b}",
    "ordered": "!!omap [a: 1]",
    "pairs": "!!pairs [a]",
    "time": "!!timestamp x",
    "day": "!!timestamp 2026-01-01",
    "text of a list": "!!str [a]",
    "list of a text": "!!seq x",
    "key of a list": "{? [a] : 1}",
    "key of a mapping": "{? {a: 1} : 1}",
    "key of null": "{null: 1, 1: 2, true: 3, 1.5: 4}",
    "merge": "{<<: x}",
    "merge of lists": "{<<: [[x]]}",
    "equals": "=",
    "block": "|\n  x",
    "open quote": '"x',
    "half a character": '"\\ud800"',
    "nul": '"\\0"',
    "reserved": "`x`",
    "percent": "%x",
    "tab": "\tx",
}
"""Values by what is odd in them, as YAML has them; in a dump a name stands for each, which is a plain word."""
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 0.5, -0.0, 1e308, 1e-320, float("inf"), float("nan"), 10**30, -(10**30), 2**63),
    *([], {}, [[]], [None], [1, "x"], {"x": {}}, {"name": "x"}, [{}], [{"a": 1}, {"a": 1}], ["x"] * 1000),
    *(
        "",
        " ",
        "x",
        "x" * 300,
        "x/" * 3000,
        "~no-such-user/x",
        "a\0b",
        "/",
        ".",
        "..",
        "/dev/null",
        "null",
        "1",
        "auto",
    ),
    *("no_such:thing", "json:dumps", "json:", ":", "no.py:x", "x.py", "../x", "http://x", "scorl:x", "pypi:x", "x/y"),
    *("{question}", "{", "%s", "\u202e", "\ud800", "\x1b[2J", "\n", "cuda:99", "cpu", "all", "test", "countdown"),
)
KEYS: tuple[Any, ...] = ("x", "", "name", "extends", "versions", "objective", "0", 0, None, True, 1.5, "a.b", "\ud800")


def paths_in(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a tree of mappings and lists but itself."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*path, key)
        yield from paths_in(value, (*path, key))


def holder_of(node: Any, path: tuple[Any, ...]) -> Any:
    """What holds the last key of a path."""
    for key in path[:-1]:
        node = node[key]
    return node


def mutate_tree(rng: random.Random, tree: Any) -> str:
    """Change one place of a tree; what was done."""
    path = rng.choice(list(paths_in(tree)) or [()])
    if not path:
        return "nothing left"
    holder, key = holder_of(tree, path), path[-1]
    kind = rng.choice(("value", "value", "raw", "type", "gone", "key", "swapped", "moved"))
    if kind == "value":
        holder[key] = copy.deepcopy(rng.choice(ODD))
    elif kind == "raw":
        name = rng.choice(list(RAW))
        holder[key] = f"RAW{list(RAW).index(name)}RAW"
        return f"raw: {name}"
    elif kind == "type":
        value = holder[key]
        holder[key] = rng.choice(([value], {"x": value}, str(value), [value] * 3))
    elif kind == "gone":
        del holder[key]
    elif kind == "key" and isinstance(holder, dict):
        value = holder[key] if rng.random() < 0.5 else holder.pop(key)
        holder[rng.choice((*KEYS, f"{key}x", str(key)[:-1], str(key).upper()))] = value
    else:
        other = rng.choice([one for one in paths_in(tree) if one[: len(path)] != path] or [path])
        there = holder_of(tree, other)
        value = holder[key]
        if kind == "swapped" and path[: len(other)] != other:
            holder[key] = there[other[-1]]
        there[other[-1]] = copy.deepcopy(value)
    return kind


def write_yaml(tree: Any) -> str:
    """The tree as YAML, with the raw values in their places."""
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=10**9)
    for number, raw in enumerate(RAW.values()):
        text = text.replace(f"RAW{number}RAW", raw)
    return text


def mutate_text(rng: random.Random, text: bytes) -> tuple[str, bytes]:
    """Damage some bytes of a text."""
    at, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
    end = min(end, at + 40)
    kind, changed = rng.choice(
        (
            ("cut", text[:at]),
            ("hole", text[:at] + text[end:]),
            ("twice", text[:end] + text[at:]),
            ("bytes", text[:at] + rng.randbytes(rng.randint(1, 4)) + text[at:]),
            ("signs", text[:at] + rng.choice("{}[]:,&*!|>'\"%@`#-?\t\\").encode() + text[at:]),
            ("utf-16", text.decode(errors="replace").encode("utf-16")),
            ("latin-1", text + "# é\n".encode("latin-1")),
            ("mark", b"\xef\xbb\xbf" + text),
            ("windows", text.replace(b"\n", b"\r\n")),
            ("documents", text + b"---\n" + text),
            ("directive", b"%YAML 9.9\n---\n" + text),
            ("nul", text[:at] + b"\0" + text[at:]),
            ("nothing", rng.choice((b"", b"\n", b"# x", b"---", b"null", b"[]", b"x", b"{}"))),
        )
    )
    return kind, changed


def mutate_recipe(rng: random.Random, tree: Any) -> tuple[str, bytes]:
    """What was done, and the recipe's bytes."""
    tree = copy.deepcopy(tree)
    kinds = [mutate_tree(rng, tree) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
    if rng.random() < 0.1:
        tree["extends"] = rng.choice(("countdown", "mine.yaml", "./mine.yaml", ".", *ODD))
        kinds.append("extends")
    data = write_yaml(tree).encode(errors="surrogatepass")
    if rng.random() < 0.15:
        kind, data = mutate_text(rng, data)
        kinds.append(f"text: {kind}")
    return kinds[-1], data


def odd_override(rng: random.Random, tree: Any) -> str:
    """Something on the command line in the place of `key=value`."""
    path = ".".join(map(str, rng.choice(list(paths_in(tree)))))
    key = rng.choice(
        (path, path, path, f"{path}.x", f"{path}.0", f".{path}", f"{path}.", path.upper(), "", "task", "x")
    )
    key = rng.choice((key, key, key, key.replace("0", "²"), key.replace("0", "-1"), key.replace("0", "9" * 5000)))
    value = str(rng.choice((*ODD, *RAW.values()))).replace("\0", "")
    return rng.choice((f"{key}={value}",) * 8 + (key, f"{key}=={value}", value, f"--{key}", f"{key} = {value}"))


@dataclass(frozen=True)
class Damaged:
    """A damaged file."""

    kind: str
    name: str
    data: bytes
    row: int | None
    """The row that is bad, if it is one alone, counted from 1."""


TESTS = ["assert f(1) == 2", "assert f(2) == 3"]
TASKS: dict[str, Callable[[int], dict[str, Any]]] = {
    "files": lambda n: {"problem": f"What is {n} + 1?", "answer": str(n + 1), "id": f"q{n}"},
    "math": lambda n: {"problem": f"{n} + 1?", "solution": f"\\boxed{{{n + 1}}}", "answer": n + 1, "unique_id": f"{n}"},
    "gsm8k": lambda n: {"question": f"What is {n} + 1?", "answer": f"{n} + 1 = <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}"},
    "svamp": lambda n: {"question": f"{n} and 1?", "answer": n + 1.0, "equation": f"( {n}.0 + 1.0 )", "id": f"s-{n}"},
    "programs": lambda n: {"problem": f"Write f{n}.", "tests": TESTS, "entry_point": "f", "timeout": 5, "id": f"p{n}"},
    "mbpp": lambda n: {"task_id": n + 11, "text": f"Write f{n}.", "code": "def f(x): return x", "test_list": TESTS,
                       "test_setup_code": ""},
    "humaneval": lambda n: {"task_id": f"HumanEval/{n}", "prompt": 'def f(x):\n    """More."""\n', "entry_point": "f",
                            "canonical_solution": "    return x\n", "test": "def check(c):\n    assert c(1) == 2\n"},
    "humaneval+": lambda n: {"task_id": f"HumanEval/{n}", "prompt": "def f(x):\n", "entry_point": "f", "atol": 0,
                             "canonical_solution": "    return x + 1\n", "base_input": [[1]], "plus_input": [[2]]},
    "mbpp+": lambda n: {"task_id": f"Mbpp/{n}", "prompt": "One more.", "entry_point": "f", "atol": 0,
                        "canonical_solution": "def f(x):\n    return x\n", "base_input": [[1]], "plus_input": [[2]]},
}  # fmt: skip
"""A good row of each task that reads files."""
FORMATS = ("jsonl", "json", "csv", "tsv", "jsonl.gz", "parquet", "arrow")
LOOSE = ("jsonl", "json", "jsonl.gz")
"""Those in which one row may be of another form than the rest."""
LINES = (
    *('{"problem": ', "x", "[1]", "1", "null", '"x"', "{}", "{'a': 1}", '{"a": NaN}', '{"a": 1,}', "\0", "[" * 3000),
    *('{"a": ' * 3000, '{"problem": "\\ud800", "answer": 1}', '{"problem": 1' + "0" * 5000 + "}", '{"a": 1} {"a": 1}'),
)
VALUES: tuple[Any, ...] = (*ODD, 10**400, "array([1])", "[1, 2", "{'a':", "٣", "1e999", "9" * 5000, "def f(:", "#### ")


def damage_rows(rng: random.Random, make: Callable[[int], dict[str, Any]], form: str, count: int = 12) -> Damaged:
    """A file of which one row is bad: in a value, a column, or (where it is text) as a line."""
    rows, bad = [make(number) for number in range(count)], rng.randrange(count)
    if rng.random() < 0.3 and form in LOOSE:
        line = rng.choice(LINES)
        lines = [json.dumps(row) for row in rows]
        lines[bad] = line
        text = "[" + ",\n".join(lines) + "]" if form == "json" else "\n".join(lines) + "\n"
        alone = form != "json" and line != "\0" and (bad or line[0] != "[")  # which may say what all of it is
        return Damaged("line", f"data.{form}", pack(text.encode(), form), bad + 1 if alone else None)
    row, name = rows[bad], rng.choice(list(rows[bad]))
    kind = rng.choice(("value", "value", "value", "raw", "gone", "column"))
    if kind == "gone":
        del row[name]
    elif kind == "column":
        row[rng.choice(("x", "", "problem", "answer", "messages", "id", "test_imports", "equation_prefix"))] = (
            rng.choice(ODD)
        )
    elif kind == "raw" and form in LOOSE:
        row[name] = "RAW"
    else:
        row[name] = copy.deepcopy(rng.choice(VALUES))
    alone = form in LOOSE and (kind, form) != ("raw", "json")  # a list is read whole
    return Damaged(kind, f"data.{form}", write_rows(rng, rows, form), bad + 1 if alone else None)


def write_rows(rng: random.Random, rows: list[dict[str, Any]], form: str) -> bytes:
    """The rows as a file; values that a format cannot hold as texts."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if form in ("csv", "tsv"):
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t" if form == "tsv" else ",")
        writer.writerows([names, *([row.get(name) for name in names] for row in rows)])
        return text.getvalue().encode(errors="surrogatepass")
    if form in ("parquet", "arrow"):
        return write_table(names, rows, form)
    raw = rng.choice(
        ("1" * 5000, "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000, "NaN", "-Infinity", '"\\ud800"')
    )
    lines = [json.dumps(row).replace('"RAW"', raw) for row in rows]
    text = "[" + ",\n".join(lines) + "]" if form == "json" else "\n".join(lines) + "\n"
    return pack(text.encode(), form)


def write_table(names: list[str], rows: list[dict[str, Any]], form: str) -> bytes:
    """A Parquet or an Arrow file; a column of several types is one of texts."""
    import pyarrow
    import pyarrow.parquet

    columns = {}
    for name in names:
        values = [None if "{}" in repr(row.get(name)) else row.get(name) for row in rows]  # which Parquet has not
        try:
            columns[name] = pyarrow.array(values)
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
            columns[name] = pyarrow.array([None if v is None else ascii(v) for v in values])
    table, sink = pyarrow.table(columns), io.BytesIO()
    if form == "parquet":
        pyarrow.parquet.write_table(table, sink)
    else:
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


def damage_file(rng: random.Random, make: Callable[[int], dict[str, Any]], form: str) -> Damaged:
    """A file whose bytes are damaged somewhere."""
    data = write_rows(rng, [make(number) for number in range(12)], form)
    kind, changed = mutate_text(rng, data)
    if form == "jsonl.gz" and rng.random() < 0.5:
        kind, changed = f"within: {kind}", gzip.compress(mutate_text(rng, gzip.decompress(data))[1])
    name = rng.choice(
        (f"data.{form}",) * 5 + ("data.jsonl", "data.csv", "data.parquet", "data.arrow", "data", "data.gz")
    )
    return Damaged(kind, name, changed, None)


def pack(data: bytes, form: str) -> bytes:
    """The bytes, compressed where the format is."""
    return gzip.compress(data) if form.endswith(".gz") else data
