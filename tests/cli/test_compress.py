"""`partwise compress` from its arguments to its report, and what its versions are used for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partwise.cli.compressing import steps as steps_module
from partwise.cli.main import main
from partwise.compress.accuracy import Outputs
from partwise.compress.recipe import Recipe, climb
from partwise.distributor.reduction import name_reduction
from partwise.errors import StoreError
from partwise.store import Store, list_versions, open_version

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough for two windows of the context's 512 tokens in its last tenth."""
    from pydoc_data.topics import topics

    path = tmp_path_factory.mktemp("text") / "manual.txt"
    path.write_text("\n".join(topics.values())[:40_000], encoding="utf-8")
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def compress(run: Run, model: Path, text: Path) -> Callable[..., dict[str, Any]]:
    """Run it on the random llama; its JSON document."""

    def compress(*words: object) -> dict[str, Any]:
        code, out, err = run("compress", model, *words, "--calibration", text, "--json")
        assert code == 0, err
        document: dict[str, Any] = json.loads(out)
        return document

    return compress


def test_the_ladder_takes_the_steps_of_plans_and_reports_each(
    compress: Callable[..., dict[str, Any]], model: Path
) -> None:
    document = compress("--ladder")
    steps = document["steps"]
    names = [step["step"] for step in steps]
    assert names == [
        name_reduction("int8", 0),
        name_reduction("int4", 0),
        *(name_reduction("int4", share) for share in (0.1, 0.3, 0.5)),
    ]
    assert names == [recipe.step for recipe in climb(Recipe(bits=8))]
    assert [m.version for m in list_versions(model)] == [step["version"] for step in steps]
    sizes = [step["bytes"] for step in steps]
    assert sizes == sorted(sizes, reverse=True)
    assert steps[0]["kl_nats"] < steps[1]["kl_nats"] < steps[-1]["kl_nats"]
    for step in steps:
        assert step["perplexity"] > 1
        assert 0 < step["top1_agreement"] <= 1
        assert step["compress_s"] > 0
        assert step["bytes_ratio"] == step["bytes"] / document["source_bytes"]
    assert document["source"] == "as published"
    assert document["claimed_loss"] == 0.001
    assert {row["how"] for row in document["buffers"]} == {"from the shapes", "measured (torch)"}


def test_a_compressed_version_is_described_planned_and_generates(
    compress: Callable[..., dict[str, Any]], run: Run, model: Path, tmp_path: Path
) -> None:
    compress("--int4", "--sparsity", "0.5", "--method", "gptq")
    plan = tmp_path / "plan.json"
    code, out, err = run("plan", model, "--parts", 2, "--model-version", 1, "--out", plan, "--json")
    assert code == 0, err
    assert json.loads(plan.read_text())["model"]["version"] == 1
    code, out, _ = run("model", model, "--model-version", 1, "--json")
    assert json.loads(out)["layers"][1]["neurons"]["mlp_unit"] == 96
    words = ("generate", model, "Once upon a time", "--raw", "--max-tokens", 6, "--json")
    code, planned, err = run(*words, "--plan", plan)
    assert code == 0, err
    code, one, err = run(*words, "--model-version", 1)
    assert code == 0, err
    assert json.loads(planned)["token_ids"] == json.loads(one)["token_ids"]
    code, source, _ = run(*words)
    assert json.loads(source)["token_ids"] != json.loads(one)["token_ids"]


def test_the_plan_of_one_version_is_refused_for_another(
    compress: Callable[..., dict[str, Any]], run: Run, model: Path, tmp_path: Path
) -> None:
    compress("--int8")
    plan = tmp_path / "plan.json"
    assert run("plan", model, "--parts", 1, "--out", plan)[0] == 0
    code, _, err = run("generate", model, "x", "--plan", plan, "--model-version", 1)
    assert code == 2
    assert "version 1 is asked for and the plan is for version 0" in err
    # A plan that is edited to name another version is for another model.
    document = json.loads(plan.read_text())
    document["model"]["version"] = 1
    plan.write_text(json.dumps(document))
    code, _, err = run("generate", model, "x", "--plan", plan)
    assert code == 1
    assert "the plan is for another model" in err


def test_the_table_names_the_source_and_every_step(
    run: Run, tiny_llama: Path, model: Path, text: Path
) -> None:
    (model / "source.json").write_text('{"partwise_source": "dequantised Q4_1"}')
    code, out, err = run("compress", model, "--int8", "--asymmetric", "--calibration", text)
    assert code == 0
    assert "source: model version 0, dequantised Q4_1," in out
    assert "version 1: int8, search, asymmetric blocks of 32; " in out
    assert "; 1 matrices int8 nearest" in out
    assert "; 43 matrices int8 searched" in out
    assert "PROMPT --model-version 1 --precision int8" in err
    assert "measuring the source" in err


