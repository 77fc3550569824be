"""A command in several processes, as torchrun starts them: forked, so that nothing is imported again."""

import gc
import os
import socket
import sys
import traceback

from utils.command import run_command


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def in_ranks(size, action, folder, port=None):
    """`action(rank)` in `size` processes that hear from each other; (exit codes, what each one reported). A
    negative code is the signal that ended it. port: of a store that is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    port, children = port or free_port(), []
    gc.collect()
    for rank in range(size):
        child = os.fork()
        if child == 0:
            gc.freeze()  # objects of earlier tests stay: their threads, as onnxruntime has, are not here
            os._exit(_as_rank(rank, size, port, action, folder / f"reported-{rank}"))
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return codes, [(folder / f"reported-{rank}").read_text() for rank in range(size)]


def as_command(main, arguments):
    """An entry point with the exit codes and sentences that it has as a command."""
    run_command(lambda _: main(arguments))


def _as_rank(rank, size, port, action, reported):
    output = os.open(reported, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    world = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    os.environ.update({name: str(value) for name, value in world.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        action(rank)
        return 0
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}")
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
