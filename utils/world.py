"""Which of several processes this one is, and how those that torchrun starts wait for each other.

Nothing is added up across processes: they only exchange messages. Imports torch.distributed where it is
needed alone, so that an entry point can ask before it imports torch.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from utils.console import speaks
from utils.errors import ConfigError
from utils.text import one_line

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

Result = TypeVar("Result")
PATIENCE = timedelta(days=7)  # for the slowest process; that of one that died torchrun ends at once
LET_IT_SPEAK = 2.0  # seconds until those that have nothing to say end: torchrun ends all when the first does
ASK_AGAIN = 0.05  # seconds between two looks at what rank 0 calls


@dataclass(frozen=True)
class World:
    """Process `rank` of torchrun's `size`, which wait for each other; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def joined(self) -> bool:
        """Whether there are several processes."""
        return self.size > 1

    def gathered(self, value: Any) -> list[Any]:
        """The value (anything that can be pickled) of every process, by rank; waits for all of them."""
        if not self.joined:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(values, value)
        except RuntimeError as error:
            raise _lost(error) from error
        return values

    def gathered_tensor(self, value: Tensor) -> Tensor:
        """The tensors of every process, all of one shape and type, by rank: (size,...)."""
        import torch.distributed as dist

        if not self.joined:
            return value[None]
        tensors = value.new_empty((self.size * value.shape[0], *value.shape[1:]))
        self._between_all(
            value, lambda group: dist.all_gather_into_tensor(tensors, value.contiguous(), group)
        )
        return tensors.unflatten(0, (self.size, value.shape[0]))

    def tensor_of(self, rank: int, value: Tensor) -> Tensor:
        """The tensor of process `rank`, where every process has a `value` of that shape and type."""
        import torch
        import torch.distributed as dist

        if not self.joined:
            return value
        received = value.contiguous() if rank == self.rank else torch.empty_like(value)
        self._between_all(value, lambda group: dist.broadcast(received, rank, group))
        return received

    def _between_all(self, value: Tensor, exchange: Callable[[Any], Any]) -> None:
        """Exchanges tensors like `value` through the group of their device. Before GPUs do so, all processes
        hear from each other through the CPUs' group: one that is lost raises there, where NCCL would wait for
        it, or end the process without a sentence of ours."""
        if value.is_cuda:
            self.wait()
        try:
            exchange(_between_gpus() if value.is_cuda else None)
        except RuntimeError as error:
            raise _lost(error) from error

    def restarted(self) -> bool:
        """Whether torchrun has started this command before (--max-restarts), so that it goes on. Only the
        machine that a process was lost on counts it."""
        return any(self.gathered(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")))

    def wait(self) -> None:
        """Until every process has come here."""
        self.gathered(None)

    def agree(
        self, action: Callable[[], Result], facts: Callable[[Result], Mapping[str, Any]] = lambda _: {}
    ) -> Result:
        """`action` in every process. Where it fails in one, that one raises its error and all others end
        without a word; ConfigError where `facts` of its results are not the same everywhere."""
        if not self.joined:
            return action()
        result = problem = None
        try:
            result = action()
            here = dict(facts(result))
        except Exception as error:
            problem, here = error, {}
        answers = self.gathered((problem is not None, socket.gethostname(), here))
        failed = [rank for rank, (has_failed, _, _) in enumerate(answers) if has_failed]
        if problem is not None and failed[0] == self.rank:
            raise problem
        if failed:
            end_quietly()
        self._refuse_others([(host, values) for _, host, values in answers])
        return result  # type: ignore[return-value]

    @contextlib.contextmanager
    def same_everywhere(self) -> Iterator[None]:
        """For a block that every process goes through alike: its errors are logged once."""
        try:
            yield
        except Exception:
            if self.joined and not self.is_first:
                end_quietly()
            raise

    def _refuse_others(self, answers: list[tuple[str, dict[str, Any]]]) -> None:
        wanted = answers[0][1]
        for rank, (host, values) in enumerate(answers):
            if values == wanted:
                continue
            if not self.is_first:
                end_quietly()
            names = [name for name in {**wanted, **values} if values.get(name) != wanted.get(name)]
            raise ConfigError(
                f"Rank {rank} on {host} has another {', '.join(names)} than rank 0; give all of them the "
                "same files, flags and packages."
            )


@cache
def _between_gpus() -> Any:
    """What tensors on GPUs go through; objects go through the default group, which is of the CPUs."""
    import torch.distributed as dist

    os.environ.setdefault(
        "TORCH_NCCL_BLOCKING_WAIT", "1"
    )  # an error is raised where the tensors are asked for
    return dist.new_group(backend="nccl", timeout=PATIENCE)


def end_quietly() -> None:
    """Ends this process with the exit code of an error that another one tells."""
    time.sleep(LET_IT_SPEAK)
    raise SystemExit(2)


def _lost(error: RuntimeError) -> Exception:
    """What is raised where another process is gone; the others need not say it too."""
    if not speaks():
        end_quietly()
    return ConfigError(
        f"Another rank has ended ({one_line(error, 80)}), its message stands above; give the same "
        "command again."
    )


def find_world(environ: Mapping[str, str] = os.environ) -> World:
    """The world that torchrun started this process in; alone where it did not. ConfigError for variables of
    torchrun's that are no numbers."""
    if "MASTER_ADDR" not in environ or not {"RANK", "WORLD_SIZE"} <= set(environ):
        return World()
    rank, size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    return World(rank, size) if size > 1 else World()


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"{name} is {one_line(text, 40)!r}, which is no number; torchrun sets it.")
    return int(text)


def neighbours(environ: Mapping[str, str] = os.environ) -> int:
    """How many of torchrun's processes share this machine's cores and memory, this one included."""
    text = environ.get("LOCAL_WORLD_SIZE", "1") if "MASTER_ADDR" in environ else "1"
    return max(1, int(text)) if text.isdigit() else 1


def own_gpu(count: int, environ: Mapping[str, str] = os.environ) -> int:
    """The number of this process's GPU among `count`: that of its rank on this machine. ConfigError for one
    of torchrun's that there is no GPU for."""
    if "MASTER_ADDR" in environ and "LOCAL_RANK" in environ:
        number = _number(environ, "LOCAL_RANK")
        if number >= count:
            raise ConfigError(
                f"Rank {environ.get('RANK', number)} has no GPU of its own: {socket.gethostname()} has "
                f"{count}; start at most {count} here (--nproc-per-node {count}), or use --device cpu."
            )
        return number
    return 0


def as_of_first(device: str, environ: Mapping[str, str] = os.environ) -> str:
    """A device's name as the first of several processes has it, where each takes the GPU of its number."""
    return "cuda:0" if "MASTER_ADDR" in environ and device.startswith("cuda:") else device


@contextlib.contextmanager
def connected(world: World) -> Iterator[World]:
    """torchrun's processes exchange messages for the length of the block."""
    if not world.joined:
        yield world
        return
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(
        "gloo", store=fresh_part(store, world), rank=world.rank, world_size=world.size, timeout=PATIENCE
    )
    yield world
    dist.destroy_process_group()


def fresh_part(store: Store, world: World) -> Store:
    """The part of torchrun's store that this start alone writes to; waits for every process of the start.

    torchrun may keep one store for all its starts (--max-restarts), with the addresses of processes that are
    dead. Its count of restarts is each machine's own, so it can't name the part. Rank 0 calls with a word
    that nobody else has, the others answer with theirs, and who answered this call is named: so what a dead
    process left can neither be a call nor an answer. torchrun starts nobody before the last start is dead.
    """
    from torch.distributed import PrefixStore

    word, call = uuid.uuid4().hex, "fdsl/call"
    if world.is_first:
        store.set(call, word)
        for rank in range(1, world.size):
            answer = store.get(f"fdsl/{word}/{rank}").decode()
            store.set(f"fdsl/{answer}", word)
        return PrefixStore(f"fdsl/{word}", store)
    while not store.check([f"fdsl/{word}"]):
        store.set(f"fdsl/{store.get(call).decode()}/{world.rank}", word)
        time.sleep(ASK_AGAIN)
    return PrefixStore(f"fdsl/{store.get(f'fdsl/{word}').decode()}", store)
