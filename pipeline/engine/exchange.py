"""Exchanges the parts of a transformers model whose bits or speed depend on the batch: linears, activations, rotary.

Nothing in it is particular to one family: it goes by the kinds of modules. The model's own code stays as it is.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from transformers.activations import ACT2CLS, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from pipeline.engine.linear import KERNELS, PackedLinear, candidates, choose_kernel
from pipeline.engine.mapped import forget, mapped_ranges
from pipeline.engine.rowwise import RotaryTable, RowwiseActivation

_ACTIVATIONS: tuple[Any, ...] = tuple(
    {entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values()}
    | {nn.GELU, nn.SiLU, nn.ReLU, nn.Tanh, nn.Sigmoid}
)
_LEAVES = (nn.Linear, Conv1D)


def exchange(model: nn.Module, max_len: int, *, int8: bool = False) -> tuple[dict[str, int], bool]:
    """Exchange modules in place, one at a time, so that the peak is the weights plus one layer.

    Args:
        model: A transformers causal language model in evaluation mode.
        max_len: Positions that a rotary table must hold.
        int8: Quantise the linears dynamically.

    Returns:
        (number of linears for each kernel's name, whether every kernel keeps rows apart).
    """
    kernels: dict[str, int] = {}
    chosen: dict[tuple[int, ...], tuple[str, bool]] = {}
    exact = True
    reference = next(p for p in model.parameters() if p.is_floating_point())
    ranges = mapped_ranges()
    users = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    names = candidates(reference.dtype, reference.device)
    # Places, not modules: a list of modules would keep every original weight until the end.
    for parent, attribute in [
        (m, a) for m in model.modules() if not isinstance(m, _LEAVES) for a, _ in m.named_children()
    ]:
        child = getattr(parent, attribute)
        if isinstance(child, nn.Linear | Conv1D):
            weight = child.weight.detach()
            if isinstance(child, Conv1D):
                weight = weight.t().contiguous()
            bias = None if child.bias is None else child.bias.detach().clone()
            shape = tuple(weight.shape)
            if int8:
                name, keeps = "int8", True
            else:
                if shape not in chosen:
                    chosen[shape] = choose_kernel(weight, names)
                name, keeps = chosen[shape]
            exact &= keeps
            kernels[name] = kernels.get(name, 0) + 1
            if name == "fixed-rows":
                weight = weight.clone()  # the only kernel that keeps the weight as it is, which is the file's
            setattr(parent, attribute, PackedLinear(KERNELS[name](weight, bias), shape[1], shape[0]))
            if (
                users[id(child.weight)] == 1
            ):  # a tied weight is still needed, and may have been changed since it was read
                forget(child.weight, ranges)
        elif isinstance(child, NewGELUActivation):
            # the same function in one operation instead of five
            setattr(parent, attribute, RowwiseActivation(nn.GELU(approximate="tanh")))
        elif isinstance(child, _ACTIVATIONS):
            setattr(parent, attribute, RowwiseActivation(child))
        elif "RotaryEmbedding" in type(child).__name__:
            setattr(parent, attribute, RotaryTable(child, max_len, reference))
    return kernels, exact
