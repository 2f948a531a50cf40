"""The prediction that is stored with an output when it is begun, to be held against what came."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass

from pipeline.store.base import Store
from pipeline.store.door import fetch, parse

PREDICTION = "_job/prediction.json"
_MOST_BYTES = 1 << 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a job was expected to take, before it began. None: it could not be known.

    Attributes:
        rows: Input rows.
        error_rows: Those of them that are expected to become errors.
        prompt_tokens: Tokens of the prompts, counted as in the manifest.
        completion_tokens: Tokens that are generated at most, as sequences that end before `max_tokens` take fewer; or those
            that are scored.
        seconds: From the start of the job to its manifest.
        tokens_per_second: Generated tokens per second of all replicas together, while they generate.
        replicas: Number of replicas.
        sequences: Sequences that a replica runs at once.
        memory_bytes: A replica's memory at its peak: weights, cache, a step's tensors and the process itself.
        weight_bytes: The loaded weights in it.
        cache_bytes: The KV cache in it.
        activation_bytes: A step's tensors in it.
        output_bytes: All parts together.
        limit_tokens_per_second: Generated tokens per second that the machine's memory and arithmetic allow for this job.
    """

    rows: int
    error_rows: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None = None
    tokens_per_second: float | None = None
    replicas: int = 1
    sequences: int | None = None
    memory_bytes: int | None = None
    weight_bytes: int | None = None
    cache_bytes: int | None = None
    activation_bytes: int | None = None
    output_bytes: int | None = None
    limit_tokens_per_second: float | None = None

    def to_json(self) -> bytes:
        """Return the file's bytes."""
        return (json.dumps(asdict(self), indent=2, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Prediction:
        """Parse the file's bytes.

        Raises:
            ValueError: If they are not a prediction.
        """
        found = parse(data, cls)
        if low := next((name for name, value in asdict(found).items() if value is not None and value < 0), None):
            raise ValueError(f"{low}: must be at least 0")
        return found


def put_prediction(store: Store, prediction: Prediction) -> None:
    """Store a prediction with an output; one that is there stays, as it was made before any work was done."""
    store.put_if_absent(PREDICTION, prediction.to_json())


def read_prediction(store: Store) -> Prediction | None:
    """Return the prediction of an output; None if it has none, or one that cannot be read: no job fails for that."""
    try:
        return Prediction.from_json(fetch(store, PREDICTION, _MOST_BYTES))
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("%s is left out: %s", PREDICTION, error)
        return None
