"""Import a GGUF file: a plain Hugging Face directory with fp32 safetensors.

transformers maps names and undoes GGUF's row permutations; this file checks the result, keeps
what transformers drops (all end-of-turn tokens, the digits rule of the smollm tokenizer) and
makes the directory appear whole or not at all. The whole model passes through memory; nothing
is quantised again, and files in several pieces are not read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partwise.errors import DamagedModel, ModelError, StoreError, UnknownArchitecture

Report = Callable[[str, int, int], None]
"""Called with (step, units done, units in all)."""

MAGIC = b"GGUF"
SOURCE_FILE = "source.json"

END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""GGUF's names, after ``tokenizer.ggml.``, of the tokens that end an answer."""

DIGITS_APART = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
"""How ``smollm`` splits text before its merges. Source: SmolLM2's tokenizer.json."""

UNQUANTISED = {"F64", "F32", "F16", "BF16"}

DAMAGE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
    RuntimeError,
)
"""What the foreign readers raise on bytes that are no valid GGUF file, or that contradict each
other: torch the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a GGUF file says that transformers does not pass on."""

    architecture: str
    context_tokens: int
    end_token_ids: tuple[int, ...]
    tokenizer: str
    split_rule: str
    num_tensors_by_type: dict[str, int]


def import_gguf(source: Path, dest: Path, report: Report | None = None) -> None:
    """Write the model in ``source`` as a Hugging Face directory ``dest``.

    ``dest`` appears by one rename, with `SOURCE_FILE` telling where it came from.

    Raises:
        StoreError: ``source`` cannot be read, ``dest`` exists or cannot be written.
        ModelError: ``source`` is not a GGUF file, or its tokenizer cannot be reproduced.
        DamagedModel: ``source`` is truncated, lacks tensors or contradicts itself.
        UnknownArchitecture: transformers cannot read this architecture from GGUF.
    """
    _check_source(source)
    if dest.exists():
        raise StoreError(f"{dest} exists already: remove it or import to another directory")
    temporary = dest.with_name(f"{dest.name}.tmp-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        _convert(source, temporary, report or _ignore)
        _sync([*temporary.iterdir(), temporary])
        temporary.rename(dest)
        _sync([dest.parent])
    except OSError as exc:
        raise StoreError(f"cannot write {dest}: {exc}; free space or permit writing") from exc
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_source(source: Path) -> None:
    with _translated_read(source), source.open("rb") as file:
        magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise ModelError(
            f"{source} is not a GGUF file: it begins with {magic!r} instead of {MAGIC!r}"
        )


def _convert(source: Path, folder: Path, report: Report) -> None:
    report("reading the header", 0, 1)
    with _translated_damage(source):
        header = _read_header(source)
    _check_split_rule(source, header)
    report("reading the header", 1, 1)
    with _translated_damage(source):
        network = _load_network(source, report)
    _check_complete(source, network)
    report("writing files", 0, 3)
    _write_network(network, header, folder)
    report("writing files", 1, 3)
    with _translated_read(source):
        tokenizer = _load_tokenizer(source)
    _write_tokenizer(tokenizer, header, folder)
    report("writing files", 2, 3)
    _write_source(source, header, folder)
    report("writing files", 3, 3)


def _read_header(source: Path) -> Header:
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        raise UnknownArchitecture(
            f"{source} holds a model of architecture {architecture!r}, which cannot be imported: "
            f"known are {', '.join(sorted(GGUF_SUPPORTED_ARCHITECTURES))}"
        )
    ends = [reader.get_field(f"tokenizer.ggml.{key}") for key in END_KEYS]
    rule = reader.get_field("tokenizer.ggml.pre")
    return Header(
        architecture=architecture,
        context_tokens=int(reader.fields[f"{architecture}.context_length"].contents()),
        end_token_ids=tuple(dict.fromkeys(int(end.contents()) for end in ends if end)),
        tokenizer=reader.fields["tokenizer.ggml.model"].contents(),
        split_rule=rule.contents() if rule else "",
        num_tensors_by_type=dict(Counter(tensor.tensor_type.name for tensor in reader.tensors)),
    )


def _check_split_rule(source: Path, header: Header) -> None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    # transformers would split by gpt2's rule whatever it does not know, and say nothing.
    known = {"gpt-2", "smollm", *GGUF_PRE_TOKENIZER_SPLITS}
    if header.tokenizer == "gpt2" and header.split_rule not in known:
        raise ModelError(
            f"{source} has a tokenizer that splits text by rule {header.split_rule!r}, which is "
            "unknown here: take the model's Hugging Face directory instead"
        )


def _load_network(source: Path, report: Report) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, modeling_gguf_pytorch_utils

    report("preparing the network", 0, 1)
    config = AutoConfig.from_pretrained(source.parent, gguf_file=source.name)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    report("preparing the network", 1, 1)
    # Not `AutoModelForCausalLM.from_pretrained`: for GGUF it demands the accelerate package.
    with _counted(modeling_gguf_pytorch_utils, report):
        loaded = modeling_gguf_pytorch_utils.load_gguf_checkpoint(
            str(source), return_tensors=True, model_to_load=network, torch_dtype=torch.float32
        )
    network.load_state_dict(loaded["tensors"], strict=False, assign=True)
    network.tie_weights()
    return network


def _check_complete(source: Path, network: Any) -> None:
    missing = [name for name, tensor in network.named_parameters() if tensor.is_meta]
    if missing:
        raise DamagedModel(
            f"{source} lacks {len(missing)} tensors that its architecture needs, the first is "
            f"{missing[0]!r}: fetch the file again"
        )


def _write_network(network: Any, header: Header, folder: Path) -> None:
    if ends := header.end_token_ids:
        end = ends[0] if len(ends) == 1 else list(ends)
        network.config.eos_token_id = network.generation_config.eos_token_id = end
    with _no_progress_bars():
        network.save_pretrained(folder)
    mode = (folder / "config.json").stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)  # safetensors makes them readable by their owner alone


