"""The compiled products for instructions that few processors have: AVX512_BF16's, and the tiles of AMX.

Where a processor has them, their libraries are run. Everywhere else that has a C compiler, the same sources are run with the
instruction alone written out in C (`emulated.h`), so what is not tested there is the instruction itself.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.engine import native
from pipeline.engine.layers.int8 import CompiledInt8Product, Int8Product
from pipeline.engine.layers.linear import KERNELS
from pipeline.engine.layers.linear_check import _cancelling, is_batch_invariant
from pipeline.engine.model.exchange import exchange
from pipeline.engine.native.product import Bfloat16Layer
from tests.engine.small.attention_cases import AMX, X86

COMPILER = shutil.which(os.environ.get("CC") or "cc")
FLAGS = ["-O2", "-DUNROLL=2", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
EMULATED = {
    "pairs": ["-DPROMPTMILL_EMULATED_PAIRS"], "wide-pairs": ["-DPROMPTMILL_EMULATED_PAIRS", "-DLANES=16"],
    "tiles": ["-DPROMPTMILL_EMULATED_TILES", "-DLANES=16"],
}  # fmt: skip
SHAPES = [(33, 1), (1, 2), (40, 3), (32, 31), (16, 32), (17, 33), (64, 63), (31, 64), (100, 65), (70, 513), (33, 1300)]
"""[N, K] that fill no pair, tile, stretch or panel, that fill them just, and that are done in parts."""
DEPTH = 1024
"""Elements that pairs sum before the parts are added up, as in product.h."""


def compiled(folder: Path, flags: list[str]) -> ctypes.CDLL:
    """The products for bfloat16 and int8, compiled with some flags."""
    objects = []
    for source in sorted(native.SOURCES.glob("product_[bi]*.c")):
        contract = "off" if source.name.startswith("product_int8") else "fast"
        objects.append(str(folder / f"{source.stem}.o"))
        march = ["-march=x86-64-v3"] if X86 else []
        command = [str(COMPILER), *FLAGS, *march, *flags, f"-I{native.INCLUDE}", f"-ffp-contract={contract}"]
        subprocess.run([*command, "-c", str(source), "-o", objects[-1]], check=True, timeout=900)
    file = folder / "products.so"
    subprocess.run([str(COMPILER), "-shared", *objects, "-lm", "-o", str(file)], check=True, timeout=900)
    torch.get_num_threads()
    ctypes.CDLL(str(native._openmp()), mode=ctypes.RTLD_GLOBAL)
    found = ctypes.CDLL(str(file))
    for name, types in (native._FUNCTIONS | native._BFLOAT16).items():
        if hasattr(found, name):
            getattr(found, name).argtypes = [native._TYPES[t] for t in types]
    return found


@pytest.fixture(scope="module", params=[*EMULATED, "v4-bf16", "v4-amx"])
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Compute with the instructions, or with what stands for them, and return how: `pairs` or `tiles`."""
    how, patch = request.param, pytest.MonkeyPatch()
    if how in EMULATED:
        if COMPILER is None or native._openmp() is None:
            pytest.skip("there is no C compiler here, or torch has no OpenMP")
        library = compiled(tmp_path_factory.mktemp("native"), EMULATED[how])
        patch.setattr(native, "_found", lambda: (how, library))
    elif how not in native.levels():
        pytest.skip("this processor lacks the instructions")
    else:
        native.use(f"native-{how}")
    yield "pairs" if "pairs" in how or how == "v4-bf16" else "tiles"
    patch.undo()
    native.use("auto")


def fused(sums: Any, x: Any, w: Any) -> Any:
    """sums + x · wᵀ for a column of each, rounded to float32 once: float64 holds the exact sum of the numbers drawn here."""
    return (sums.astype(np.float64) + np.outer(x, w)).astype(np.float32)


def by_the_manual(way: str, x: torch.Tensor, weight: torch.Tensor) -> Any:
    """Sums in float32 in the order in which Intel's manual says that the instructions take them."""
    rows, channels = (t.double().numpy() for t in (x, weight))
    width = rows.shape[1] + rows.shape[1] % 2
    rows, channels = (np.pad(t, ((0, 0), (0, width - t.shape[1]))) for t in (rows, channels))
    zeros, total = np.zeros((len(rows), len(channels)), np.float32), None
    size = DEPTH if way == "pairs" else 32
    for start, stop in pairwise([*range(0, width, size), width]):
        if way == "pairs":
            part = zeros
            for k in range(start, stop, 2):
                part = fused(fused(part, rows[:, k + 1], channels[:, k + 1]), rows[:, k], channels[:, k])
        else:
            lower = upper = zeros
            for k in range(start, stop, 2):
                lower = fused(lower, rows[:, k], channels[:, k])
                upper = fused(upper, rows[:, k + 1], channels[:, k + 1])
            part = lower + upper
        total = part if total is None else total + part
    return total


