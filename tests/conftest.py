"""Models for tests: small random ones that transformers saves itself, and the real demo model."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import settings

# Each test has its timeout; an example of one is late whenever others compute beside it.
settings.register_profile("partwise", settings.default, deadline=None)
settings.load_profile("partwise")
# Nothing in a test may ask the network for a model.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Seldom a test needs more than one core, and several processes share this machine.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

VOCAB_SIZE = 384
CONTEXT_TOKENS = 512
START, END, PAD = "<|start|>", "<|end|>", "<|pad|>"
START_ID, END_ID, PAD_ID = VOCAB_SIZE - 3, VOCAB_SIZE - 2, VOCAB_SIZE - 1
CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
# Large enough that each layer matters, small enough that fp32 logits are good to 1e-5.
INITIALIZER_RANGE = 0.15
# As large as that a runner that takes the default instead is seen in the logits.
NORM_EPSILON = 1e-2
SPECIAL_IDS = {"bos_token_id": START_ID, "eos_token_id": END_ID, "pad_token_id": PAD_ID}
RUN_MARK = "PARTWISE_TEST_RUN"
SMOLLM2 = Path(__file__).parent.parent / "models" / "SmolLM2-135M-Instruct"


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of 6 layers with grouped KV heads and a head of its own."""
    return save_llama(tmp_path_factory.mktemp("tiny-llama"), seed=1, tied=False)


@pytest.fixture(scope="session")
def tiny_llama_tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other weights and the head tied to the embedding."""
    return save_llama(tmp_path_factory.mktemp("tiny-llama-tied"), seed=2, tied=True)


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random gpt2 of 5 layers, tied."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_embd=64,
        n_layer=5,
        n_head=4,
        n_positions=CONTEXT_TOKENS,
        initializer_range=INITIALIZER_RANGE,
        layer_norm_epsilon=NORM_EPSILON,
        **SPECIAL_IDS,
    )
    folder = tmp_path_factory.mktemp("tiny-gpt2")
    return save(GPT2LMHeadModel, config, folder, seed=3)


@pytest.fixture(scope="session")
def tiny_mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mixtral of 5 layers, 2 of 6 experts for each token."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=6,
        num_experts_per_tok=2,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=INITIALIZER_RANGE,
        rms_norm_eps=NORM_EPSILON,
        **SPECIAL_IDS,
    )
    folder = tmp_path_factory.mktemp("tiny-mixtral")
    return save(MixtralForCausalLM, config, folder, seed=4)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real model of the demo."""
    if not (SMOLLM2 / "config.json").is_file():
        pytest.fail(f"{SMOLLM2} is missing: run `make model` first", pytrace=False)
    return SMOLLM2


def save_llama(folder: Path, *, seed: int, tied: bool) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=INITIALIZER_RANGE,
        rms_norm_eps=NORM_EPSILON,
        tie_word_embeddings=tied,
        **SPECIAL_IDS,
    )
    return save(LlamaForCausalLM, config, folder, seed=seed)


def save(network_class: Any, config: Any, folder: Path, *, seed: int) -> Path:
    """Make a network whose every parameter matters to its logits, and save it."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = network_class(config)
        with torch.no_grad():
            # Norms start at one and biases at zero: a runner that drops one would pass unseen.
            for parameter in network.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer with a few merges; every id of the model decodes to something."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    merges = list(itertools.product("etaoinshrdlu", repeat=2))[: VOCAB_SIZE - 256 - 3]
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in (START, END, PAD)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )
    fast.save_pretrained(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadServers:
    """Part servers in threads of the test process, and the token that they want."""

    addresses: tuple[str, ...]
    token_file: Path

    @property
    def options(self) -> list[str]:
        """The options of ``partwise generate`` that use them."""
        servers = ",".join(self.addresses)
        return ["--servers", servers, "--token-file", str(self.token_file), "--threads", "1"]


@pytest.fixture(scope="module")
def thread_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadServers]:
    """Two servers over TCP with the real runner; several coordinators may use them in turn."""
    from partwise.launch.listening import make_torch_runner
    from partwise.part.server import PartServer
    from partwise.remote.authenticate import new_token
    from partwise.remote.tcp import TcpTransport
    from partwise.remote.transport import Address

    token_file = tmp_path_factory.mktemp("cluster") / "token"
    token_file.write_bytes(new_token())
    transport = TcpTransport(token_file.read_bytes())
    listeners = [transport.listen(Address("127.0.0.1", 0), name) for name in ("first", "second")]
    servers = [PartServer("server", transport, one, make_torch_runner) for one in listeners]
    threads = [Thread(target=server.run, daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    addresses = tuple(str(listener.address) for listener in listeners)
    yield ThreadServers(addresses=addresses, token_file=token_file)
    for server in servers:
        server.stop()
    for thread in threads:
        thread.join(timeout=5)


class Started:
    """The processes that a test started, whoever their parent is now: they inherit a mark."""

    def __init__(self, mark: str) -> None:
        self._variable = f"{RUN_MARK}={mark}".encode()

    def processes(self) -> list[int]:
        """Those that run; a zombie has no environment and does not count."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                if self._variable in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def wait_for_end(self, limit_s: float) -> list[int]:
        """Those that still run after ``limit_s``."""
        stop_s = time.monotonic() + limit_s
        while (left := self.processes()) and time.monotonic() < stop_s:
            time.sleep(0.02)
        return left


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """What the test starts; nothing of it may survive the test."""
    mark = secrets.token_hex(8)
    monkeypatch.setenv(RUN_MARK, mark)
    started = Started(mark)
    yield started
    left = started.wait_for_end(3)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
