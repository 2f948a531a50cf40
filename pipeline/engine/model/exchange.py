"""Patches a transformers model: replaces the parts whose bits or speed depend on the batch: linears, activations, rotary.

It replaces modules by their type and contains nothing for a particular family. The model's own code stays unchanged.
"""

from __future__ import annotations

import ctypes
import logging
from collections import Counter
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2CLS, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from pipeline.engine.layers.activation import RotaryTable, RowwiseActivation
from pipeline.engine.layers.linear import AS_IT_IS, COPY_FIRST, KERNELS, PackedLinear, candidates, choose_kernel
from pipeline.engine.layers.linear_speed import warn_if_slow
from pipeline.engine.layers.verdicts import here
from pipeline.engine.model.files.mapped import forget, mapped_ranges
from pipeline.stages import doing

logger = logging.getLogger(__name__)

_ACTIVATIONS: tuple[Any, ...] = tuple(
    {entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values()}
    | {nn.GELU, nn.SiLU, nn.ReLU, nn.Tanh, nn.Sigmoid}
)
_LEAVES = (nn.Linear, Conv1D)


def exchange(
    model: nn.Module, max_len: int, *, int8: bool = False, deterministic: bool = True
) -> tuple[dict[str, int], bool]:
    """Replace modules in place, one at a time, so that the peak memory is the weights plus one layer.

    Args:
        model: A transformers causal language model in evaluation mode.
        max_len: Positions that a rotary table must hold.
        int8: Quantise the linears dynamically.
        deterministic: Give a row the same bits in every batch; see `candidates`.

    Returns:
        (number of linears for each kernel's name, whether every product with a weight treats rows independently).
    """
    reference = next(p for p in model.parameters() if p.is_floating_point())
    linears = _Linears(model, reference, int8=int8, deterministic=deterministic)
    # Names, not modules: a list of modules would keep every original weight alive until the end.
    places = [(m, a) for m in model.modules() if not isinstance(m, _LEAVES) for a, _ in m.named_children()]
    total, packed = sum(isinstance(module, _LEAVES) for module in model.modules()), 0
    with doing("packing the weights", lambda: f"{packed} of {total} layers"):
        for parent, attribute in places:
            child = getattr(parent, attribute)
            if isinstance(child, nn.Linear | Conv1D):
                setattr(parent, attribute, linears.packed(child))
                del child  # and the original weight with it, if nothing else uses it
                _trim()
                packed += 1
            elif isinstance(child, NewGELUActivation):
                # the same function in one operation instead of five
                setattr(parent, attribute, RowwiseActivation(nn.GELU(approximate="tanh")))
            elif isinstance(child, _ACTIVATIONS):
                setattr(parent, attribute, RowwiseActivation(child))
            elif "RotaryEmbedding" in type(child).__name__:
                setattr(parent, attribute, RotaryTable(child, max_len, reference))
    linears.finish()
    other = _other_products(model)
    if other:
        precision = ", not in int8" if int8 else ""
        logger.warning(
            "%s: %s is not the weight of a linear layer and stays as it is%s", type(model).__name__, other, precision
        )
    apart = deterministic or reference.device.type == "cpu"  # see `candidates`
    return dict(linears.kernels), linears.exact and apart and other is None


class _Linears:
    """Makes a `PackedLinear` of one linear layer after the other.

    Attributes:
        kernels: Number of linears for each kernel's name.
        exact: Whether every kernel so far treats rows independently.
    """

    def __init__(self, model: nn.Module, reference: torch.Tensor, *, int8: bool, deterministic: bool) -> None:
        """Record which weights are shared by modules, and where weight files are mapped."""
        self.kernels: Counter[str] = Counter()
        self.exact = True
        embeddings = getattr(model, "get_output_embeddings", None)
        self._output = embeddings() if embeddings is not None else None
        self._names = {
            output: candidates(reference.dtype, reference.device, int8=int8, output=output, deterministic=deterministic)
            for output in (False, True)
        }
        self._chosen: dict[object, tuple[str, bool]] = {}
        self._largest: tuple[int, int, int, str] = (0, 0, 0, "")  # elements, [N, K], kernel
        self._dtype, self._device, self._verdicts = reference.dtype, reference.device, here()
        self._room = torch.empty(0, dtype=reference.dtype)
        self._ranges = mapped_ranges()
        self._users = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))

    def packed(self, layer: nn.Linear | Conv1D) -> PackedLinear:
        """Pack a layer's weight, and release the original's memory if the file can supply it again."""
        weight = layer.weight.detach()
        if isinstance(layer, Conv1D):
            weight = weight.t()
        bias = None if layer.bias is None else layer.bias.detach().clone()
        names = self._names[layer is self._output]
        key = tuple(weight.shape), weight.dtype, bias is None, weight.is_contiguous(), names[0]
        if key not in self._chosen:
            self._chosen[key] = choose_kernel(weight, bias, names, self._verdicts)
        name, exact = self._chosen[key]
        self._largest = max(self._largest, (weight.numel(), *weight.shape, name))
        self.kernels[name] += 1
        self.exact &= exact
        if name in AS_IT_IS:  # which is the file's
            weight = weight.clone(memory_format=torch.contiguous_format)
        elif name in COPY_FIRST and weight.device.type == "cpu" and not weight.is_contiguous():
            weight = self._in_rows(weight)
        packed = PackedLinear(KERNELS[name](weight, bias), weight.shape[1], weight.shape[0])
        # a tied weight is still needed, and may have been changed since it was read
        if self._users[id(layer.weight)] == 1:
            forget(layer.weight, self._ranges)
        return packed

    def _in_rows(self, weight: torch.Tensor) -> torch.Tensor:
        """Return a row-major copy, valid until the next call: a fresh allocation each time would take several times as long."""
        if self._room.numel() < weight.numel():
            self._room = weight.new_empty(weight.numel())
        return self._room[: weight.numel()].view(weight.shape).copy_(weight)

    def finish(self) -> None:
        """Cache the results of the checks, and warn if the kernel of the largest weight is slow on this machine."""
        self._room = self._room.new_empty(0)
        self._verdicts.keep()
        _, channels, width, name = self._largest
        if name and self._device.type == "cpu":
            warn_if_slow(name, KERNELS[name], channels, width, self._dtype)


def _trim() -> None:
    """Return free heap pages to the system, if the C library can: packing frees many small blocks, which would add up."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _other_products(model: nn.Module) -> str | None:
    """Name the largest matrix outside linear layers and embeddings, such as a mixture's experts; None if there is none."""
    sizes = {
        f"{type(module).__name__}.{name}": parameter.numel()
        for module in model.modules()
        if not isinstance(module, nn.Embedding)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1
    }
    return max(sizes, key=sizes.__getitem__, default=None)
