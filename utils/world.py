"""The rank of this process among those of torchrun, and how these wait for each other.

Nothing is added up across processes: they only exchange messages. torch.distributed is imported only where
it is needed, so that an entry point can use this module before it imports torch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from utils import signals
from utils.console import of_torchrun, speaks
from utils.errors import ConfigError
from utils.options import differing
from utils.text import one_line

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

logger = logging.getLogger("fdsl")
Result = TypeVar("Result")
PATIENCE = timedelta(days=7)  # for the slowest process; when one dies, torchrun ends all at once
LET_IT_LOG = 2.0  # seconds until the processes without an error end: torchrun ends all when the first does
ASK_AGAIN = 0.05  # seconds between two requests to rank 0
BEAT = 5.0  # seconds between two counts of a process
LATE, LOST = 12, 360  # counts of this process without one of the other: a minute, half an hour
LEFT = 2**40  # what a process counts that ends well


@dataclass(frozen=True)
class World:
    """Process `rank` of torchrun's `size`; a single one by default."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def joined(self) -> bool:
        return self.size > 1

    def gathered(self, value: Any) -> list[Any]:
        """The value (anything that can be pickled) of every process, by rank; waits for all of them."""
        if not self.joined:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with _exchange():
            dist.all_gather_object(values, value)
        return values

    def tensor_of(self, rank: int, value: Tensor) -> Tensor:
        """The tensor of process `rank`; every process has a `value` of that shape and type."""
        import torch
        import torch.distributed as dist

        if not self.joined:
            return value
        received = value.contiguous() if rank == self.rank else torch.empty_like(value)
        if value.is_cuda:
            self.wait()  # a lost process raises here: NCCL would wait for it, or end this one without a word
        with _exchange():
            dist.broadcast(received, rank, _between_gpus() if value.is_cuda else None)
        return received

    def restarted(self) -> bool:
        """Whether torchrun has started this command before (--max-restarts), so that it goes on. torchrun
        counts restarts only on the machine that lost a process."""
        return any(self.gathered(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")))

    def wait(self) -> None:
        self.gathered(None)

    def agree(
        self, action: Callable[[], Result], facts: Callable[[Result], Mapping[str, Any]] = lambda _: {}
    ) -> Result:
        """The result of `action` in every process. Where it fails in one, that one raises its error and all
        others end quietly; ConfigError where the `facts` of the results differ between processes."""
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
        for rank, (_, host, values) in enumerate(answers):
            if others := differing(answers[0][2], values):
                if not self.is_first:
                    end_quietly()
                raise ConfigError(
                    f"Rank {rank} on {host} has another {', '.join(others)} than rank 0; give all of them "
                    "the same files, flags and packages."
                )
        return result  # type: ignore[return-value]

    @contextlib.contextmanager
    def same_everywhere(self) -> Iterator[None]:
        """For a block that runs alike in every process: its errors are logged once."""
        try:
            yield
        except Exception:
            if self.joined and not self.is_first:
                end_quietly()
            raise


@cache
def _between_gpus() -> Any:
    """The process group for tensors on GPUs; objects go through the default group, the CPUs'."""
    import torch.distributed as dist

    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # errors are raised where tensors are exchanged
    return dist.new_group(backend="nccl", timeout=PATIENCE)


def end_quietly() -> None:
    """Ends this process with the exit code of an error that another one logs."""
    time.sleep(LET_IT_LOG)
    raise SystemExit(2)


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    """ConfigError within it where another process is gone; only the first process logs it."""
    try:
        yield
    except RuntimeError as error:
        if not speaks():
            end_quietly()
        reason = one_line(error, 80)
        raise ConfigError(
            f"Another rank has ended ({reason}), see above; give the same command again."
        ) from error


def find_world() -> World:
    """The processes that torchrun started; a single one where it did not. ConfigError for variables of
    torchrun's that are no numbers."""
    rank, size = of_torchrun("RANK", 0), of_torchrun("WORLD_SIZE", 1)
    return World(rank, size) if size > 1 else World()


def neighbours() -> int:
    """The number of torchrun's processes on this machine, this one included: they share cores and memory."""
    return max(1, of_torchrun("LOCAL_WORLD_SIZE", 1))


def own_gpu(count: int) -> int:
    """The number of this process's GPU among `count`: its rank on this machine. ConfigError where torchrun
    started more processes than there are GPUs."""
    number = of_torchrun("LOCAL_RANK", 0)
    if number >= count:
        raise ConfigError(
            f"Rank {of_torchrun('RANK', number)} has no GPU of its own: {socket.gethostname()} has {count}; "
            f"start at most {count} here (--nproc-per-node {count}), or use --device cpu."
        )
    return number


def as_of_first(device: str) -> str:
    """A device's name as the first of several processes has it, each of which takes the GPU of its number."""
    return "cuda:0" if "MASTER_ADDR" in os.environ and device.startswith("cuda:") else device


@contextlib.contextmanager
def connected(world: World) -> Iterator[World]:
    """Within it torchrun's processes can exchange messages."""
    if not world.joined:
        yield world
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    with watched(world.rank, world.size):
        dist.init_process_group(
            "gloo", store=fresh_part(store, world), rank=world.rank, world_size=world.size, timeout=PATIENCE
        )
        # Before PyTorch 2.8 a group that ends waits for its threads and holds Python's lock, which they need
        # for their last tensors. Its part for CPUs does not hold the lock, so that part is released last.
        for_cpus = dist.group.WORLD._get_backend(torch.device("cpu"))
        yield world
        world.wait()  # the first one may still write, and is watched until then
    world.wait()  # without torchrun the store ends with the first one
    dist.destroy_process_group()
    del for_cpus


def fresh_part(store: Store, world: World) -> Store:
    """The part of torchrun's store that only this start writes to; waits for every process of the start.

    torchrun may use one store for all its starts (--max-restarts), with entries of dead processes, and its
    count of restarts differs between machines. So rank 0 publishes a random token, every other process
    answers with one of its own, and rank 0 acknowledges these: entries of a dead process match none of them.
    torchrun starts no process before the last start has ended.
    """
    from torch.distributed import PrefixStore

    token, call = uuid.uuid4().hex, "fdsl/call"
    if world.is_first:
        store.set(call, token)
        for rank in range(1, world.size):
            answer = store.get(f"fdsl/{token}/{rank}").decode()
            store.set(f"fdsl/{answer}", token)
        return PrefixStore(f"fdsl/{token}", store)
    while not store.check([f"fdsl/{token}"]):
        store.set(f"fdsl/{store.get(call).decode()}/{world.rank}", token)
        time.sleep(ASK_AGAIN)
    return PrefixStore(f"fdsl/{store.get(f'fdsl/{token}').decode()}", store)


@contextlib.contextmanager
def watched(rank: int, size: int) -> Iterator[None]:
    """Within it this process counts in torchrun's store, and watches the count of the next one: that is named
    after a minute without a count, and after half an hour this process ends with exit code 2, whereupon
    torchrun ends the others.

    A process that only waits or computes goes on counting. One that was stopped, or whose machine is lost,
    does not, and all others would wait for it.
    """
    from torch.distributed import TCPStore

    # A connection of its own: another one may be held by a call that waits.
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), wait_for_workers=False)
    leaving = threading.Event()
    watch = threading.Thread(target=_watch, args=(store, rank, size, leaving), name="watch", daemon=True)
    store.set(f"fdsl/facts/{rank}", f"process {os.getpid()} on {socket.gethostname()}")
    watch.start()
    yield  # after an error it goes on until the process ends
    leaving.set()
    watch.join()
    store.add(f"fdsl/count/{rank}", LEFT)


def _watch(store: Store, rank: int, size: int, leaving: threading.Event) -> None:
    """Counts until `leaving`. Its own counts are its clock: after a pause of the whole job nobody is late."""
    other, silent = (rank + 1) % size, 0
    count = first = store.add(f"fdsl/count/{other}", 0)
    while not leaving.wait(BEAT):
        try:
            store.add(f"fdsl/count/{rank}", 1)
            before, count = count, store.add(f"fdsl/count/{other}", 0)
        except RuntimeError:  # the store is gone: what waits for others ends with an error of its own
            return
        silent = silent + 1 if count == before and count - first < LEFT else 0
        if silent not in (LATE, LOST):
            continue
        facts = f"fdsl/facts/{other}"
        where = store.get(facts).decode() if store.check([facts]) else "which never began"
        named = f"rank {other} ({where}) has not answered for {silent * BEAT:.0f} seconds"
        if silent == LATE:
            logger.error("%s; it is waited for until it is killed, %.0f seconds at most", named, LOST * BEAT)
        else:
            logger.error("error: %s; finished results stay, give the same command again.", named)
            logging.shutdown()
            signals.end(2)