def test_a_version_is_compressed_further(
    compress: Callable[..., dict[str, Any]], model: Path
) -> None:
    compress("--sparsity", "0.4")
    document = compress("--int4", "--model-version", 1)
    assert document["source_version"] == 1
    assert open_version(model, 2).layers[1].neuron_kinds[1].count == 96
    with Store.open(model, 2) as store:
        assert store.manifest.derivation
        assert store.manifest.derivation.parent == 1
        assert store.manifest.derivation.recipe.startswith(
            "fp32 without 40 % of the MLP units; then"
        )


def test_a_version_that_is_broken_is_said_to_be(
    run: Run, model: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = steps_module.run_to_head

    def run_to_head(path: Path, version: int, *rest: Any) -> Outputs:
        outputs = original(path, version, *rest)
        factor = 1e6 if version else 1.0
        return Outputs(states=[factor * state for state in outputs.states], head=outputs.head)

    monkeypatch.setattr(steps_module, "run_to_head", run_to_head)
    words = ("compress", model, "--int8", "--calibration", text)
    code, out, err = run(*words)
    assert code == 0
    assert " broken " in out.splitlines()[2]
    assert "broken: what it predicts has no finite perplexity" in out
    assert "use it" not in err
    code, out, _ = run(*words, "--json")
    (step,) = json.loads(out, parse_constant=pytest.fail)["steps"]
    assert (step["perplexity"], step["is_broken"]) == (None, True)
    assert not step["is_within_claimed_loss"]


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize(
    ("error", "said"),
    [(StoreError("the disk is full"), "the disk is full"), (KeyboardInterrupt(), "")],
)
def test_steps_that_were_finished_are_reported_when_a_later_one_fails(
    run: Run, model: Path, text: Path, monkeypatch: pytest.MonkeyPatch,
    form: tuple[str, ...], error: BaseException, said: str,
) -> None:  # fmt: skip
    original = steps_module.compress

    def compress(path: Path, model: Any, source: Any, recipe: Recipe, *rest: Any) -> Any:
        if recipe.bits == 4:
            raise error
        return original(path, model, source, recipe, *rest)

    monkeypatch.setattr(steps_module, "compress", compress)
    code, out, err = run("compress", model, "--ladder", "--calibration", text, *form)
    assert code != 0
    assert said in err
    assert "use it" not in err
    if form:
        document = json.loads(out)
        assert [step["step"] for step in document["steps"]] == ["int8"]
        assert not document["is_complete"]
    else:
        assert "version 1: int8" in out
        assert "finished before the run ended early" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "nothing to do: give --int8, --int4, --ladder or --sparsity"),
        (("--sparsity", "0.95"), 2, "--sparsity is 0.95, outside 0 to 0.9"),
        (("--sparsity", "-1"), 2, "--sparsity is -1, outside 0 to 0.9"),
        (("--sparsity", "some"), 2, "--sparsity is 'some': give a share from 0 to 0.9"),
        (("--sparsity=nan",), 2, "--sparsity is nan, outside 0 to 0.9"),
        (("--int4", "--block", "64"), 1, "mlp.down_proj.weight: blocks are powers of two from 16"),
        (("--int4", "--block", "0"), 2, "--block is 0"),
        (("--int8", "--int4"), 2, "not allowed with argument"),
        (("--ladder", "--sparsity", "0.5"), 2, "--ladder has sparsities of its own"),
        (("--sparsity", "2:4", "--method", "gptq"), 2, "--method are for --int8"),
        (("--int8", "--sparsity", "2:4", "--method", "gptq"), 1, "gptq would fill the zeros"),
        (("--int8", "--model-version", "7"), 1, "has no version 7: it has 0;"),
        (("--int8", "--model-version", "-7"), 2, "--model-version is -7"),
        (("--int8", "--threads", "0"), 2, "--threads is 0"),
        (("--int8", "--calibration", "missing.txt"), 1, "missing.txt: No such file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    run: Run, model: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    found, out, err = run("compress", model, *words)
    assert (found, out) == (code, "")
    line = err.strip().splitlines()[-1]
    assert said in line
    assert list_versions(model) == []


def test_a_calibration_text_that_is_too_short_is_refused(
    run: Run, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("Too short. " * 40)
    code, _, err = run(
        "compress", model, "--int4", "--method", "gptq", "--calibration", tmp_path / "short.txt"
    )
    assert code == 1
    assert "short.txt is too short" in err
    assert "at least 1024 are needed" in err
