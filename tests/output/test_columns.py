"""pandas is left alone by pyarrow where nobody wants it, and is there for who does."""

from __future__ import annotations

from tests.small_runs import python

SPARED = """
import sys
{first}
from pipeline.output.columns import spare_pandas
before = list(sys.meta_path)
spare_pandas()
assert sys.meta_path[: len(before)] == before  # a library may have added one of its own
import pyarrow as pa
array = pa.array([1, None])
assert array.to_pylist() == [1, None]
assert ("pandas" in sys.modules) == {there}
try:
    import pandas
except ModuleNotFoundError:
    sys.exit()  # not installed: what follows is about it
frame = pa.table({{"a": array}}).to_pandas()
assert frame["a"].isna().tolist() == [False, True]
assert pa.array(pandas.Series([1.0, float("nan")])).to_pylist() == [1.0, None]
assert pa.Table.from_pandas(frame).column("a").to_pylist() == [1.0, None]
"""


def test_pandas_is_not_imported_until_a_data_frame_is_asked_for() -> None:
    done = python(SPARED.format(first="", there=False))
    assert done.returncode == 0, done.stderr


def test_pandas_that_has_been_imported_stays() -> None:
    imported = "import importlib.util\nif importlib.util.find_spec('pandas'): import pandas"
    done = python(SPARED.format(first=imported, there="bool(importlib.util.find_spec('pandas'))"))
    assert done.returncode == 0, done.stderr
