from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import ConfigurationError, InputRefused
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.columns import check_columns, used_columns


def check(option: str, kind: pa.DataType) -> None:
    values: dict[str, Any] = {option: ["x"] if option == "keep_columns" else "x"}
    if option not in ("prompt_column", "token_ids_column"):
        values["prompt_column"] = "p"
    config = SourceConfig(path="p", **values)
    check_columns(config, pa.schema([("p", pa.string()), ("x", kind)]))


TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.large_string())]
ALLOWED = {
    "prompt_column": TEXTS,
    "token_ids_column": [
        pa.list_(pa.int64()),
        pa.large_list(pa.uint8()),
        pa.list_(pa.int32(), 3),
        pa.list_view(pa.int16()),
    ],
    "id_column": [*TEXTS, pa.int8(), pa.uint64()],
    "sampling_column": [*TEXTS, pa.struct([("seed", pa.int64())])],
    "keep_columns": [
        *TEXTS,
        pa.binary(),
        pa.map_(pa.string(), pa.int8()),
        pa.decimal128(5, 2),
        pa.timestamp("ns"),
        pa.uuid(),
        pa.list_(pa.uuid()),
    ],
}
REFUSED: dict[str, list[pa.DataType]] = {
    "prompt_column": [pa.int64(), pa.binary(), pa.list_(pa.string())],
    "token_ids_column": [pa.list_(pa.float32()), pa.int64(), pa.string()],
    "id_column": [pa.float64(), pa.bool_(), pa.binary(), pa.struct([("a", pa.int8())])],
    "sampling_column": [pa.int64(), pa.map_(pa.string(), pa.int8())],
    "keep_columns": [pa.bool8(), pa.list_(pa.bool8()), pa.struct([("a", pa.bool8())])],
}


@pytest.mark.parametrize(("option", "kind"), [(o, k) for o, kinds in ALLOWED.items() for k in kinds], ids=str)
def test_types_that_can_be_used(option: str, kind: pa.DataType) -> None:
    check(option, kind)


@pytest.mark.parametrize(("option", "kind"), [(o, k) for o, kinds in REFUSED.items() for k in kinds], ids=str)
def test_fault_2_a_wrong_type_is_refused_with_the_columns_there_are(option: str, kind: pa.DataType) -> None:
    with pytest.raises(InputRefused) as refused:
        check(option, kind)
    text = str(refused.value)
    assert text.startswith(f"source.{option}: column 'x' is ")
    assert "there are: " in text
    assert "x (" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_column": "promt"}, "source.prompt_column: there is no column 'promt'; did you mean 'prompt'?"),
        ({"template": "{{ promptt }}"}, "source.template: there is no column 'promptt'; did you mean 'prompt'?"),
        ({"token_ids_column": "x"}, "source.token_ids_column: there is no column 'x'; there are: prompt (string)"),
        ({"id_column": "ID"}, "source.id_column: there is no column 'ID'; did you mean 'id'?"),
        ({"keep_columns": ["x"]}, "source.keep_columns: there is no column 'x';"),
        ({"sampling_column": "x"}, "source.sampling_column: there is no column 'x';"),
    ],
)
def test_fault_2_a_missing_column_is_refused_with_the_columns_there_are(options: dict[str, Any], message: str) -> None:
    columns: dict[str, pa.DataType] = {"prompt": pa.string(), "id": pa.int64()}
    with pytest.raises(InputRefused) as refused:
        check_columns(SourceConfig(path="p", **options), pa.schema(columns))
    assert str(refused.value).startswith(message)
    assert "prompt (string), id (int64)" in str(refused.value)


def test_an_extension_type_unknown_here_is_refused_too() -> None:
    field: Any = pa.field("x", pa.binary(), metadata={b"ARROW:extension:name": b"evil.pickle"})
    with pytest.raises(InputRefused, match=r"extension<evil\.pickle>"):
        check_columns(SourceConfig(path="p", keep_columns=["x"]), pa.schema([pa.field("prompt", pa.string()), field]))


def test_a_name_that_occurs_twice_is_refused() -> None:
    with pytest.raises(InputRefused, match="2 columns with the name 'prompt'"):
        check_columns(SourceConfig(path="p"), pa.schema([("prompt", pa.string()), ("prompt", pa.string())]))


def test_each_used_column_is_named_once() -> None:
    config = SourceConfig(
        path="p", template="{{ b }}{{ a }}", id_column="a", sampling_column="s", keep_columns=["k", "b"]
    )
    assert used_columns(config) == ["a", "b", "s", "k"]


@pytest.mark.parametrize("option", ["template", "id_template", "system_prompt"])
def test_a_template_that_does_not_compile_is_named_by_its_option(option: str) -> None:
    options: dict[str, Any] = {option: "line 1\n{{ x"}
    config = SourceConfig(path="p", chat=True, **options)
    with pytest.raises(ConfigurationError, match=rf"^source\.{option}: line 2: "):
        used_columns(config)
