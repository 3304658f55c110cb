import os
import socket

import pytest

from components.common.errors import ConfigError
from components.train.node import ALONE, Node, interface_to, this_node

SECOND = {
    "PET_NNODES": "2",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "trainjob-node-0-0.trainjob",
    "PET_MASTER_PORT": "29400",
}


def test_the_variables_of_a_launcher_say_which_node_this_is() -> None:
    assert this_node(2, SECOND) == Node(1, 2, "trainjob-node-0-0.trainjob", 29400)
    assert not this_node(2, SECOND).leads
    assert this_node(2, SECOND | {"PET_NODE_RANK": "0"}).leads
    assert this_node(2, {k: v for k, v in SECOND.items() if k != "PET_NNODES"}).nodes == 2


def test_one_machine_needs_no_variables() -> None:
    assert this_node(1, {}) == ALONE
    assert this_node(1, SECOND | {"PET_NNODES": "1", "PET_NODE_RANK": "0"}) == ALONE


@pytest.mark.parametrize(
    ("nodes", "environment", "message"),
    [
        (
            2,
            {},
            "nodes is 2, but the environment does not say which of them this machine is:"
            " PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT not set. On each machine set"
            " PET_NODE_RANK (0 to 1)",
        ),
        (2, SECOND | {"PET_MASTER_ADDR": ""}, "nodes is 2, .*PET_MASTER_ADDR not set"),
        (2, SECOND | {"PET_NODE_RANK": "2"}, "PET_NODE_RANK is '2' .*It must be 0 to 1"),
        (2, SECOND | {"PET_NODE_RANK": "-1"}, "PET_NODE_RANK is '-1'"),
        (2, SECOND | {"PET_MASTER_PORT": "http"}, "PET_MASTER_PORT is 'http' .* 1 to 65535"),
        (3, SECOND, "nodes is 3, but PET_NNODES is '2' in the environment. Set nodes to"),
        # Each machine would train by itself, and all would write to the same places.
        (1, SECOND, "nodes is 1, but PET_NNODES is '2'"),
        (2, SECOND | {"PET_NNODES": "1:2"}, "nodes is 2, but PET_NNODES is '1:2'"),
    ],
)
def test_what_the_variables_cannot_mean_is_refused(
    nodes: int, environment: dict[str, str], message: str
) -> None:
    message = message.replace("(0 to 1)", r"\(0 to 1\)")
    with pytest.raises(ConfigError) as error:
        this_node(nodes, environment)
    assert error.match(message)


@pytest.mark.skipif(not os.path.exists("/sys/class/net/lo"), reason="no loopback interface lo")
def test_the_interface_to_a_host_is_found_by_its_address() -> None:
    assert interface_to("127.0.0.1") == "lo"
    assert interface_to("no.such.host.invalid") == ""
    assert interface_to("192.0.2.1") in {"", *(name for _, name in socket.if_nameindex())}
