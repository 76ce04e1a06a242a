"""Rows of every form in which people have them, and what is wrong with a file said with its place."""

import csv
import gzip
import json
import sys
from types import SimpleNamespace

import pytest

from scorl.errors import UserError
from scorl.tasks.rows import Row, column
from scorl.tasks.sources import read_rows, read_splits

ROWS = [{"problem": "2 + 2?", "answer": 4}, {"problem": "né\u2028 \n3 + 3?", "answer": 6}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def values(path):
    return [row.values for row in read_rows(path)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES.encode()),
        ("a.json", json.dumps(ROWS, indent=2).encode()),
        ("b.json", json.dumps({"version": 1, "data": ROWS}, indent=1).encode()),
        ("c.json", json.dumps({"data": ROWS}).encode()),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("zipped-without-its-ending.jsonl", gzip.compress(LINES.encode(), mtime=0)),
        ("mark.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("windows.jsonl", LINES.replace("\n", "\r\n\r\n").encode()),
    ],
)
def test_json_in_all_its_forms(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert values(tmp_path / name) == ROWS


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t"), ("d.csv.gz", ",")])
def test_csv_with_commas_quotes_and_lines_in_it(tmp_path, name, delimiter):
    rows = [{"problem": 'one, "two";\nthree', "answer": "4"}, {"problem": "x", "answer": "05"}]
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "wt", encoding="utf-8-sig", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    read = read_rows(tmp_path / name)
    assert [row.values for row in read] == rows
    assert [row.where.rpartition(", ")[2] for row in read] == ["line 2", "line 4"]


def test_parquet_and_arrow(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"problem": ["a", "b"], "answer": pa.array([0.1, None], pa.float32())})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table, tmp_path / "without-its-ending")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "without-its-ending", "a.arrow"):
        assert values(tmp_path / name) == [{"problem": "a", "answer": 0.1}, {"problem": "b", "answer": None}]


def save_to_disk(folder, rows):
    """What `Dataset.save_to_disk` writes, as far as it is read."""
    pa = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    parts = []
    for number, row in enumerate(rows):
        table = pa.Table.from_pylist([row])
        name = f"data-{number:05}-of-{len(rows):05}.arrow"
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        parts.append({"filename": name})
    (folder / "state.json").write_text(json.dumps({"_data_files": parts, "_split": "train"}))
    (folder / "dataset_info.json").write_text("{}")


def test_folders_of_save_to_disk(tmp_path):
    save_to_disk(tmp_path / "one", ROWS)
    assert values(tmp_path / "one") == ROWS
    save_to_disk(tmp_path / "two/train", ROWS[:1])
    save_to_disk(tmp_path / "two/test", ROWS[1:])
    (tmp_path / "two/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    splits = read_splits(tmp_path / "two")
    assert {name: [row.values for row in rows] for name, rows in splits.items()} == {
        "train": ROWS[:1],
        "test": ROWS[1:],
    }


@pytest.mark.parametrize("name", ["x" * 300, "\ud800", "a\0b", "nowhere.arrow", None])
def test_a_file_that_no_save_to_disk_names(tmp_path, name):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(UserError):
        read_splits(tmp_path)


def test_folders_by_the_names_of_their_files(tmp_path):
    for name, row in (("train-00000-of-00002", ROWS[0]), ("train-00001-of-00002", ROWS[1]), ("test", ROWS[0])):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / f"data/{name}.jsonl").write_text(json.dumps(row))
    (tmp_path / "README.md").write_text("about")
    splits = read_splits(tmp_path)
    assert {name: len(rows) for name, rows in splits.items()} == {"test": 1, "train": 2}
    assert values(tmp_path) == ROWS


def test_names_on_the_hub(monkeypatch):
    monkeypatch.setattr("scorl.tasks.sources.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"own/data: no such file or folder; .*scorl\[hub\]"):
        read_splits("own/data")
    monkeypatch.setattr("scorl.tasks.sources.find_spec", lambda name: name)
    fake = SimpleNamespace(load_dataset=lambda name, config, split: {"train": ROWS, "test": ROWS[:1]})
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert {name: len(rows) for name, rows in read_splits("own/data").items()} == {"train": 2, "test": 1}
    with pytest.raises(UserError, match=r"data/own\.jsonl: no such file"):
        read_splits("data/own.jsonl")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", LINES.encode("utf-16"), r"a\.jsonl: is UTF-16"),
        ("a.csv", "problem,answer\nx,1\n".encode("utf-16-le"), r"a\.csv: is UTF-16"),
        ("a.jsonl", b'{"problem": "x"}\n{"problem": "caf\xe9"}', r"a\.jsonl, line 2: not UTF-8 \(byte 0xe9\)"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": \n', r"line 3: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', r"line 2: not a JSON object"),
        ("a.json", b'[{"a": 1}, 2]', r"entry 2: not a JSON object"),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:40], r"a\.jsonl\.gz: cannot be read"),
        ("a.csv", b"problem,answer\nx,1,2\n", r"line 2: 3 values for 2 columns: problem, answer"),
        ("a.csv", b'problem,answer\n"x,1\n', r"line 2: not valid CSV"),
        ("a.parquet", b"PAR1", r"not a readable Parquet file"),
        ("a.jsonl", b"BZh91AY", r"is compressed by bzip2; unpack it"),
        ("a.xlsx", b"PK\x03\x04", r"is a zip archive or an Excel file"),
        ("a.csv", b"problem,answer\n", r"the file has no rows"),
        ("a.jsonl", b"\n\n", r"the file has no rows"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=said):
        read_rows(tmp_path / name)


def test_a_dot_leads_into_a_column():
    row = Row({"reward_model": {"ground_truth": "4"}, "a.b": 1, "text": "x"}, "f, line 1")
    assert column(row, "reward_model.ground_truth") == "4"
    assert column(row, "a.b") == 1
    with pytest.raises(UserError, match="line 1: no column 'truth' in 'reward_model'; the columns are: ground_truth"):
        column(row, "reward_model.truth")
    with pytest.raises(UserError, match="no column 'y' in 'text'; the columns are: none, but 'x'"):
        column(row, "text.y")
