"""Deploy one neural network in parts over several servers, and run it there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from partwise.version import __version__

if TYPE_CHECKING:
    from partwise.answer import Answer
    from partwise.deploy_options import DeployOptions
    from partwise.deployment import Net, deploy
    from partwise.distributor import Plan, balance_layers
    from partwise.engine.reports import ExchangeReport, LinkReport, PartReport
    from partwise.engine.sequence import Generation, Request, Token
    from partwise.errors import PartwiseError
    from partwise.model import Model, open_model
    from partwise.module_net import ModuleNet

_HOMES = {
    "Answer": "partwise.answer",
    "DeployOptions": "partwise.deploy_options",
    "ExchangeReport": "partwise.engine.reports",
    "Generation": "partwise.engine.sequence",
    "LinkReport": "partwise.engine.reports",
    "Model": "partwise.model",
    "ModuleNet": "partwise.module_net",
    "Net": "partwise.deployment",
    "PartReport": "partwise.engine.reports",
    "PartwiseError": "partwise.errors",
    "Plan": "partwise.distributor",
    "Request": "partwise.engine.sequence",
    "Token": "partwise.engine.sequence",
    "balance_layers": "partwise.distributor",
    "deploy": "partwise.deployment",
    "open_model": "partwise.model",
}

__all__ = [
    "Answer",
    "DeployOptions",
    "ExchangeReport",
    "Generation",
    "LinkReport",
    "Model",
    "ModuleNet",
    "Net",
    "PartReport",
    "PartwiseError",
    "Plan",
    "Request",
    "Token",
    "__version__",
    "balance_layers",
    "deploy",
    "open_model",
]


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: the command line starts fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'partwise' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
