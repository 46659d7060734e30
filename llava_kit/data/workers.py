"""Processes that make steps ahead of time, in order; when one dies the run hears of it at once.

Each worker has its own pipe and makes every n-th step. A dead worker's pipe ends, even in the middle of a message, so there is
nothing to poll and nothing to hang on; with a queue shared by all, as in torch's DataLoader, a kill in mid-write can stall
everyone. Arrays travel through the pipe and not through shared memory, which is 64 MB in many containers.
"""

from __future__ import annotations

import atexit
import io
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from ..errors import LlavaKitError, TrainingError

# A worker that was told to stop finishes the step it is at; one that takes longer is killed.
STOP_SECONDS = 5.0

# More readers than this wait for the disk, on the machines that were looked at.
MOST_BY_DEFAULT = 8


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usual_workers() -> int:
    """How many processes work on files where nobody says: one for each core, eight at most."""
    return min(MOST_BY_DEFAULT, cores())


# Receiving ends that are open in this process. A forked worker has copies of them all, and must close them: while anybody holds
# a receiving end, a worker that writes into it is not told that nobody reads any more.
_open_receivers: set[Connection] = set()


def make_ahead(make: Callable[[int], Any], start: int, stop: int, workers: int) -> Generator[Any, None, None]:
    """`make(start)`, ..., `make(stop - 1)`, in order, made by so many processes; each is one step ahead.

    What `make` gives back may hold tensors of the CPU. Its `LlavaKitError`s are raised here.

    Raises:
        TrainingError: a worker died (killed, out of memory).
        RuntimeError: `make` failed in another way; the text holds the worker's traceback.
    """
    pool = _Pool(make, start, stop, min(workers, stop - start))
    try:
        for step in range(start, stop):
            yield pool.receive(step)
    finally:
        pool.close()


class _Pool:
    def __init__(self, make: Callable[[int], Any], start: int, stop: int, workers: int):
        self.start, self.workers = start, workers
        self.processes: list[Any] = []
        self.pipes: list[Connection] = []
        context = multiprocessing.get_context()
        # Before the exit handler of multiprocessing, which waits for its children.
        atexit.register(self.close)
        for number in range(workers):
            receiver, sender = context.Pipe(duplex=False)
            steps = range(start + number, stop, workers)
            _open_receivers.add(receiver)
            self.pipes.append(receiver)
            process = context.Process(target=_work, args=(make, steps, sender), daemon=True, name=f"data worker {number}")
            process.start()
            # Only the worker may hold the sending end, also among the workers that are still to come: then it ends with it.
            sender.close()
            self.processes.append(process)

    def receive(self, step: int) -> Any:
        number = (step - self.start) % self.workers
        try:
            kind, content = pickle.loads(self.pipes[number].recv_bytes())
        except (EOFError, OSError) as error:
            raise self._died(number, step) from error
        if kind == "made":
            return content
        if kind == "refused":
            raise content
        raise RuntimeError(f"data worker {number} failed at step {step + 1}:\n{content}")

    def _died(self, number: int, step: int) -> TrainingError:
        process = self.processes[number]
        process.join(STOP_SECONDS)
        code = process.exitcode
        if code is not None and code < 0:
            ended = f"was killed by signal {-code} ({signal.Signals(-code).name})"
        else:
            ended = f"ended with exit code {code}"
        hint = ""
        if code == -signal.SIGKILL:
            hint = "; when the machine runs out of memory it kills so: fewer data.workers or a smaller global_batch_size help"
        return TrainingError(
            f"data worker {number} (pid {process.pid}) {ended} while it made step {step + 1}{hint}; no sample was skipped, the "
            "same command goes on from the last checkpoint"
        )

    def close(self) -> None:
        atexit.unregister(self.close)
        for pipe in self.pipes:
            _open_receivers.discard(pipe)
            pipe.close()  # who writes now gets an error and ends
        for process in self.processes:
            process.join(STOP_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        self.processes, self.pipes = [], []


def _work(make: Callable[[int], Any], steps: range, sender: Connection) -> None:
    """The life of a worker."""
    for receiver in _open_receivers:
        receiver.close()
    # Ctrl-C and a scheduler's warning reach the whole process group. The main process decides; it may need one more step.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Parallelism is between the workers; and a forked child of a process that used threads must not use them.
    if (torch := _torch()) is not None:
        torch.set_num_threads(1)
    with suppress(BrokenPipeError, ConnectionResetError):
        for step in steps:
            sender.send_bytes(_attempt(make, step))
    with suppress(OSError):
        sender.close()
    # No exit handlers: a forked child has inherited those of the run.
    os._exit(0)


def _attempt(make: Callable[[int], Any], step: int) -> bytes:
    try:
        return _dumps(("made", make(step)))
    except LlavaKitError as error:
        return _dumps(("refused", error))
    except Exception:
        return _dumps(("failed", traceback.format_exc()))


def _torch() -> Any:
    """The library where it is loaded already: data tools make no tensors, and do without its 300 MB and its seconds."""
    return sys.modules.get("torch")


class _Pickler(pickle.Pickler):
    """Tensors as arrays: pickled by torch each would become a file of its own."""

    def reducer_override(self, obj: Any) -> Any:
        if (torch := _torch()) is not None and type(obj) is torch.Tensor:
            return torch.from_numpy, (obj.numpy(),)
        return NotImplemented


def _dumps(content: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(content)
    return buffer.getvalue()
