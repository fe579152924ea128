"""Modules to capture: one of each make that is deployed in parts, small and seeded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from support.sparse import Mask


class Mlp(nn.Module):
    """Linear layers between each two widths."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(x, 1)
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        return self.layers[-1](x)


def make_sparse_net(masks: Sequence[Mask]) -> Mlp:
    """Square layers of which only the weights in their masks are not zero. These are as large as
    that results stay of one size through all layers: of neurons that are lost much is lost."""
    net = Mlp([len(masks[0])] * (len(masks) + 1)).eval()
    for layer, mask in zip(net.layers, masks, strict=True):
        layer.weight.data *= torch.from_numpy(mask) * (6 / mask.mean()) ** 0.5
    return net


class Cnn(nn.Module):
    """Two convolutions with norms and pooling, and two linear layers, for images of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(inplace=True),
            nn.MaxPool2d(2), nn.Conv2d(12, 20, 3, padding=1), nn.ReLU(), nn.Dropout(0.5),
            nn.AvgPool2d(2),
        )  # fmt: skip
        self.hidden = nn.Linear(80, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        x = x.view(x.size(0), -1)
        return self.head(torch.tanh(self.hidden(x)))


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.shortcut is None else self.shortcut(x)
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """Residual blocks, and two branches of them that are joined again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.block1 = Residual(8, 8)
        self.left = Residual(8, 12, 2)
        self.right = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 12, 1))
        self.block2 = Residual(24, 16)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block1(self.stem(x))
        x = torch.cat([self.left(x), self.right(x)], 1)
        return self.head(torch.flatten(self.pool(self.block2(x)), 1))


class Attention(nn.Module):
    """Self-attention of several heads, written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        shape = (batch, tokens, self.heads, width // self.heads)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.query, self.key, self.value))
        attended = functional.scaled_dot_product_attention(q, k, v)
        return self.out(attended.transpose(1, 2).reshape(batch, tokens, width))


class Vit(nn.Module):
    """A vision transformer for images of 3 x 8 x 8: one block with attention written out, one with
    torch's own."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.positions = nn.Parameter(torch.randn(1, 5, width) * 0.1)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.attention1 = Attention(width, heads)
        self.attention2 = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(2)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        x = x + self.attention1(self.norms[0](x))
        x = x + self.mlps[0](self.norms[1](x))
        y = self.norms[2](x)
        x = x + self.attention2(y, y, y, need_weights=False)[0]
        x = x + self.mlps[1](self.norms[3](x))
        return self.head(self.norms[4](x)[:, 0])


class Recurrent(nn.Module):
    """Letters through an LSTM of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 16)
        self.lstm = nn.LSTM(16, 24, num_layers=2, batch_first=True)
        self.gru = nn.GRU(24, 20, batch_first=True)
        self.head = nn.Linear(20, 30)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x, _ = self.lstm(self.table(ids))
        x, last = self.gru(x)
        return self.head(x[:, -1] + last[0])


def make_gpt2() -> nn.Module:
    """A tiny GPT-2 with random weights, which gives logits."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=2, n_head=4, n_embd=32, n_positions=32, vocab_size=101, use_cache=False
    )
    return GPT2LMHeadModel(config)


def make_nets() -> dict[str, Any]:
    """By name: a function that makes the module, and one that makes a batch for it."""

    def images(channels: int) -> Any:
        return lambda n: (torch.randn(n, channels, 8, 8),)

    def ids(vocabulary: int) -> Any:
        return lambda n: (torch.randint(0, vocabulary, (n, 7)),)

    return {
        "mlp": (lambda: Mlp([64, 48, 32, 10]), images(1)),
        "cnn": (Cnn, images(1)),
        "resnet": (ResNet, images(3)),
        "vit": (Vit, images(3)),
        "lstm": (Recurrent, ids(30)),
        "gpt2": (make_gpt2, ids(101)),
    }


def make_net(name: str, seed: int = 0) -> tuple[nn.Module, Any]:
    """A module in eval mode, its norms and biases as if trained, and the function that makes
    batches."""
    torch.manual_seed(seed)
    make, batch = make_nets()[name]
    net = make()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    for parameter in net.parameters():
        if not parameter.any():  # what is zero shows no mistake
            nn.init.normal_(parameter, std=0.3)
    return net.eval(), batch