def drawn(shape: tuple[int, int], rows: int = 70) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(weight, bias, rows) in bfloat16."""
    draw = torch.Generator().manual_seed(shape[0] + shape[1])
    made = (torch.randn(size, generator=draw) for size in (shape, shape[:1], (rows, shape[1])))
    weight, bias, x = (t.bfloat16() for t in made)
    return weight, bias, x


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_in_the_instructions_order(way: str, shape: tuple[int, int]) -> None:
    """The very bits: with factors whose products cancel, so that nothing hides how the sums were rounded."""
    x, weight = _cancelling(torch.zeros(shape, dtype=torch.bfloat16))
    expected = torch.from_numpy(by_the_manual(way, x[:70], weight)).bfloat16()
    assert shape[1] < 64 or expected.count_nonzero() > expected.numel() // 2, "there is something to see"
    assert torch.equal(Bfloat16Layer(weight, None)(x[:70]), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_product_to_the_rounding_of_the_result(way: str, shape: tuple[int, int]) -> None:
    weight, bias, x = drawn(shape)
    exact = torch.addmm(bias.double(), x.double(), weight.double().t())
    lost = 1e-5 * (x.double().abs() @ weight.double().abs().t() + 1)
    for given in (weight, weight.t().contiguous().t()):
        y = Bfloat16Layer(given, bias)(x)
        assert y.dtype == torch.bfloat16 and y.shape == exact.shape
        assert ((y - exact).abs() <= torch.finfo(torch.bfloat16).eps / 2 * exact.abs() + lost).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_rows_bits_are_its_own(way: str, shape: tuple[int, int]) -> None:
    """At every number of rows, in any place, by any number of threads, beside rows that are not finite."""
    weight, bias, x = drawn(shape, 140)
    product = Bfloat16Layer(weight, bias)
    whole = product(x)
    for rows in range(1, 71):
        assert torch.equal(product(x[rows : 2 * rows]), whole[rows : 2 * rows]), rows
    for threads in (2, 3, 4):
        torch.set_num_threads(threads)
        for rows in (1, 15, 16, 17, 31, 33, 65, 140):
            assert torch.equal(product(x[:rows]), whole[:rows]), (rows, threads)
    x[3], x[50] = torch.nan, torch.inf
    among = product(x)
    apart = [row for row in range(140) if row not in (3, 50)]
    assert torch.equal(among[apart], whole[apart]) and not among[[3, 50]].isfinite().any()


def test_subnormal_numbers_count_as_zeros(way: str) -> None:
    weight, x = torch.ones(5, 6).bfloat16(), torch.full((2, 6), 1e-39).bfloat16()
    assert x.ne(0).all() and Bfloat16Layer(weight, None)(x).eq(0).all()
    x[1] = 1e-30
    assert Bfloat16Layer(weight, None)(x)[1].eq(torch.tensor(6e-30).bfloat16()).all()
    small = torch.full((2, 6), 1e-20).bfloat16()
    assert Bfloat16Layer(small[:1], None)(small).eq(0).all(), "so do results"


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", [(300, 96), (70, 1300)], ids=str)
def test_the_check_at_loading_passes_it(way: str, shape: tuple[int, int], turned: bool) -> None:
    weight, bias, _ = drawn(shape)
    weight = weight / shape[1] ** 0.5
    assert is_batch_invariant(KERNELS["compiled-bfloat16"], weight.t().contiguous().t() if turned else weight, bias)
    assert is_batch_invariant(KERNELS["int8-compiled"], weight, bias, exact=KERNELS["int8-torch"])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_has_the_bits_of_every_other_way(way: str, shape: tuple[int, int]) -> None:
    weight, bias, x = (t.float() for t in drawn(shape, 140))
    x[7], x[9], x[11] = 3, -3, weight[0].sign()
    product, expected = CompiledInt8Product(weight, bias), Int8Product(weight, bias)(x)
    for rows in range(1, 71):
        assert torch.equal(product(x[rows : 2 * rows]), expected[rows : 2 * rows]), rows
    torch.set_num_threads(3)
    for rows in (1, 16, 17, 33, 140):
        assert torch.equal(product(x[:rows]), expected[:rows]), rows


def model() -> nn.Module:
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=320, n_embd=64, n_layer=1, n_head=2, n_positions=32)
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


def test_a_model_in_bfloat16_takes_it(way: str) -> None:
    assert exchange(model().bfloat16(), 32) == ({"compiled-bfloat16": 5}, True)


def test_other_types_and_other_levels_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it, without = SimpleNamespace(product_bfloat16=None), SimpleNamespace()
    for library, dtype in ((with_it, torch.float32), (without, torch.bfloat16)):
        monkeypatch.setattr(native, "_found", lambda library=library: ("some", library))
        with pytest.raises(RuntimeError, match="no compiled product with instructions for bfloat16"):
            Bfloat16Layer(torch.zeros(2, 2, dtype=dtype), None)


@pytest.mark.skipif(not (native.FOLDER / "_native-v4-amx.so").exists(), reason="that level was not compiled here")
def test_the_system_is_asked_for_tiles() -> None:
    """Where the processor has none, it refuses."""
    asked = ctypes.CDLL(str(native.FOLDER / "_native-v4-amx.so")).prepare()
    assert asked == 1 if not AMX else asked in (0, 1)


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")
def test_a_level_whose_tiles_are_refused_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = f'int prepare(void) {{ return 1; }}\nconst char *built_from(void) {{ return "{native.digest_of_sources()}"; }}\n'
    (tmp_path / "refused.c").write_text(text)
    file = tmp_path / "_native-best.so"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", str(tmp_path / "refused.c"), "-o", str(file)], check=True)
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.setattr(native, "levels", lambda: ["best"])
    native._found.cache_clear()
    assert native.library() is None
    assert "_native-best.so is not used: the system does not let this process use the tiles of AMX" in caplog.text
    monkeypatch.undo()
    native._found.cache_clear()
