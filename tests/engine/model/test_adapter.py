"""Adapters merged into a model, against PEFT's own model with the adapter beside its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.engine.assembly import build_engine
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.model.adapter import merge_adapter
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.engine.model.load import load_model
from pipeline.errors import ModelRefused
from tests.engine.small.tiny_models import FAMILIES, Tiny, drain, request, write_model
from tests.small_runs import python

MakeTiny = Callable[..., Tiny]
PROMPT = [20, 33, 47, 61, 75]


def write_adapter(model: Path, folder: Path, config: Any) -> Path:
    """Save an adapter with random weights."""
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    draw = torch.Generator().manual_seed(3)
    for weight in tuned.parameters():
        if weight.requires_grad:
            weight.data.add_(torch.randn(weight.shape, generator=draw) * 0.1)
    tuned.save_pretrained(folder)
    return folder


def lora(*targets: str, **options: Any) -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=16, target_modules=list(targets), task_type="CAUSAL_LM", **options)


CASES: dict[str, tuple[str, Any]] = {
    "lora": ("llama", lora("q_proj", "v_proj", "down_proj")),
    "lora of convolutions": ("gpt2", lora("c_attn", "c_proj", fan_in_fan_out=True)),
    "rslora": ("llama", lora("q_proj", use_rslora=True)),
    "dora": ("llama", lora("q_proj", "up_proj", use_dora=True)),
    "tied embedding": ("gpt2", lora("wte")),
    "tied output": ("gpt2", lora("lm_head")),
    "tied, both": ("gpt2", lora("wte", "lm_head", "c_attn")),
    "saved output": ("gpt2", lora("c_attn", modules_to_save=["lm_head"])),
    "biases": ("gpt2", lora("c_attn", bias="lora_only")),
    "ia3": ("llama", IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "loha": ("llama", LoHaConfig(r=4, alpha=8, target_modules=["q_proj", "v_proj"])),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_merged_adapter_does_what_it_does_beside_the_model(tmp_path: Path, case: str) -> None:
    family, config = CASES[case]
    write_model(tmp_path / "model", FAMILIES[family](), 1)
    adapter = write_adapter(tmp_path / "model", tmp_path / "adapter", config)
    settings = ModelConfig(path=str(tmp_path / "model"), adapter=str(adapter))
    built = build_engine(resolve(settings), settings, EngineConfig(max_num_seqs="2"), StatsConfig(), threads=1)
    made = drain(built.engine, [request("row", PROMPT, max_tokens=12, ignore_eos=True)])["row", 0]
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    if case.startswith("tied"):  # with the adapter beside it, the other layer is as it was
        base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())
    oracle = PeftModel.from_pretrained(base, adapter).double().eval()
    with torch.inference_mode():
        logits = oracle(input_ids=torch.tensor([[*PROMPT, *made.token_ids]])).logits[0]
    places = torch.arange(len(made.token_ids)) + len(PROMPT) - 1
    exact = logits.log_softmax(-1)[places, torch.tensor(made.token_ids)]
    assert torch.allclose(torch.from_numpy(made.statistics["token_logprobs"]).double(), exact, atol=1e-4)
    assert made.token_ids == tuple(logits[places].argmax(-1).tolist())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_merge_is_not_judged_by_tokens_that_no_text_has(model: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    adapter = write_adapter(model, tmp_path / "adapter", lora("q_proj", "v_proj", "down_proj"))
    base: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    plain = base.model.layers[0].self_attn.q_proj.weight.detach().clone()
    base.get_input_embeddings().weight.data[:10] = torch.nan  # as of ids that are reserved
    merged: Any = merge_adapter(base, adapter)
    assert not torch.equal(merged.model.layers[0].self_attn.q_proj.weight, plain)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merge_that_loses_the_adapter_is_refused(
    model: Path, tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(model, tmp_path / "adapter", lora("q_proj", "v_proj", "up_proj", "down_proj", "o_proj"))
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda its: its.unload(), raising=False)
    with pytest.raises(ModelRefused, match="changes its effect"):
        merge_adapter(AutoModelForCausalLM.from_pretrained(model, dtype=dtype), adapter)


def made_with(model: str, adapter: str) -> list[str]:
    """The log-probabilities of some tokens, to the last bit."""
    settings = ModelConfig(path=model, adapter=adapter)
    built = build_engine(resolve(settings), settings, EngineConfig(max_num_seqs="2"), StatsConfig(), threads=1)
    made = drain(built.engine, [request("row", PROMPT, max_tokens=6, ignore_eos=True)])["row", 0]
    return [float(value).hex() for value in made.statistics["token_logprobs"]]


@pytest.mark.filterwarnings("ignore")
def test_adapters_are_merged_in_a_job_which_imports_a_part_of_transformers(tmp_path: Path) -> None:
    pairs = []
    for case in ("lora", "dora", "loha", "tied, both"):
        family, config = CASES[case]
        write_model(tmp_path / family, FAMILIES[family](), 1)
        pairs.append((str(tmp_path / family), str(write_adapter(tmp_path / family, tmp_path / case, config))))
    done = python(
        "from pipeline.engine.libraries import import_libraries\n"
        "import_libraries()\n"
        "import json, sys\n"
        "from tests.engine.model import test_adapter\n"
        "assert 'torch.distributed.tensor' not in sys.modules, 'the test means something'\n"
        f"print(json.dumps([test_adapter.made_with(*pair) for pair in {pairs!r}]))"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [made_with(*pair) for pair in pairs]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, FAMILIES["llama"](), 1)
    return folder


def refusal(model: Path, adapter: Path) -> str:
    settings = ModelConfig(path=str(model), adapter=str(adapter))
    with pytest.raises(ModelRefused) as refused:
        load_model(resolve(settings), settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def _rename(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("model.model.", "model.transformer."): tensor for name, tensor in tensors.items()}


def _drop_one(tensors: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(tensors.items())[1:])


def _drop_a_layer(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in tensors.items() if ".1." not in name}


def _add_one(tensors: dict[str, Any]) -> dict[str, Any]:
    return {**tensors, "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.ones(4, 64)}


def _reshape(tensors: dict[str, Any]) -> dict[str, Any]:
    name = min(tensors)
    return {**tensors, name: torch.ones(4, 32)}


def _spoil(tensors: dict[str, Any]) -> dict[str, Any]:
    name = min(tensors)
    return {**tensors, name: tensors[name] * float("nan")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spoil", [_rename, _drop_one, _drop_a_layer, _add_one, _reshape, _spoil])
def test_fault_54_an_adapter_that_fits_in_part_is_refused(
    model: Path, tmp_path: Path, spoil: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    adapter = write_adapter(model, tmp_path / "adapter", lora("q_proj", "v_proj"))
    weights = adapter / "adapter_model.safetensors"
    save_file(spoil(load_file(weights)), weights, metadata={"format": "pt"})
    assert str(adapter) in refusal(model, adapter)


@pytest.mark.filterwarnings("ignore")
def test_targets_that_are_not_there_are_refused(model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(model, tmp_path / "adapter", lora("q_proj"))
    facts = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**facts, "target_modules": ["c_attn"]}))
    assert "does not fit the model" in refusal(model, adapter)
