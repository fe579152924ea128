"""`partwise locate` says where a neuron is, and what there is if it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partwise.cli.main import main
from partwise.distributor import encode_plan, read_plan
from partwise.distributor.build import identify, join
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import Member, NeuronShare, Part, Plan, Stage
from partwise.distributor.verify import verify_plan
from partwise.model import open_model


def share(kind: str, *ranges: tuple[int, int]) -> NeuronShare:
    return NeuronShare(kind=kind, ranges=ranges)


@pytest.fixture(scope="module")
def split_plan(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedding alone, then two members that share MLP units and leave KV groups whole."""
    model = open_model(tiny_llama)
    members = (
        Member(part="a", neurons=(share("mlp_unit", (0, 32), (64, 160)),)),
        Member(part="b", neurons=(share("mlp_unit", (32, 64)),)),
    )
    stages = (
        Stage(start=0, stop=1, members=(Member(part="in"),)),
        Stage(start=1, stop=len(model.layers), members=members),
    )
    plan = Plan(
        plan_version=4,
        strategy="by hand",
        model=identify(model),
        stages=stages,
        parts=(
            Part(name="in", server="10.0.0.5:7070"),
            Part(name="a", server="lab-2", precision="int8"),
            Part(name="b", server="lab-3"),
        ),
        links=join(stages),
        placements=place_parameters(model, stages),
    )
    verify_plan(plan, model)
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    path.write_bytes(encode_plan(plan))
    return path


def test_a_neuron_that_is_split_has_one_owner(
    split_plan: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["locate", str(split_plan), "2", "70", "--kind", "mlp_unit", "--model", str(tiny_llama)]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "mlp_unit 70 of 160 in layer 2 (model.layers.1), plan_version 4: owned by one part",
        "",
        "server  part  precision  neurons       of them",
        "------  ----  ---------  ------------  -------",
        "lab-2   a     int8       0:32, 64:160      128",
    ]


def test_a_kind_that_is_not_split_says_so_and_lists_all_members(
    split_plan: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["locate", str(split_plan), "2", "1", "--kind", "kv_group", "--model", str(tiny_llama)]
    assert main(words) == 0
    head, _, _, _, *rows = capsys.readouterr().out.splitlines()
    assert head.endswith("plan_version 4: not split, all 2 members hold it")
    assert [row.split() for row in rows] == [
        ["lab-2", "a", "int8", "0:2", "2"],
        ["lab-3", "b", "fp32", "0:2", "2"],
    ]


def test_json_has_the_same_by_the_layers_name(
    split_plan: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["locate", str(split_plan), "model.embed_tokens", "7", "--model", str(tiny_llama)]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    num_rows = open_model(tiny_llama).vocab_size
    assert document == {
        "plan_version": 4,
        "layer": 0,
        "layer_name": "model.embed_tokens",
        "kind": "vocabulary_row",
        "neuron": 7,
        "num_neurons": num_rows,
        "is_split": False,
        "holders": [
            {
                "part": "in",
                "server": "10.0.0.5:7070",
                "precision": "fp32",
                "ranges": [[0, num_rows]],
                "num_owned": num_rows,
            }
        ],
    }


def test_the_model_is_found_by_its_name(
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(tiny_llama), "--parts", "2", "--out", "plan.json"]) == 0
    capsys.readouterr()
    assert main(["locate", "plan.json", "lm_head", "3"]) == 2
    name = read_plan(Path("plan.json")).model.name
    assert f"the plan is for {name}, and models/{name} is no directory" in capsys.readouterr().err
    (tmp_path / "models").symlink_to(tiny_llama.parent)
    assert main(["locate", "plan.json", "lm_head", "3"]) == 0
    assert "not split, held whole" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["9", "0"], 1, "has no layer 9: it has 9, give 0 to 8"),
        (["-1", "0"], 1, "has no layer -1"),
        (["h.1", "0"], 1, "has no layer 'h.1': its layers are called 'model.embed_tokens'"),
        (
            ["2", "160", "--kind", "mlp_unit"],
            1,
            "has no mlp_unit 160: there are 160, give 0 to 159",
        ),
        (["2", "0", "--kind", "neuron"], 1, "no neurons of kind 'neuron': give one of kv_group,"),
        (["2", "0"], 1, "has several kinds of neurons: say which of kv_group, mlp_unit"),
        (["7", "0"], 1, "has no neurons that could be split: a, b hold it whole"),
        (["2", "x"], 2, "argument NEURON: invalid int value: 'x'"),
        (["2", "0", "--model", "nowhere"], 1, "nowhere"),
    ],
)
def test_bad_input_is_one_line(
    split_plan: Path,
    tiny_llama: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    assert main(["locate", str(split_plan), "--model", str(tiny_llama), *words]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_a_file_that_is_no_plan_and_a_plan_of_another_model_are_refused(
    split_plan: Path, tiny_llama: Path, tiny_gpt2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(tiny_llama)]
    for plan, says in (
        (tiny_llama / "config.json", "not a plan: "),
        (tiny_llama / "nothing", "cannot read the plan"),
    ):
        assert main(["locate", str(plan), "0", "0", *model]) == 1
        assert says in capsys.readouterr().err
    assert main(["locate", str(split_plan), "0", "0", "--model", str(tiny_gpt2)]) == 1
    assert "the plan is for another model" in capsys.readouterr().err