def _load_tokenizer(source: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)


def _write_tokenizer(tokenizer: Any, header: Header, folder: Path) -> None:
    tokenizer.model_max_length = header.context_tokens
    tokenizer.save_pretrained(folder)
    settings = _read_json(folder / "tokenizer_config.json")
    for key in ("is_local", "local_files_only"):  # about this process, not about the tokenizer
        settings.pop(key, None)
    _write_json(folder / "tokenizer_config.json", settings)
    if header.split_rule == "smollm":
        rules = _read_json(folder / "tokenizer.json")
        _write_json(folder / "tokenizer.json", rules | {"pre_tokenizer": DIGITS_APART})


def _write_source(source: Path, header: Header, folder: Path) -> None:
    with _translated_read(source), source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    quantised = sorted(header.num_tensors_by_type.keys() - UNQUANTISED)
    description = {
        "partwise_source": f"dequantised {', '.join(quantised)}" if quantised else "not quantised",
        "file": source.name,
        "sha256": digest,
        "size_bytes": source.stat().st_size,
        "num_tensors_by_type": header.num_tensors_by_type,
        "tokenizer_split_rule": header.split_rule,
    }
    _write_json(folder / SOURCE_FILE, description)


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _translated_read(source: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StoreError(
            f"cannot read {source}: {exc.strerror or exc}; give the path of a GGUF file that you"
            " may read"
        ) from exc


@contextmanager
def _translated_damage(source: Path) -> Iterator[None]:
    from huggingface_hub.errors import StrictDataclassError  # of configs; no kind of ValueError

    try:
        with _translated_read(source):
            yield
    except (*DAMAGE, StrictDataclassError) as exc:
        raise DamagedModel(
            f"{source} is damaged or of an unknown kind ({exc}): fetch the file again"
        ) from exc


@contextmanager
def _counted(module: Any, report: Report) -> Iterator[None]:
    """Have the reader's own progress bar report here: it offers no other hook."""

    def count(tensors: list[Any], **_: object) -> Iterable[Any]:
        for done, tensor in enumerate(tensors):
            report("dequantising tensors", done, len(tensors))
            yield tensor
        report("dequantising tensors", len(tensors), len(tensors))

    original, module.tqdm = module.tqdm, count
    try:
        yield
    finally:
        module.tqdm = original


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _ignore(step: str, done: int, total: int) -> None:
    """Report to nobody."""


def _sync(paths: Iterable[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
