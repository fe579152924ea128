"""The codec of a deployment's links, from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

import partwise
from partwise.distributor import balance_layers
from partwise.distributor.codecs import with_codec
from partwise.errors import UsageError
from partwise.model import open_model


def test_a_codec_that_is_not_known_or_contradicts_the_other_options_is_refused() -> None:
    with pytest.raises(UsageError, match="codec is 'zip': give one of fp32, bf16, fp16, int8"):
        partwise.DeployOptions(codec="zip")
    with pytest.raises(UsageError, match="the same bits need fp32 on every link"):
        partwise.DeployOptions(codec="int8", is_deterministic=True)
    assert partwise.DeployOptions(codec="fp32", is_deterministic=True).codec == "fp32"


@pytest.mark.parametrize(
    ("options", "used"),
    [({}, "int8"), ({"codec": "bf16"}, "bf16"), ({"is_deterministic": True}, "fp32")],
    ids=["as planned", "as asked", "deterministic"],
)
def test_links_carry_what_is_asked_for_else_what_is_planned(
    tiny_llama: Path, thread_servers, options: dict, used: str
) -> None:
    servers = list(thread_servers.addresses)
    plan = with_codec(balance_layers(open_model(tiny_llama), servers), "int8")
    deploy_options = partwise.DeployOptions(
        threads=1, token_file=thread_servers.token_file, **options
    )
    with partwise.deploy(tiny_llama, servers=servers, plan=plan, options=deploy_options) as net:
        list(net.generate("Once upon", max_tokens=3, chat=False))
        assert [link.codec for link in net.plan.links] == [used]
        [first, last] = net.reports()
    (link,) = first.links
    assert link.codec == used
    assert (link.moved_bytes < link.plain_bytes) == (used != "fp32")
    assert last.links == ()
