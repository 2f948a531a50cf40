"""Files that are damaged, or are something else: one line that names the file and the line, exit code 2, and nothing left."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from tests.small_runs import messages

ROW = b'{"prompt": "a", "n": 1}\n'
ROWS = b"".join(b'{"prompt": "row %d of a few"}\n' % i for i in range(20_000))


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


PACKED = gzip.compress(ROWS, mtime=0)
BAD = {
    # JSON Lines
    "no_json.jsonl": (ROW + b"hello\n", "line 2: is not JSON: Expecting value at character 1"),
    "cut_off.jsonl": (ROW + b'{"prompt": "b', "line 2: is not JSON: Unterminated string"),
    "cut_off_early.jsonl": (ROW + b'{"prompt":', "line 2: is not JSON"),
    "comma.jsonl": (ROW + b'{"prompt": "b",}\n', "line 2: is not JSON"),
    "quotes.jsonl": (ROW + b"{'prompt': 'b'}\n", "line 2: is not JSON"),
    "two_on_a_line.jsonl": (ROW + b'{"prompt": "b"}{"prompt": "c"}\n', "line 2: is not JSON: Extra data"),
    "comma_between.jsonl": (ROW + b'{"prompt": "b"},\n{"prompt": "c"}\n', "line 2: is not JSON: Extra data"),
    "over_two_lines.jsonl": (ROW + b'{"prompt":\n"b"}\n', "line 2: is not JSON"),
    "list.jsonl": (ROW + b"[1, 2]\n", "line 2: is a list, not an object"),
    "number.jsonl": (ROW + b"12\n", "line 2: is a number, not an object"),
    "text.jsonl": (ROW + b'"b"\n', "line 2: is a text, not an object"),
    "last_number.jsonl": (ROW + b"12", "line 2: is a number, not an object"),
    "last_null.jsonl": (ROW + b"null", "line 2: is null, not an object"),
    "null.jsonl": (ROW + b"null\n", "line 2: is null, not an object"),
    "twice.jsonl": (ROW + b'{"prompt": "b", "prompt": "c"}\n', "line 2: has the field 'prompt' twice"),
    "within_twice.jsonl": (ROW + b'{"x": {"a": 1, "a": 2}}\n', "line 2: has the field 'a' twice"),
    "not_utf8.jsonl": (ROW + b'{"prompt": "caf\xe9"}\n', "line 2: is not UTF-8: invalid continuation byte at byte 16"),
    "name_not_utf8.jsonl": (ROW + b'{"caf\xe9": "b"}\n', "line 2: is not UTF-8"),
    "surrogate.jsonl": (ROW + b'{"prompt": "\\ud800"}\n', r"line 2: has half of a surrogate pair (\ud800)"),
    "low_surrogate.jsonl": (ROW + b'{"prompt": "\\udc00x"}\n', r"line 2: has half of a surrogate pair (\udc00)"),
    "nul.jsonl": (ROW + b'{"prompt": "a\0b"}\n', "line 2: is not JSON: Invalid control character"),
    "nul_line.jsonl": (ROW + b"\0\0\0\n", "line 2: is not JSON"),
    "tab.jsonl": (ROW + b'{"prompt": "a\tb"}\n', "line 2: is not JSON: Invalid control character"),
    "large_whole.jsonl": (ROW + b'{"n": 18446744073709551616}\n', "line 2: has a whole number of more than 64 bits"),
    "huge_whole.jsonl": (ROW + b'{"n": ' + b"9" * 6000 + b"}\n", "line 2: has a whole number of more than 64 bits"),
    "large_float.jsonl": (ROW + b'{"n": 1e999}\n', "line 2: has the number 1e999, which is too large"),
    "inexact.jsonl": (
        b'{"n": 9007199254740993}\n{"n": 0.5}\n', "line 1: 'n' is the whole number 9007199254740993, which is not exact",
    ),
    "deep.jsonl": (ROW + b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "line 2: is nested in more than 64 levels"),
    "deep_objects.jsonl": (
        ROW + b'{"x": ' + b'{"x":' * 100_000 + b"1" + b"}" * 100_001 + b"\n", "line 2: is nested in more than 64 levels",
    ),
    "rather_deep.jsonl": (ROW + b'{"x": ' + b"[" * 80 + b"]" * 80 + b"}\n", "line 2: 'x' is nested in more than 64 levels"),
    "mixed.jsonl": (ROW + b'{"n": "two"}\n', "line 2: 'n' is text, and a whole number before it; write all with one type"),
    "mixed_list.jsonl": (ROW + b'{"x": [1, "b"]}\n', "line 2: 'x[]' is text, and a whole number before it"),
    "mixed_object.jsonl": (
        b'{"x": {"y": [{"z": true}]}}\n{"x": {"y": [{"z": 0}]}}\n', "line 2: 'x.y[].z' is a whole number, and true or false",
    ),
    "empty.jsonl": (b"", "no row has a field"),
    "blank.jsonl": (b"\n \n\r\n", "no row has a field"),
    "no_fields.jsonl": (b"{}\n{}\n", "no row has a field"),
    "many_fields.jsonl": (
        b"".join(b'{"prompt": "a", "x": {"%d": 1}}\n' % i for i in range(3000)), "'x' has 3,000 fields in all rows together",
    ),
    # JSON
    "cut_off.json": (b'[{"prompt": "a"},\n {"prompt": "b"', "line 2: the file is cut off within a value"),
    "no_end.json": (b'[{"prompt": "a"},\n{"prompt": "b"}\n', "the list does not end: the file is cut off"),
    "no_comma.json": (b'[{"prompt": "a"}\n{"prompt": "b"}]', "line 2: is not JSON: a comma or ] is missing"),
    "end.json": (b'[{"prompt": "a"}]\n]', "line 2: there is something after the end of the list"),
    "comma.json": (b'[{"prompt": "a"},]', "line 1: is not JSON"),
    "items.json": (b'[{"prompt": "a"},\n\n3]', "line 3: is a number, not an object"),
    "not_utf8.json": (b'[{"prompt": "a"},\n{"prompt": "caf\xe9"}]', "line 2: is not UTF-8: invalid continuation byte"),
    "laid_out.json": (b'{\n  "prompt": "a"\n}\n{\n  "prompt": b\n}\n', "line 5: is not JSON: Expecting value"),
    "deep.json": (b'[{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]", "line 1: is nested"),
    # CSV
    "short.csv": (b"prompt,n\na,1\nb\n", "line 3: has 1 value for 2 columns"),
    "long.csv": (b'prompt,n\n"a\nb",1\nc, d,2\n', "line 4: has 3 values for 2 columns; a value with ',' in it needs quotes"),
    "open_quote.csv": (b'prompt,n\na,1\n"b,2\nc,3\n', "line 3: a quote that opens in this row is not closed before"),
    "quote_within.csv": (b'prompt,n\na,1\n"b" c,2\n', "line 3: is not CSV"),
    "header_twice.csv": (b"prompt,n,prompt\na,1,b\n", "line 1: names the column 'prompt' twice"),
    "returns.csv": (b"prompt,n\ra,1\rb,2\r", r"line 1: has a carriage return that ends no line and is not in quotes"),
    "columns.csv": (
        b",".join(b"c%d" % i for i in range(2500)) + b"\n", "columns.csv: the rows have 2,500 columns, and 2,000 are read",
    ),
    "not_utf8.csv": (b"prompt,n\na,1\ncaf\xe9,2\n", "line 3: is not UTF-8"),
    "empty.csv": (b"", "is empty: the first line has to name the columns"),
    # text
    "not_utf8.txt": (b"one\ncaf\xe9\n", "line 2: is not UTF-8: unexpected end of data at byte 4"),
    # packed
    "cut_off.jsonl.gz": (PACKED[: len(PACKED) // 2], "its gzip data are damaged or cut off (Truncated compressed stream)"),
    "no_trailer.jsonl.gz": (PACKED[:-4], "its gzip data are damaged or cut off"),
    "flipped.jsonl.gz": (flipped(PACKED, len(PACKED) - 6), "its gzip data are damaged or cut off"),
    "junk.jsonl.gz": (PACKED + b"junk", "its gzip data are damaged or cut off"),
    "cut_off.jsonl.zst": (zstd(ROWS)[:-20], "its zstd data are damaged or cut off"),
    "cut_off.jsonl.bz2": (bz2.compress(ROWS)[:-20], "its bz2 data are damaged or cut off"),
    "cut_off.jsonl.xz": (lzma.compress(ROWS)[:-20], "its xz data are damaged or cut off"),
    # something else
    "spreadsheet.csv": (b"PK\x03\x04" + b"\0" * 100, "is a zip archive or a spreadsheet"),
    "table.orc": (b"ORC\x1a\x00\x00" + b"\0" * 100, "is an ORC file: write it as Parquet"),
    "program.jsonl": (b"\x7fELF" + b"\0" * 100, "is a program"),
    "what.data": (b"what is this?\n", "neither its name nor its first line says which format it has"),
    "utf16.jsonl": (('\ufeff{"prompt": "a"}\n').encode("utf-16-le")[:-1], "is not utf-16-le: truncated data"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_one_line_and_nothing_is_left(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, told = BAD[name]
    (tmp_path / name).write_bytes(content)
    assert main(["import", str(tmp_path / name), str(tmp_path / "out.parquet")]) == 2
    out, err = capsys.readouterr()
    (line,) = messages(err)
    assert out == "" and line.startswith("promptmill: ") and name in line and told in line, err
    assert [path.name for path in tmp_path.iterdir()] == [name]


SKIPPED = [name for name, (_, told) in BAD.items() if re.match(r"line \d+: (is|has) ", told) and ".csv" not in name
           and not name.endswith(".json")]  # fmt: skip
"""Those of whose lines the others are of use."""


@pytest.mark.parametrize(
    "name", [name for name in SKIPPED if "prompt" in repr(BAD[name][0][:40]) and "deep.j" not in name]
)
def test_the_other_lines_are_imported_where_that_is_asked_for(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(BAD[name][0] + b'\n{"prompt": "last"}\n')
    assert main(["import", str(tmp_path / name), str(tmp_path / "out.parquet"), "on_bad_line=skip"]) == 0
    out, err = capsys.readouterr()
    left_out = 2 if name in ("over_two_lines.jsonl",) else 1
    assert re.search(rf"\b{left_out} lines? left out\b", out), out
    assert err.count("WARNING left out: ") == left_out
    prompts = pq.read_table(tmp_path / "out.parquet")["prompt"].to_pylist()
    assert prompts[0] == "a" and prompts[-1] == "last"


def test_bad_rows_of_csv_and_bad_lines_of_text_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.csv").write_bytes(b'prompt,n\na,1\nb\n"c" d,2\n\ne,3\n')
    assert main(["import", str(tmp_path / "x.csv"), str(tmp_path / "csv.parquet"), "on_bad_line=skip"]) == 0
    assert "2 lines left out" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "csv.parquet").to_pylist() == [{"prompt": "a", "n": "1"}, {"prompt": "e", "n": "3"}]
    (tmp_path / "x.txt").write_bytes(b"a\ncaf\xe9\nb\n")
    assert main(["import", str(tmp_path / "x.txt"), str(tmp_path / "txt.parquet"), "on_bad_line=skip"]) == 0
    assert pq.read_table(tmp_path / "txt.parquet").to_pylist() == [{"prompt": "a"}, {"prompt": "b"}]


def test_many_bad_lines_are_counted_and_a_few_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"no\n" * 1000 + ROW)
    assert (
        main(["import", str(tmp_path / "x.jsonl"), str(tmp_path / "x.parquet"), "on_bad_line=skip", "format=jsonl"])
        == 0
    )
    out, err = capsys.readouterr()
    assert "1 row in 1 row group" in out and "1,000 lines left out" in out
    assert len(messages(err)) == 6 and "line 1: is not JSON" in err


def test_a_type_that_changes_far_down_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"prompt": "x" * 1000, "n": i}) for i in range(30_000)]
    lines[25_000] = json.dumps({"prompt": "x", "n": "y"})
    (tmp_path / "x.jsonl").write_text("\n\n".join(lines))
    assert main(["import", str(tmp_path / "x.jsonl"), str(tmp_path / "out.parquet")]) == 2
    (line,) = messages(capsys.readouterr().err)
    assert line.endswith(
        "x.jsonl: line 50001: 'n' is text, and a whole number before it; write all with one type, or keep the column as JSON "
        "text with 'json_columns=[n]'"
    )
    assert not (tmp_path / "out.parquet").exists()


def test_a_number_that_is_not_exact_any_more_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"prompt": "x" * 1000, "n": 2**53 + 1}) for _ in range(80_000)]
    (tmp_path / "x.jsonl").write_text("\n".join([*lines, '{"n": 0.5}\n']))
    assert main(["import", str(tmp_path / "x.jsonl"), str(tmp_path / "out.parquet")]) == 2
    (line,) = messages(capsys.readouterr().err)
    assert "'n' is" in line and str(2**53 + 1) in line and "json_columns=[n]" in line
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]
