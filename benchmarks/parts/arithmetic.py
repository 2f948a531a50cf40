"""What a workload costs in arithmetic and memory, and what share of a limit a measurement is.

The GEMM limit is the speed that an engine would have if the products of the linear layers ran at the rate of one large
product, and nothing else took time. It is pure: it knows neither models nor clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BYTES = {"float32": 4, "int8": 1}
"""Of a weight in a linear layer."""
KV_BYTES = 4


@dataclass(frozen=True, slots=True)
class Sizes:
    """A model in numbers.

    Attributes:
        body: Weights in linear layers, the output layer left out.
        head: Weights in the output layer.
        others: Parameters that are in no product: embeddings, norms, biases. A table that the output layer shares counts
            here too, as an engine holds it in two forms.
        kv_values: Keys and values of one token in all layers.
    """

    body: int
    head: int
    others: int
    kv_values: int


def token_flops(sizes: Sizes) -> int:
    """Operations in the linear layers for one token, output layer included: a multiplication and an addition per weight."""
    return 2 * (sizes.body + sizes.head)


def work_flops(sizes: Sizes, prompt_tokens: int, tokens: int, requests: int) -> int:
    """Operations in the linear layers that a workload needs.

    The last token of a request does not go back into the model, and only positions that choose a token need the output layer.
    """
    return 2 * sizes.body * (prompt_tokens + tokens - requests) + 2 * sizes.head * tokens


def limit_share(sizes: Sizes, rate: float, tok_s: float) -> float:
    """Generated tokens per second over the GEMM limit: `rate` [FLOP/s] ÷ the operations of one token."""
    return tok_s * token_flops(sizes) / rate


def weight_bytes(sizes: Sizes, precision: str) -> int:
    """Bytes of a model whose linear layers are held in `precision` and the rest in float32."""
    return (sizes.body + sizes.head) * BYTES[precision] + sizes.others * 4


def kv_bytes(sizes: Sizes, lengths: Sequence[int], batch: int) -> int:
    """Most bytes of float32 keys and values that `batch` sequences at a time need.

    `lengths` are prompt plus new tokens of every request; the last token's keys and values are never computed.
    """
    return sum(sorted((length - 1 for length in lengths), reverse=True)[:batch]) * sizes.kv_values * KV_BYTES
