"""A GGUF file becomes the network it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from partwise.errors import DamagedModel, ModelError, PartwiseError, StoreError, UnknownArchitecture
from partwise.store import gguf as gguf_module
from partwise.store.gguf import import_gguf

PROMPT_IDS = [[5, 17, 33, 290, 301, 12, 77]]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
WHOLE_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How to write a GGUF file; the default is right in every respect."""

    architecture: str = "llama"
    quantised: str = "no tensor"
    left_out: str = "no tensor"
    split_rule: str = "gpt-2"
    end_ids: dict[str, int] = field(default_factory=lambda: {"eos": 382})


def write_gguf(folder: Path, path: Path, variant: Variant = Variant()) -> Path:
    """Write a llama directory as llama.cpp's converter would."""
    from gguf import GGMLQuantizationType, GGUFWriter, quantize
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    writer = GGUFWriter(path, variant.architecture)
    write_shape(writer, config)
    write_tokenizer(writer, folder, variant)
    for name, tensor in load_file(folder / "model.safetensors").items():
        gguf_name = gguf_name_of(name)
        if variant.left_out in gguf_name:
            continue
        rows = permuted(name, tensor, config)
        if variant.quantised in gguf_name:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(gguf_name, quantize(rows, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name, rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_shape(writer: Any, config: dict[str, Any]) -> None:
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])


