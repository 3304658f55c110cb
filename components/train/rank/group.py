"""What the ranks of several nodes tell each other besides gradients, through their process group.

The nodes share no folder, and only node 0 needs a store of checkpoints.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from components.common import strict_json
from components.common.errors import ConfigError, DataError
from components.common.files import atomic_file

CHUNK = 64 << 20  # bytes of a checkpoint that are sent, and held, at once

# Keys in the store.
COMMON, STOP_ASKED, STOP_AFTER, LEAVING = "common", "stop-asked", "stop-after", "leaving"

_FRESH, _RESUMED, _ENDED = range(3)


class Ended(Exception):
    """The run that is resumed has nothing left to do."""


class Group:
    """The ranks of all nodes, once torch.distributed is initialized.

    Args:
        common: what all nodes have to have in common, by its name; values that JSON knows.
        ended: on node 0: nothing is left to do.
        live: called during long work.
    """

    def __init__(
        self,
        common: Mapping[str, Any],
        *,
        ended: bool = False,
        live: Callable[[], None] = lambda: None,
    ) -> None:
        self.common, self.ended, self.live = common, ended, live
        # As torchrun says.
        self.rank, self.local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
        self.node = int(os.environ["GROUP_RANK"])

    @functools.cached_property
    def store(self) -> Any:
        """The key-value store that torchrun on node 0 serves."""
        from torch import distributed

        everything: Any = distributed.distributed_c10d
        return everything.PrefixStore("race", everything._get_default_store())

    def agree(self, checkpoint: Any) -> None:
        """Have all ranks start from node 0's checkpoint; called before fairseq loads one.

        If node 0 goes on from `checkpoint_last.pt`, every other node has that file as well then,
        in its own folder, and goes on from it. So no two can start from different ones, whatever
        is published meanwhile.

        Args:
            checkpoint: fairseq's CheckpointConfig.

        Raises:
            ConfigError: this node has other parameters, data or code than node 0.
            DataError: the file did not arrive as it was sent.
            Ended: there is nothing left to do.
        """
        self._compare()
        mine = _ENDED if self.ended else _FRESH if checkpoint.reset_optimizer else _RESUMED
        path = Path(checkpoint.restore_file)
        size = path.stat().st_size if mine == _RESUMED else 0
        state, size = self._broadcast([mine, size])
        if state == _ENDED:
            raise Ended
        if state == _FRESH:
            return
        if self.node:
            path = Path(checkpoint.save_dir) / "checkpoint_last.pt"
            checkpoint.restore_file = str(path)
            checkpoint.reset_optimizer = False
            checkpoint.reset_dataloader = False
            checkpoint.reset_meters = False
        with self._written(path) as target:
            self._distribute(path, target, size)
        self._barrier()  # what one rank of a node has written, all of them read

    def _compare(self) -> None:
        if self.rank == 0:
            self.store.set(COMMON, strict_json.dumps(dict(self.common)))
        if self.local_rank or not self.node:
            return
        theirs = strict_json.loads(self.store.get(COMMON))
        differences = [
            f"{name} is {self.common.get(name)}, on node 0 {theirs.get(name)}"
            for name in sorted({*self.common, *theirs})
            if self.common.get(name) != theirs.get(name)
        ]
        if differences:
            raise ConfigError(
                f"node {self.node} would train something else: {'; '.join(differences)}",
                hint="Run the same command with the same data, model and code on every node",
            )

    def _broadcast(self, values: list[int]) -> list[int]:
        """The numbers that rank 0 has in place of these."""
        import torch

        tensor = torch.tensor(values, dtype=torch.int64, device=_device())
        torch.distributed.broadcast(tensor, src=0)
        return [int(value) for value in tensor.tolist()]

    @contextlib.contextmanager
    def _written(self, path: Path) -> Iterator[BinaryIO | None]:
        """Where this rank writes what arrives, if it does: one rank of each node but node 0."""
        if self.local_rank or not self.node:
            yield None
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial, partial.open("wb") as file:
            yield file

    def _distribute(self, source: Path, target: BinaryIO | None, size: int) -> None:
        """Send `source` from rank 0 to all others, in parts; some write it to `target`."""
        import torch

        digest = hashlib.sha256()
        with source.open("rb") if self.rank == 0 else contextlib.nullcontext() as file:
            for start in range(0, size, CHUNK):
                length = min(CHUNK, size - start)
                if file is not None:
                    read = bytearray(file.read(length))
                    part = torch.frombuffer(read, dtype=torch.uint8).to(_device())
                else:
                    part = torch.empty(length, dtype=torch.uint8, device=_device())
                torch.distributed.broadcast(part, src=0)
                arrived = part.cpu()  # waits for it, so that no more than one part is on its way
                self.live()
                if file is not None or target is not None:
                    data = arrived.numpy().tobytes()
                    digest.update(data)
                    if target is not None:
                        target.write(data)
        sent = bytes(self._broadcast(list(digest.digest())))
        if target is not None and sent != digest.digest():
            raise DataError(
                f"the checkpoint that node 0 sent did not reach node {self.node} as it was",
                hint="Start the nodes again; if it happens again, check their network",
            )

    def _barrier(self) -> None:
        import torch

        ones = torch.ones(1, device=_device())
        torch.distributed.all_reduce(ones)
        ones.item()  # NCCL returns before it is done

    def leave(self, seconds: float = 30.0) -> None:
        """Wait until every rank is about to leave, so that none finds another one gone; or so long.

        For an end that all ranks come to at the same point.
        """
        import datetime

        import torch

        ranks = range(torch.distributed.get_world_size())
        with contextlib.suppress(RuntimeError):  # torch's errors of a store
            self.store.set(f"{LEAVING}-{self.rank}", "")
            keys = [f"{LEAVING}-{rank}" for rank in ranks]
            self.store.wait(keys, datetime.timedelta(seconds=seconds))


class SharedStop:
    """How the ranks of several nodes find the same boundary to stop at; see hooks.Stop.

    Args:
        asked: the file by which this node's supervisor asks for it.
    """

    def __init__(self, group: Group, asked: Path) -> None:
        self._group, self._file = group, asked
        self._passed_on = False

    def asked(self) -> bool:
        """Whether some node was asked to stop, as rank 0 knows it."""
        group = self._group
        if group.local_rank == 0 and not self._passed_on and self._file.exists():
            group.store.set(STOP_ASKED, "")
            self._passed_on = True
        return group.rank == 0 and bool(group.store.check([STOP_ASKED]))

    def decide(self, after: int) -> None:
        self._group.store.set(STOP_AFTER, str(after))
        self._group.store.get(STOP_AFTER)  # the store has it when it answers

    def decided(self) -> int | None:
        store = self._group.store
        return int(store.get(STOP_AFTER)) if store.check([STOP_AFTER]) else None


def _device() -> str:
    """Where the process group's backend wants its tensors."""
    import torch

    return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
