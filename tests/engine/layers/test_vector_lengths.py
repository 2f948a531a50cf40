"""The C sources compiled for vectors of other lengths than this processor's: every number has the same bits."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess

import pytest
import torch

from pipeline.engine import native
from pipeline.engine.layers.int8 import CompiledInt8Product
from pipeline.engine.native.attention import NativeStep
from pipeline.engine.native.elementwise import activate
from pipeline.engine.native.product import Float32Layer
from pipeline.engine.native.sampler import choose_tokens, measure_tokens
from tests.engine.small.attention_cases import DIMS, DTYPES, X86, make_case, needs_kernels
from tests.engine.small.sample_layers import SHAPES, rows_for, weight_of
from tests.engine.small.sampling_cases import RULES, rows_of

COMPILER = shutil.which(os.environ.get("CC") or "cc")
FLAGS = ["-O2", "-DUNROLL=2", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
pytestmark = [needs_kernels, pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")]


@pytest.fixture(scope="module", params=[4, pytest.param(8, marks=pytest.mark.slow), 16])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels for vectors of so many numbers, by the instructions that every processor has for which there are kernels."""
    folder, march = tmp_path_factory.mktemp("native"), ["-march=x86-64-v3"] if X86 else []
    own = [
        *march,
        f"-I{native.INCLUDE}",
        f"-DLANES={request.param}",
        f'-DPROMPTMILL_SOURCES="{native.digest_of_sources()}"',
    ]
    objects = []
    for source in sorted(native.SOURCES.glob("*.c")):
        contract = "off" if source.name.startswith("product_int8") else "fast"
        objects.append(str(folder / f"{source.stem}.o"))
        command = [str(COMPILER), *FLAGS, *own, f"-ffp-contract={contract}", "-c", str(source), "-o", objects[-1]]
        subprocess.run(command, check=True, timeout=900)
    subprocess.run(
        [str(COMPILER), "-shared", *objects, "-lm", "-o", str(folder / "kernels.so")], check=True, timeout=900
    )
    return native._loaded(folder / "kernels.so")


@functools.cache
def expected() -> list[torch.Tensor]:
    """What this processor's own kernels give."""
    return numbers()


def numbers() -> list[torch.Tensor]:
    """What every kernel gives, for shapes with ends that fill no vector."""
    found = []
    for shape in [*SHAPES, (33, 1500), (7, 5)]:
        weight, bias = weight_of(shape), torch.linspace(-1, 1, shape[0])
        for product in (Float32Layer(weight, bias), Float32Layer(weight.t().contiguous().t(), None)):
            found += [product(rows_for(shape, rows)) for rows in (1, 2, 5, 6, 7, 13, 14, 15, 60)]
        halved = Float32Layer(weight.bfloat16(), None)
        found += [halved(rows_for(shape, rows).bfloat16()) for rows in (2, 6, 13, 60)]
        int8 = CompiledInt8Product(weight, bias)
        found += [int8(rows_for(shape, rows)) for rows in (1, 5, 7, 14, 60)]
    for dim in DIMS:
        for dtype in DTYPES:
            case = make_case(dim, [(70, 1), (3, 40), (0, 9), (31, 1)], (6, 2), dim, dtype)
            step = NativeStep(torch.tensor(case.spots, dtype=torch.int32), case.tables, 2, dim, dtype)
            keys, values = case.keys.clone(), case.values.clone()
            found += [step.attend(case.q, case.k, case.v, keys, values, case.scale), keys, values]
    for vocabulary in (5, 100, 1003, 50_257):
        logits = 4 * torch.randn(6, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
        logits[0, 3], logits[1, 4], logits[2, :3] = torch.inf, torch.nan, -torch.inf
        for rule in [{"temperature": 0.0}, *RULES]:
            rows = rows_of(6, vocabulary, **rule)
            rules = (
                rows.greedy,
                rows.temperature,
                rows.top_p,
                rows.log_min_p,
                rows.top_k.clamp(max=vocabulary),
                rows.uniform,
            )
            found += choose_tokens(logits, *rules)
        found += measure_tokens(logits, torch.arange(6) % vocabulary)
    found += [activate(3 * torch.randn(7, 131, generator=torch.Generator().manual_seed(0)), kind) for kind in (0, 1)]
    return found


def test_vectors_of_any_length_give_the_same_bits(other: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    own = expected()
    monkeypatch.setattr(native, "_found", lambda: ("other", other))
    for one, two in zip(own, numbers(), strict=True):
        assert torch.equal(one.contiguous().view(torch.uint8), two.contiguous().view(torch.uint8))
