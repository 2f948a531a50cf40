"""Masks of tokens as bits: an eighth of the bytes, so a GPU is sent little. Imports torch only to unpack them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

WORD = 32
"""Bits per word, the lowest first."""
Masks = NDArray[np.int32]


def allow(mask: Masks, tokens: Sequence[int]) -> None:
    """Set the bits of tokens in one or more masks [..., W]."""
    for token in tokens:
        mask[..., token // WORD] |= _bit(token)


def forbid(mask: Masks, tokens: Sequence[int]) -> None:
    """Clear the bits of tokens in one or more masks [..., W]."""
    for token in tokens:
        mask[..., token // WORD] &= ~_bit(token)


def permitted(masks: Masks, count: int, device: torch.device) -> torch.Tensor:
    """Unpack masks [rows, W] to bool [rows, count] on the device; a GPU unpacks them itself."""
    import torch

    from pipeline.engine.device import upload

    if device.type == "cpu":
        bits = np.unpackbits(np.ascontiguousarray(masks).view(np.uint8), axis=1, count=count, bitorder="little")
        return torch.from_numpy(bits.view(np.bool_))
    return unpacked(upload(masks, np.int32, device), count)


def unpacked(words: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` bits of int32 words [rows, W], bool [rows, count], without reading their content on the host."""
    import torch

    bits = torch.arange(WORD, dtype=torch.int32, device=words.device)
    return ((words[:, :, None] >> bits).bitwise_and_(1) != 0).flatten(1)[:, :count]


def _bit(token: int) -> np.int32:
    """The bit of a token in its word."""
    return np.uint32(1 << token % WORD).view(np.int32)
