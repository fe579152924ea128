"""What `partwise plan --cluster` refuses: one clear line each, and the exit code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from partwise.cli.main import main
from partwise.cluster.presets import preset
from partwise.cluster.toml_file import write_cluster


@pytest.fixture
def refuse(tiny_llama: Path, capsys: pytest.CaptureFixture[str]):
    """Run a plan that fails; its one line."""

    def run(cluster: object, *words: object, code: int = 1) -> str:
        options = [str(word) for word in words]
        assert main(["plan", str(tiny_llama), "--cluster", str(cluster), *options]) == code
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("partwise: ")
        return err

    return run


# The cluster


@pytest.mark.parametrize(
    ("pattern", "instead", "message"),
    [
        (
            r"round_trip_us = 4000",
            "round_trip = 4000",
            "default_link has the key 'round_trip' without its unit: write round_trip_us",
        ),
        (
            r"memory_gib = 32$",
            "memory = 32",
            "host 'desktop' has the key 'memory' without its unit: write memory_gib",
        ),
        (r"memory_gib = 32$", "memory_gib = -32", "has memory_gib = -32, expected a number above"),
        (r"watts = 120", "watts = -1", "host 'desktop' has watts = -1, expected a number above 0"),
        (r"cores = 8", "cores = 0", "has cores = 0, expected a whole number of at least 1"),
        (
            r'\[\[servers\]\]\nname = "laptop"',
            '[[servers]]\nname = "desktop"',
            "the server 'desktop' is given twice: rename one",
        ),
        (
            r'name = "laptop"\nhost = "laptop"',
            'name = "laptop"\nhost = "attic"',
            "server 'laptop' is on host 'attic', which the cluster does not have: its hosts are",
        ),
        (r"\[\[servers\]\]\n", "[[servers]\n", "not a cluster file, for it is not TOML"),
    ],
)
def test_a_cluster_file_that_describes_none_is_refused(
    refuse, tmp_path: Path, pattern: str, instead: str, message: str
) -> None:
    text, count = re.subn(
        pattern, instead, write_cluster(preset("home")), count=1, flags=re.MULTILINE
    )
    assert count == 1
    path = tmp_path / "lab.toml"
    path.write_text(text)
    line = refuse(path)
    assert message in line
    assert str(path) in line


def test_a_cluster_that_is_not_there_is_refused(refuse) -> None:
    assert "there is no cluster file lab.toml: give another, or a preset" in refuse("lab.toml")
    assert "no preset is called 'hom': give one of local-N," in refuse("hom")
    assert "there is no cluster without a name" in refuse("")
    assert "cannot read the cluster file absent.toml" in refuse("local-2", "--host", "absent.toml")


def test_servers_that_the_cluster_does_not_have_are_refused(refuse) -> None:
    line = refuse("home", "--only", "laptop,attic")
    assert "the cluster has no server 'attic': its servers are desktop, laptop," in line
    assert "'laptop' is given twice" in refuse("home", "--only", "laptop,laptop")


# What the strategies ask for

TWO = ("--only", "laptop,desktop", "--strategy")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*TWO, "percentage", "--percent", "70,31"), "add up to 101, not 100: change one by -1"),
        ((*TWO, "percentage", "--percent", "70"), "percentages are [70]: give 2, for laptop,"),
        ((*TWO, "percentage", "--percent", "110,-10"), "'laptop' is 110: give a number above 0"),
        (
            (*TWO, "percentage", "--percent", "laptop=70,board=30"),
            "percentages: server 'board' is unknown; give one for each of laptop, desktop",
        ),
        (
            (*TWO, "ids", "--ids", "*/kv_group/laptop=0", "--ids", "*/kv_group/desktop=1:3"),
            "kv_group 1:3 of model.layers.0 for server 'desktop' is out of range: there are 0:2",
        ),
        (
            (*TWO, "ids", "--ids", "*/kv_group/laptop=0:2", "--ids", "*/kv_group/desktop=1"),
            "kv_group 1:2 of model.layers.0 is claimed twice, by 'laptop' and 'desktop'",
        ),
        ((*TWO, "ids", "--ids", "*/kv_group/laptop=0"), "is owned by nobody"),
        ((*TWO, "ids", "--ids", "*/expert/laptop=0"), "have no neurons of kind 'expert'"),
        ((*TWO, "ids", "--ids", "7:99/kv_group/laptop=0"), "no layers are meant by '7:99'"),
        ((*TWO, "ids", "--ids", "*/kv_group/attic=0"), "goes to the unknown server 'attic'"),
        ((*TWO, "layers", "--layers", "laptop=0:4,desktop=3:6"), "blocks 3:4 are claimed twice"),
        ((*TWO, "layers", "--layers", "laptop=0:4,desktop=5:6"), "blocks 4:5 are held by nobody"),
        ((*TWO, "layers", "--layers", "laptop=0:4,desktop=4:9"), "4:9, out of range: "),
        ((*TWO, "type", "--types", "expert=laptop"), "has no kind 'expert': it has block,"),
        ((*TWO, "type", "--types", "mlp=attic"), "'mlp' goes to the unknown server 'attic'"),
        (("--strategy", "count"), "4 servers are more than the 2 granules of kv_group in a layer"),
        (
            (*TWO, "count", "--granules", "mlp_unit=160"),
            "2 servers are more than the 1 granules of mlp_unit in a layer",
        ),
        (("--strategy", "balanced", "--precision", "bf16"), "gives no rates for bf16, only for"),
        (
            (*TWO, "count", "--granules", "foo=3"),
            "--granules has 'foo': tiny-llama0 has no kind of that name, it has kv_group,",
        ),
    ],
)
def test_a_strategy_that_cannot_do_what_is_asked_says_why(
    refuse, words: tuple[str, ...], message: str
) -> None:
    assert message in refuse("home", *words)


def test_a_model_that_fits_nowhere_says_what_is_missing(refuse, tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    text = re.sub(r"memory_gib = .*", "memory_gib = 0.0001", write_cluster(preset("local-2")))
    path.write_text(text.replace("memory_gib = 0.0001", "memory_gib = 1", 1))
    assert "iB more" in refuse(path, "--strategy", "balanced")


def test_files_that_cannot_be_written_are_named(refuse) -> None:
    assert "cannot write the plan to /absent/p" in refuse("home", "--out", "/absent/p")
    assert "cannot write the picture to /absent/p" in refuse("home", "--svg", "/absent/p")


# Options that mean nothing


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--strategy", "magic"), "--strategy is 'magic': give one of greedy, balanced,"),
        (
            ("--strategy", "greedy", "--percent", "70,30"),
            "--percent is for the strategy percentage, not for 'greedy'",
        ),
        (("--strategy", "greedy", "--keep-order"), "--keep-order is for the strategy balanced"),
        (("--strategy", "count", "--cache-fit"), "--cache-fit is for the strategy greedy or"),
        (("--strategy", "count", "--allow", "int4"), "--allow is for the strategy greedy or"),
        (("--strategy", "count", "--goal", "latency"), "--goal is for --strategy auto and"),
        (("--strategy", "percentage", "--percent", "a,b"), "--percent has 'a': give numbers"),
        (("--strategy", "type", "--types", "mlp"), "--types has 'mlp': give NAME=VALUE"),
        (("--strategy", "layers", "--layers", "a=0:1,a=1:2"), "each name once"),
        (("--strategy", "ids", "--ids", "kv_group/laptop=0"), "give LAYERS/KIND/NAME=IDS"),
        (("--strategy", "count", "--granules", "mlp_unit=0"), "a whole number of at least 1"),
        (("--streams", "1,x"), "--streams is '1,x': give whole numbers from 1 on"),
        (("--streams", "0"), "--streams is '0'"),
        (("--streams", "-3"), "--streams is '-3'"),
        (("--streams", "8,8"), "--streams is '8,8'"),
        (("--precision", "fp8"), "--precision is 'fp8': give one of fp32,"),
        (("--allow", "int8,zip"), "--allow has 'zip': it may have int8, int4, sparse"),
        (("--checkpointing",), "--checkpointing is for training: give --train too"),
        (("--goal", "speed"), "invalid choice: 'speed'"),
        (("--compare", "--strategy", "greedy"), "--compare tries all strategies: leave out"),
        (("--compare", "--out", "x"), "--compare tries all strategies: leave out --out"),
        (("--sequences", "0"), "--sequences is 0, it must be at least 1"),
        (("--sequences", "1000001"), "--sequences is 1000001, it must be at most 1,000,000"),
        (("--sequences", "9" * 23), "it must be at most 1,000,000"),
        (("--streams", "1,1000001"), "--streams is 1000001, it must be at most 1,000,000"),
        (("--streams", "9" * 21), "--streams has a number of 21 digits, 999999999...: give"),
        (("--streams", "9" * 5000), "--streams has a number of 5,000 digits"),
        (("--strategy", "count", "--granules", f"kv_group={'9' * 5000}"), "of 5,000 digits"),
        (("--strategy", "layers", "--layers", f"laptop=0:{'9' * 5000}"), "of 5,000 digits"),
        (("--strategy", "ids", "--ids", f"0:{'9' * 5000}/kv_group/a=0"), "of 5,000 digits"),
        (("--strategy", "percentage"), "--strategy percentage needs --percent 70,30"),
        (("--strategy", "layers"), "--strategy layers needs --layers NAME=0:10,..."),
        (("--strategy", "type"), "--strategy type needs --types KIND=NAME,..."),
        (("--strategy", "ids"), "--strategy ids needs --ids LAYERS/KIND/NAME=0:3,7"),
        (("--streams", ""), "--streams is '': give whole numbers from 1 on"),
        (("--strategy", ""), "--strategy is '': give one of greedy,"),
        (("--precision", ""), "--precision is '': give one of fp32,"),
        (("--allow", ""), "--allow has '': it may have int8, int4, sparse"),
        (("--strategy", "percentage", "--percent", ""), "--percent has ''"),
        (("--strategy", "count", "--granules", ""), "--granules has ''"),
        (("--context", "513"), "reads 512 tokens: give 512 or fewer"),
        (("--parts", "2"), "not allowed with"),
    ],
)
def test_options_that_mean_nothing_are_wrong_usage(
    refuse, words: tuple[str, ...], message: str
) -> None:
    assert message in refuse("home", *words, code=2)


@pytest.mark.parametrize(
    "words",
    [
        ("--strategy", "count"),
        ("--only", "laptop"),
        ("--host", "host.toml"),
        ("--goal", "latency"),
        ("--compare",),
        ("--streams", "8"),
        ("--allow", "int8"),
        ("--train",),
        ("--cache-fit",),
        ("--ids", "*/kv_group/a=0"),
        ("--streams", ""),
    ],
)
def test_options_of_a_cluster_need_one(
    words: tuple[str, ...], tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tiny_llama), "--parts", "3", *words]) == 2
    line = f"partwise: {words[0]} is for a cluster: give --cluster local-3 instead of --parts\n"
    assert capsys.readouterr().err == line
    assert main(["plan", str(tiny_llama), "--servers", "a:1,b:2", *words]) == 2
    line = f"partwise: {words[0]} is for a cluster: give --cluster FILE instead of --servers\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("precision", ["int3", "fp16", ""])
@pytest.mark.parametrize("words", [("plan", "--parts", "2"), ("generate", "x", "--raw")])
def test_a_precision_that_no_runner_has_is_named_with_those_there_are(
    words: tuple[str, ...], precision: str, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *options = words
    assert main([command, str(tiny_llama), *options, "--precision", precision]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--precision is {precision!r}, which no runner computes:" in line
    assert line.endswith("give one of fp32, bf16, int8, int4")


def test_int4_is_refused_for_a_family_without_its_operators(
    tiny_gpt2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tiny_gpt2), "--parts", "2", "--precision", "int4"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "int4 is for the onnx runner, and GPT2LMHeadModel is none of Llama" in line
    assert line.endswith("give fp32 or bf16")
