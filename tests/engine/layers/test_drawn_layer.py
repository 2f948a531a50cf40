"""The weight that checks are made with: as the model's is, but for its numbers."""

from __future__ import annotations

import pytest
import torch

from pipeline.engine.layers.drawn_layer import DISTINCT, DrawnLayer

SHAPES = [(3, 2), (1, 1), (48, 40), (1088, 64), (1089, 64), (50257, 16), (600, 8192)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_like_the_models(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight, bias = torch.zeros(shape, dtype=dtype), torch.zeros(shape[0], dtype=dtype)
    for given in (weight, weight.t().contiguous().t()):
        drawn, added = DrawnLayer.like(given, bias).draw()
        assert (drawn.shape, drawn.dtype, drawn.is_contiguous()) == (shape, dtype, given.is_contiguous())
        assert added is not None and (added.shape, added.dtype) == (bias.shape, dtype)
        assert drawn.isfinite().all()
        straight, none = DrawnLayer.like(given, None, turned=False).draw()
        assert straight.is_contiguous() and none is None and torch.equal(straight, drawn)
        sliced, _ = DrawnLayer.like(given, bias, sliced=True).draw()
        assert len(sliced) <= min(1088, shape[0]) and sliced.shape[1] == shape[1]
        assert len(sliced) % 64 == shape[0] % 64 and torch.equal(sliced, drawn[: len(sliced)])


def test_channels_repeat_as_told_and_are_of_the_size_of_weights() -> None:
    drawn, added = DrawnLayer(1000, 256, torch.float32, torch.float32, turned=False).draw()
    assert added is not None
    assert torch.equal(drawn[DISTINCT:], drawn[:-DISTINCT]) and torch.equal(added[DISTINCT:], added[:-DISTINCT])
    assert len(drawn[:DISTINCT].unique(dim=0)) == DISTINCT == len(added[:DISTINCT].unique())
    assert drawn[:2].abs().unique().tolist() == [1 / 16] and len(drawn[0].unique()) == 2
    assert drawn.std().item() == pytest.approx(1 / 16, rel=0.1)


def test_other_layers_have_other_names() -> None:
    weight = torch.zeros(96, 64)
    layers = [
        DrawnLayer.like(w, b)
        for w in (weight, weight[:95], weight[:, :63].contiguous(), weight.bfloat16(), weight.t().contiguous().t())
        for b in (None, torch.zeros(len(w)), torch.zeros(len(w)).half())
    ]
    assert len({str(layer) for layer in layers}) == len(layers) == 15
    assert str(layers[0]) == "96x64 float32 bias None straight"
