"""Which of several machines this one is, by the variables that torchrun's launchers set.

Every machine runs the same command; its environment says which one it is:

    PET_NNODES        how many there are, may be left out
    PET_NODE_RANK     0 to PET_NNODES - 1
    PET_MASTER_ADDR   name or address of node 0, as the others reach it
    PET_MASTER_PORT   a port there that is free

PET_ is what torchrun's own arguments are called by in the environment (torch/distributed/run.py).
Kubeflow Trainer's torch runtimes set them on each pod.
"""

import fcntl
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from components.common.errors import ConfigError

PREFIX = "PET_"
NODES, RANK = "PET_NNODES", "PET_NODE_RANK"
MASTER_ADDR, MASTER_PORT = "PET_MASTER_ADDR", "PET_MASTER_PORT"


@dataclass(frozen=True)
class Node:
    """One of the machines that train together; node 0 leads: it alone logs, saves and publishes."""

    rank: int = 0
    nodes: int = 1
    master_addr: str = ""
    master_port: int = 0

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.nodes == 1

    def __str__(self) -> str:
        return f"node {self.rank} of {self.nodes}"


ALONE = Node()


def this_node(nodes: int, environment: Mapping[str, str]) -> Node:
    """Which of the machines this one is.

    Raises:
        ConfigError: a variable is missing, contradicts `nodes`, or is not what it should be.
    """
    told = environment.get(NODES)
    if told is not None and told != str(nodes):
        raise ConfigError(
            f"nodes is {nodes}, but {NODES} is {told!r} in the environment",
            hint="Set nodes to the number of machines that the job has",
        )
    if nodes == 1:
        return ALONE
    missing = [name for name in (RANK, MASTER_ADDR, MASTER_PORT) if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"nodes is {nodes}, but the environment does not say which of them this machine is:"
            f" {', '.join(missing)} not set",
            hint=f"On each machine set {RANK} (0 to {nodes - 1}), and {MASTER_ADDR} and"
            f" {MASTER_PORT} to where the others reach node 0; the jobs of Kubeflow Trainer do",
        )
    rank = _number(environment, RANK, 0, nodes - 1)
    port = _number(environment, MASTER_PORT, 1, 65535)
    return Node(rank, nodes, environment[MASTER_ADDR], port)


def _number(environment: Mapping[str, str], name: str, least: int, most: int) -> int:
    text = environment[name]
    if not (text.isdecimal() and text.isascii() and least <= int(text) <= most):
        raise ConfigError(
            f"{name} is {text!r} in the environment", hint=f"It must be {least} to {most}"
        )
    return int(text)


def interface_to(host: str) -> str:
    """The network interface through which IPv4 reaches a host; "" where there is none to be found.

    gloo takes the one that this machine's own name leads to, which is often the loopback.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing
            address = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                try:
                    asked = struct.pack("256s", name.encode()[:15])
                    found = fcntl.ioctl(probe.fileno(), 0x8915, asked)  # SIOCGIFADDR
                except OSError:  # it has no address
                    continue
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    except OSError:
        pass
    return ""