def write_tokenizer(writer: Any, folder: Path, variant: Variant) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = [token["content"] for token in tokenizer["added_tokens"]]
    words = [*tokenizer["model"]["vocab"], *special]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(variant.split_rule)
    writer.add_token_list(words)
    writer.add_token_types([3 if word in special else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    for name, token_id in variant.end_ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token_id)
    writer.add_chat_template((folder / "chat_template.jinja").read_text())


def gguf_name_of(name: str) -> str:
    if name in WHOLE_NAMES:
        return WHOLE_NAMES[name]
    _, _, block, rest = name.split(".", 3)
    return f"blk.{block}.{NAMES[rest.removesuffix('.weight')]}.weight"


def permuted(name: str, tensor: Any, config: dict[str, Any]) -> Any:
    """GGUF keeps the rotary halves of Q and K interleaved."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for part, num_heads in heads.items():
        if part in name:
            halves = tensor.reshape(num_heads, 2, -1, tensor.shape[-1])
            return halves.swapaxes(1, 2).reshape(tensor.shape)
    return tensor


def logits(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder)(torch.tensor(PROMPT_IDS)).logits


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_llama_tied"])
def test_an_imported_model_computes_what_the_original_does(
    model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    import torch

    original = request.getfixturevalue(model)
    import_gguf(write_gguf(original, tmp_path / "m.gguf"), tmp_path / "out" / "m")
    # Not bit-equal by promise: GGUF holds the norm's epsilon as a 32-bit float.
    torch.testing.assert_close(logits(tmp_path / "out" / "m"), logits(original), atol=1e-5, rtol=0)


def test_a_tied_head_is_stored_once_and_named_tied(tiny_llama_tied: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    import_gguf(write_gguf(tiny_llama_tied, tmp_path / "m.gguf"), tmp_path / "m")
    assert json.loads((tmp_path / "m/config.json").read_text())["tie_word_embeddings"] is True
    with safe_open(tmp_path / "m/model.safetensors", "np") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 (it is not a mapping)


def test_a_quantised_tensor_is_dequantised_and_its_type_recorded(
    tiny_llama: Path, tmp_path: Path
) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, dequantize, quantize
    from safetensors.numpy import load_file

    source = write_gguf(tiny_llama, tmp_path / "m.gguf", Variant(quantised="ffn_down"))
    import_gguf(source, tmp_path / "m")
    name = "model.layers.2.mlp.down_proj.weight"
    before = load_file(tiny_llama / "model.safetensors")[name]
    after = load_file(tmp_path / "m/model.safetensors")[name]
    q8 = GGMLQuantizationType.Q8_0
    np.testing.assert_array_equal(after, dequantize(quantize(before, q8), q8))
    assert not np.array_equal(after, before)
    recorded = json.loads((tmp_path / "m/source.json").read_text())
    assert recorded["partwise_source"] == "dequantised Q8_0"
    assert recorded["num_tensors_by_type"]["Q8_0"] == 6


def test_every_end_of_turn_token_ends_an_answer(tiny_llama: Path, tmp_path: Path) -> None:
    variant = Variant(end_ids={"eos": 383, "eot": 382})
    import_gguf(write_gguf(tiny_llama, tmp_path / "m.gguf", variant), tmp_path / "m")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "m" / name).read_text())["eos_token_id"] == [383, 382]


def test_the_tokenizer_and_chat_template_come_along(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    import_gguf(write_gguf(tiny_llama, tmp_path / "m.gguf"), tmp_path / "m")
    before = AutoTokenizer.from_pretrained(tiny_llama)
    after = AutoTokenizer.from_pretrained(tmp_path / "m")
    chat = [{"role": "user", "content": "is it 12  34?"}]
    before_ids, after_ids = (t.apply_chat_template(chat)["input_ids"] for t in (before, after))
    assert after_ids == before_ids
    assert after.eos_token == "<|end|>"
    assert after.model_max_length == 512


def test_the_smollm_rule_splits_digits_from_the_space_before_them(
    tiny_llama: Path, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer

    source = write_gguf(tiny_llama, tmp_path / "m.gguf", Variant(split_rule="smollm"))
    import_gguf(source, tmp_path / "m")
    splitter = Tokenizer.from_file(str(tmp_path / "m/tokenizer.json")).pre_tokenizer
    assert [piece for piece, _ in splitter.pre_tokenize_str("a  12")] == ["a", "ĠĠ", "1", "2"]


def test_progress_is_reported_by_tensors(tiny_llama: Path, tmp_path: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    source = write_gguf(tiny_llama, tmp_path / "m.gguf")
    import_gguf(source, tmp_path / "m", lambda *report: reports.append(report))
    done = [done for step, done, _ in reports if step == "dequantising tensors"]
    assert done == list(range(57 + 1))


def missing(path: Path, good: Path) -> None:
    """Leave no file."""


def text(path: Path, good: Path) -> None:
    path.write_text("not a model")


def truncated_header(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[:2000])


def truncated_tensors(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[:-2000])


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (missing, StoreError, "No such file"),
        (text, ModelError, "is not a GGUF file"),
        (truncated_header, DamagedModel, "fetch the file again"),
        (truncated_tensors, DamagedModel, "fetch the file again"),
    ],
)
def test_a_bad_file_is_one_error_and_leaves_nothing(
    spoil: Callable[[Path, Path], None],
    error: type[PartwiseError],
    says: str,
    tiny_llama: Path,
    tmp_path: Path,
) -> None:
    spoil(tmp_path / "bad.gguf", write_gguf(tiny_llama, tmp_path / "good.gguf"))
    with pytest.raises(error, match=says):
        import_gguf(tmp_path / "bad.gguf", tmp_path / "out" / "m")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("variant", "error", "says"),
    [
        (Variant(architecture="xenon"), UnknownArchitecture, "'xenon'"),
        (Variant(left_out="blk.3.ffn_up"), DamagedModel, "model.layers.3.mlp.up_proj.weight"),
        (Variant(split_rule="runes"), ModelError, "'runes'"),
    ],
)
def test_a_model_that_cannot_be_reproduced_is_refused(
    variant: Variant, error: type[PartwiseError], says: str, tiny_llama: Path, tmp_path: Path
) -> None:
    source = write_gguf(tiny_llama, tmp_path / "m.gguf", variant)
    with pytest.raises(error, match=says):
        import_gguf(source, tmp_path / "out" / "m")
    assert not list(tmp_path.glob("out/*"))


def test_an_existing_directory_is_not_touched(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    source = write_gguf(tiny_llama, tmp_path / "m.gguf")
    with pytest.raises(StoreError, match="exists already"):
        import_gguf(source, tmp_path / "m")
    assert not list((tmp_path / "m").iterdir())


@pytest.mark.parametrize("step", ["_read_header", "_load_network", "_load_tokenizer"])
def test_a_source_that_cannot_be_read_to_its_end_is_named(
    step: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    source = write_gguf(tiny_llama, tmp_path / "m.gguf")
    monkeypatch.setattr(gguf_module, step, fail)
    with pytest.raises(StoreError, match=f"cannot read {source}: Input/output error"):
        import_gguf(source, tmp_path / "out" / "m")
    assert not list(tmp_path.glob("out/*"))


def test_an_interrupted_import_leaves_nothing(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_module, "_write_source", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_gguf(write_gguf(tiny_llama, tmp_path / "m.gguf"), tmp_path / "out" / "m")
    assert not list(tmp_path.glob("out/*"))


def test_the_demo_model_answers_paris_and_stops_at_its_end_token(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    network = AutoModelForCausalLM.from_pretrained(smollm2)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    output = network.generate(**prompt, do_sample=False, max_new_tokens=20)[0]
    answer = tokenizer.decode(output[prompt["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_size", 96), ("intermediate_size", 161), ("num_attention_heads", 3)]
)
def test_a_header_that_contradicts_the_tensors_is_damage(
    key: str, value: int, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(writer: Any, config: dict[str, Any]) -> None:
        write(writer, config | {key: value})

    write = write_shape
    monkeypatch.setitem(write_gguf.__globals__, "write_shape", lie)
    source = write_gguf(tiny_llama, tmp_path / "m.gguf")
    with pytest.raises(DamagedModel, match="fetch the file again"):
        import_gguf(source, tmp_path / "out" / "m")
    assert not list(tmp_path.glob("out/*"))
