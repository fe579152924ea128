"""Which runner computes a model at which precision, and why: from its description alone.

ONNX Runtime's operators decode faster than torch's on CPUs at every precision where they cover
the model (docs/decisions/0020); torch computes every family, in fp32 and bf16, and on other
devices than CPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

from partwise.distributor.devices import CPU, check_runner_on
from partwise.distributor.plan import PRECISIONS, Part, Plan, Precision, RunnerName, Stage
from partwise.errors import PlanError
from partwise.model.description import LayerKind, Model

ONNX_ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
RUNS: dict[str, tuple[str, ...]] = {"torch": ("fp32", "bf16"), "onnx": ("fp32", "int8", "int4")}
"""The precisions of each runner."""
COMPUTED = ("fp32", "bf16", "int8", "int4")
"""Those that any runner has."""
ROUNDED = ("int8", "int4")
HEAD_SIZE_MULTIPLE = 16
"""Of GroupQueryAttention with rotary positions."""
ONNX_BLOCK = 32
"""Consecutive inputs that share a scale where weights are rounded as a graph is built."""
KV_GROUP = "kv_group"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerChoice:
    """A runner and a precision; ``reason`` says to people why."""

    runner: RunnerName
    precision: Precision
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerWish:
    """What somebody asks of the runner; None: whatever is best. ``device`` is that of the servers
    that will compute, as far as it is known."""

    precision: str | None = None
    runner: str | None = None
    is_deterministic: bool = False
    device: str = CPU


NO_WISH = RunnerWish()


def runner_for(precision: str) -> RunnerName:
    """The runner whose measured kernels stand for ``precision`` in the cost model."""
    return "onnx" if precision in ROUNDED else "torch"


def choose_runner(model: Model, wish: RunnerWish) -> RunnerChoice:
    """The runner for ``model``, as asked for where it can be.

    Raises:
        PlanError: an unknown name, or a precision that no runner computes for the model; says
            what would work.
    """
    _check_names(wish)
    precision: Precision = wish.precision or "fp32"  # type: ignore[assignment]
    lack = find_lack(model, precision)
    if precision in ROUNDED:
        _check_rounded(wish, precision, lack)
    reason = _find_reason_for_torch(wish, precision, lack)
    if reason:
        return RunnerChoice(runner="torch", precision=precision, reason=reason)
    reason = "it was asked for" if wish.runner else "it is the fastest on CPUs"
    return RunnerChoice(runner="onnx", precision=precision, reason=reason)


def _find_reason_for_torch(wish: RunnerWish, precision: str, lack: str) -> str:
    """Why torch is to compute; empty if nothing speaks for it."""
    if wish.is_deterministic:
        if wish.runner == "onnx":
            raise PlanError("deterministic runs are torch's: leave out the onnx runner")
        if wish.device != CPU:
            raise PlanError(
                f"nobody has checked that {wish.device} gives the same bits: leave out"
                " --deterministic, or give --device cpu"
            )
        return "its bits are the same for every number of parts"
    if wish.runner == "torch":
        return "it was asked for"
    if wish.runner is not None:
        check_runner_on(wish.runner, wish.device, "what was asked for")
    if precision not in RUNS["onnx"]:
        if wish.runner is not None:
            raise PlanError(
                f"{precision} is for the torch runner: leave out the {wish.runner} runner, or give"
                f" one of {', '.join(RUNS['onnx'])}"
            )
        return f"it alone computes {precision}"
    if wish.device != CPU:
        return f"it alone computes on {wish.device}"
    return f"the onnx runner does not cover this model: {lack}" if lack else ""


def check_runners(plan: Plan, model: Model) -> None:
    """Refuse a plan with a part whose runner does not compute the model, or with a stage whose
    members have several, or compute some in bf16 and some not.

    Raises:
        PlanError: there is one; says what the runner lacks.
    """
    for part in plan.parts:
        if part.runner == "onnx" and (lack := find_lack(model, part.precision)):
            raise PlanError(
                f"{part.name} is for the onnx runner, and {lack}: plan with the torch runner,"
                " in fp32 or bf16"
            )
    for stage in plan.stages:
        _check_alike(plan, stage)


def find_lack(model: Model, precision: str) -> str:
    """Why ONNX Runtime's operators do not cover the model; empty if they do."""
    if model.architecture not in ONNX_ARCHITECTURES:
        return f"{model.architecture} is none of {', '.join(ONNX_ARCHITECTURES)}"
    block = next(layer for layer in model.layers if layer.kind is LayerKind.BLOCK)
    num_groups = next(kind.count for kind in block.neuron_kinds if kind.name == KV_GROUP)
    head_size = block.kv_elements_per_token // (2 * num_groups)
    if head_size % HEAD_SIZE_MULTIPLE:
        return f"its heads have {head_size} elements, no multiple of {HEAD_SIZE_MULTIPLE}"
    if model.features:
        return model.features[0]
    if precision in ROUNDED:
        for parameter in (p for layer in model.layers[1:] for p in layer.parameters):
            if len(parameter.shape) == 2 and parameter.shape[1] % ONNX_BLOCK:
                return (
                    f"{parameter.name} has {parameter.shape[1]} inputs, which blocks of"
                    f" {ONNX_BLOCK} do not divide"
                )
    return ""


def _check_alike(plan: Plan, stage: Stage) -> None:
    """Runners cut a pass into other calls, and so exchange at other places. What members hold
    whole they all compute, and go on with the same bits: bf16 would round them for some."""
    parts = [plan.part(member.part) for member in stage.members]
    others = [part for part in parts if part.runner != parts[0].runner]
    if others:
        raise PlanError(
            f"{parts[0].name} is for the {parts[0].runner} runner and {others[0].name} for"
            f" {others[0].runner}, but they share the neurons of layers {stage.start}:{stage.stop}:"
            " give the members of a stage the same runner"
        )
    others = [part for part in parts if _is_bf16(part) != _is_bf16(parts[0])]
    if others:
        raise PlanError(
            f"{parts[0].name} is at {parts[0].precision} and {others[0].name} at"
            f" {others[0].precision}, but they share the neurons of layers"
            f" {stage.start}:{stage.stop}: give bf16 to all members of a stage, or to none"
        )


def _is_bf16(part: Part) -> bool:
    return part.precision == "bf16"


def _check_names(wish: RunnerWish) -> None:
    known = ", ".join(COMPUTED)
    if wish.precision is not None and wish.precision not in COMPUTED:
        is_known = wish.precision in PRECISIONS
        what = "is computed by no runner" if is_known else "is not known"
        raise PlanError(f"the precision {wish.precision!r} {what}: give one of {known}")
    if wish.runner is not None and wish.runner not in RUNS:
        raise PlanError(f"the runner {wish.runner!r} is not known: give one of {', '.join(RUNS)}")


def _check_rounded(wish: RunnerWish, precision: str, lack: str) -> None:
    """Refuse a rounded precision where the onnx runner cannot be taken."""
    known = " or ".join(RUNS["torch"])
    if lack:
        raise PlanError(f"{precision} is for the onnx runner, and {lack}: give {known}")
    check_runner_on("onnx", wish.device, precision)
    if wish.is_deterministic or wish.runner == "torch":
        what = "a deterministic run is" if wish.is_deterministic else "the torch runner is"
        raise PlanError(
            f"{what} in {known}: give one of these instead of {precision}, or drop the other"
        )
