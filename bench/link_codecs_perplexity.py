"""Perplexity of SmolLM2 in parts, by the codec of their links: real servers, and frames in which
every token asks for its logits.

The text is the last tenth of `pydoc_data.topics`, which ships with Python.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from partwise.distributor import balance_layers
from partwise.distributor.codecs import with_codec
from partwise.engine.assembly import Assembly, Deployment
from partwise.engine.text import Text
from partwise.launch.local import LocalServers
from partwise.model import open_model
from partwise.remote.authenticate import new_token
from partwise.remote.frame import Frame, FrameKind, Row, RowFlag, take_plain
from partwise.remote.link import Link
from partwise.remote.messages import GetStats, Release, Stats, decode_message, message_frame
from partwise.remote.tcp import TcpTransport

WINDOW, CHUNK = 512, 64
"""Tokens that see each other, and tokens a frame."""
ASKS = int(RowFlag.PICK | RowFlag.LOGITS | RowFlag.PROMPT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What one codec comes to: of a link's bytes the share of fp32's."""

    perplexity: float
    bytes_ratio: float
    num_tokens: int


def read_topics() -> str:
    """The last tenth of the text, which no calibration sees."""
    from pydoc_data import topics

    text = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    return text[-(len(text) // 10) :]


def judge(path: Path, num_parts: int, codec: str, num_tokens: int) -> Judged:
    """The perplexity of the first ``num_tokens`` of the text, in windows, over such links."""
    ids = Text(path).encode(read_topics())[:num_tokens]
    with _serving(path, num_parts, codec) as forced:
        losses = [
            loss
            for start in range(0, len(ids) - 1, WINDOW)
            for loss in forced.read(ids[start : start + WINDOW])
        ]
        sent = [stats.sent for stats in forced.ask_stats()[:-1]]
    moved, plain = sum(s.moved_bytes for s in sent), sum(s.plain_bytes for s in sent)
    return Judged(
        perplexity=math.exp(sum(losses) / len(losses)),
        bytes_ratio=moved / plain,
        num_tokens=len(losses),
    )


@contextmanager
def _serving(path: Path, num_parts: int, codec: str) -> Iterator[_Forced]:
    model, token = open_model(path), new_token()
    names = [f"local-{i}" for i in range(num_parts)]
    plan = with_codec(balance_layers(model, names), codec)
    local = LocalServers(model.architecture, token, num_threads=num_parts)
    try:
        deployment = Deployment(
            name=secrets.token_hex(8), plan=plan, model=model,
            model_path=str(path.resolve()), threads=1,
            addresses=local.start(names, [()] * num_parts),
            on_progress=lambda done, total: None, explain=local.explain,
        )  # fmt: skip
        assembly = Assembly(deployment, TcpTransport(token))
        yield _Forced(assembly)
        assembly.poller.close()
    finally:
        local.close()


class _Forced:
    """Parts that are given the tokens instead of picking them."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly
        self._results: dict[int, npt.NDArray[np.float32]] = {}
        self._stats: list[Stats] = []
        self._step = 0
        self._sequence = 0
        assembly.poller.take_over(self._on_frame, self._on_lost)

    def _on_frame(self, link: Link, frame: Frame) -> None:
        if frame.kind is FrameKind.CONTROL:
            message = decode_message(frame)
            if not isinstance(message, Stats):
                raise RuntimeError(f"{link.name}: {message}")
            self._stats.append(message)
            return
        self._results[frame.step] = np.array(take_plain(frame)[-1], np.float32)
        link.release(frame)

    def _on_lost(self, link: Link, error: Exception) -> None:
        raise error

    def read(self, ids: Sequence[int]) -> list[float]:
        """The loss of each token after the first, in nats."""
        self._sequence += 1
        steps = [
            self._send(ids[start : start + CHUNK], start) for start in range(0, len(ids), CHUNK)
        ]
        while not all(step in self._results for step in steps):
            self._assembly.poller.poll(10.0)
        logits_NV = np.concatenate([self._results.pop(step) for step in steps])
        for entry in self._assembly.parts:
            entry.link.send(message_frame(Release(sequences=(self._sequence,)), 1))
        return [_loss(logits_NV[i], following) for i, (_, following) in enumerate(pairwise(ids))]

    def _send(self, ids: Sequence[int], position: int) -> int:
        self._step += 1
        rows = [Row(self._sequence, position + i, 1, ASKS) for i in range(len(ids))]
        frame = Frame(
            kind=FrameKind.FORWARD, plan_version=1, microbatch=self._step, step=self._step,
            rows=tuple(rows), tensors=(np.array(ids, np.int64),),
        )  # fmt: skip
        self._assembly.parts[0].link.send(frame)
        return self._step

    def ask_stats(self) -> list[Stats]:
        """The counters of every part, in order."""
        for number, entry in enumerate(self._assembly.parts):
            entry.link.send(message_frame(GetStats(number=number), 1))
        while len(self._stats) < len(self._assembly.parts):
            self._assembly.poller.poll(10.0)
        return sorted(self._stats, key=lambda stats: stats.number)


def _loss(logits_V: npt.NDArray[np.float32], following: int) -> float:
    peak = float(logits_V.max())
    return peak + math.log(float(np.exp(logits_V - peak).sum())) - float(logits_V[following])
