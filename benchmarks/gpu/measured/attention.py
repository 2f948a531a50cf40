"""The attention kernel by itself, beside torch's over a dense cache with a mask: time, and live bytes per second.

It does not know the engine around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.device import Run
from benchmarks.gpu.measured.ceilings import bandwidth
from benchmarks.gpu.measured.roofline import token_bytes
from benchmarks.gpu.scale import FULL
from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.cache.kv_cache import key_scales, side_shapes, value_scales

LENGTHS = (100, 500)
INNER = 20
"""Runs in one CUDA graph."""
LIMIT = 2e-2
"""‖ours - torch's‖ / ‖torch's‖ in bfloat16."""


@dataclass(frozen=True, slots=True)
class Case:
    """One layer's decoding step of S sequences.

    Attributes:
        q: Queries of the new tokens, [S, H, D].
        k: Their keys, likewise.
        v: Their values.
        keys: A layer's filled cache, as `KVCache` has it.
        values: Likewise.
        lengths: Positions of each sequence, the new token's included: [S].
        tables: Block numbers, [S, W].
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    lengths: torch.Tensor
    tables: torch.Tensor

    @property
    def scale(self) -> float:
        """Factor on the scores."""
        return float(self.q.shape[-1] ** -0.5)

    def dense(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values as [S, H, W · BLOCK, D], in the type of the queries."""
        dim = self.q.shape[-1]
        keys, values = self.keys[self.tables][..., :dim, :], self.values[self.tables][..., :BLOCK, :dim]
        if self.keys.dtype == torch.int8:
            keys = keys * key_scales(self.keys)[self.tables][..., None, :]
            values = values * value_scales(self.values)[self.tables][..., None]
        keys, values = keys.permute(0, 2, 1, 4, 3).flatten(2, 3), values.transpose(1, 2).flatten(2, 3)
        return keys.to(self.q.dtype).contiguous(), values.to(self.q.dtype).contiguous()


def make_case(seqs: int, heads: int, dim: int, lengths: tuple[int, int], dtype: torch.dtype, device: str) -> Case:
    """Random numbers everywhere, blocks in no order."""
    draw = torch.Generator().manual_seed(0)
    length = torch.randint(lengths[0], lengths[1] + 1, (seqs,), generator=draw)
    width = -(-lengths[1] // BLOCK)
    tables = torch.randperm(seqs * width, generator=draw).view(seqs, width)
    torch.manual_seed(0)
    q, k, v = (torch.randn(seqs, heads, dim, device=device).to(torch.bfloat16) for _ in range(3))
    sides: list[torch.Tensor] = []
    for shape, scales in zip(side_shapes(heads, dim, dtype), (key_scales, value_scales), strict=True):
        side = torch.randn(seqs * width, *shape, device=device)
        if dtype == torch.int8:
            side = (side * 40).clamp_(-127, 127).to(torch.int8)
            scales(side).fill_(1 / 40)
        sides.append(side.to(dtype))
    return Case(q, k, v, sides[0], sides[1], length.to(device), tables.to(device))


def micro(bench: Bench) -> None:
    """gpt2-large's attention at lengths of 300 ± 200, or tiny."""
    from pipeline.engine.gpu.attention import SPLIT, DeviceStep

    bench.close_all()
    seqs, heads, dim, lengths = (256, 20, 64, LENGTHS) if bench.scale is FULL else (3, 2, 64, (5, 70))
    speed, kind = bandwidth(bench), bench.device.kind
    for dtype in (torch.bfloat16, torch.int8):
        case = make_case(seqs, heads, dim, lengths, dtype, kind)
        step = DeviceStep(
            slots=torch.arange(seqs, dtype=torch.int32, device=kind), positions=(case.lengths - 1).int(),
            decodes=torch.tensor([seqs], dtype=torch.int32, device=kind),
            chunks=torch.zeros(0, 4, dtype=torch.int32, device=kind), tables=case.tables.int(), rows=seqs,
            splits=-(-case.tables.shape[1] // SPLIT),
        )  # fmt: skip
        ours = partial(step.attend, case.q, case.k, case.v, case.keys, case.values, case.scale)
        found = ours()
        expected = partial(masked, case)
        name = str(dtype).removeprefix("torch.")
        error = float((found.float() - expected().float()).norm() / expected().float().norm())
        bench.report.row(f"{name} against torch's", error, "error", f"≤ {LIMIT:g}", error <= LIMIT)
        live = int(case.lengths.sum()) * token_bytes(1, heads, dim, dtype)
        _report(bench, f"promptmill, {name} cache", ours, live, speed)
        if dtype != torch.int8:
            dense = case.dense()
            padding = (
                f"reads {2 * dense[0].numel() * dense[0].element_size() / 1e6:.0f} MB, padded to {dense[0].shape[2]}"
            )
            _report(bench, f"torch's with a mask, {name}", partial(masked, case, dense), live, speed, padding)
            del dense


def masked(case: Case, dense: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
    """The same by torch's own attention over a padded cache: [S, H, D]."""
    keys, values = dense or case.dense()
    mask = torch.arange(keys.shape[2], device=keys.device) < case.lengths[:, None]
    return F.scaled_dot_product_attention(case.q[:, :, None], keys, values, attn_mask=mask[:, None, None])[:, :, 0]


def _report(bench: Bench, name: str, run: Run, live: float, speed: float, note: str = "") -> None:
    inner = INNER if bench.device.kind == "cuda" else 1
    milliseconds = bench.device.milliseconds(bench.device.repeated(run, inner)) / inner
    rate = live / milliseconds * 1e3
    share = f"{100 * rate / speed:.0f} % of the copy bandwidth"
    note = ", ".join(filter(None, [f"{live / 1e6:.0f} MB live", f"{rate / 1e12:.3g} TB/s", share, note]))
    bench.report.row(name, 1e3 * milliseconds, "µs", note)
