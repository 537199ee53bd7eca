"""A model in a process of its own, with limits on memory, processor time and waiting.

    parent  --- JSON line, raw array --->  child          no pickle crosses the pipe in either direction
    parent  <-- JSON line, raw array ----  child

A crash, a hang or an explosion of memory inside the runtime then becomes one of our errors. This bounds damage; it is not a
sandbox: a file loaded with ``trust`` can do what its user can do.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from .._errors import ArgumentError, ModelError, UnsafeFileError

MAX_HEADER = 1 << 20
_DTYPES = ("float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool")


@dataclass(frozen=True)
class Limits:
    """What a child may use: address space in bytes, processor seconds, and seconds to wait for each answer."""

    memory: int = 8 << 30
    cpu_seconds: int = 600
    wait_seconds: float = 120.0


class WorkerError(ModelError):
    """The model's process failed, crashed, or ran into a limit."""


class Worker:
    """A child process that loads one model and answers batches; use it as a context manager."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        bootstrap = "import sys; sys.path[:] = sys.argv[1:]; from gyrostat.audit.worker import serve; serve()"
        path = [p for p in sys.path if p and os.path.abspath(p) != os.getcwd()]
        kept = {
            k: v
            for k, v in os.environ.items()
            if k in ("PATH", "HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS", "SYSTEMROOT")
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", bootstrap, *path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=kept, start_new_session=True,
        )  # fmt: skip
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        os.set_blocking(self._out.fileno(), False)
        self.call("limit", {"memory": self.limits.memory, "cpu_seconds": self.limits.cpu_seconds})

    @property
    def _out(self) -> BinaryIO:
        assert self.process.stdout is not None
        return self.process.stdout  # pyright: ignore[reportReturnType]

    def call(
        self, verb: str, options: dict[str, Any], array: np.ndarray | None = None
    ) -> tuple[Any, np.ndarray | None]:
        """Send one request and wait for its answer.

        Raises:
            UnsafeFileError: The child refused the file.
            WorkerError: The child failed, died, or did not answer in time.
        """
        assert self.process.stdin is not None
        try:
            _send(self.process.stdin, {"verb": verb, "options": options}, array)  # pyright: ignore[reportArgumentType]
            header, answer = self._receive(time.monotonic() + self.limits.wait_seconds)
        except (BrokenPipeError, EOFError) as error:
            self.close()
            code = self.process.returncode
            raise WorkerError(
                f"the model's process died (exit {code}): the file is damaged or needs more than its limits"
            ) from error
        except TimeoutError as error:
            self.close()
            raise WorkerError(
                f"the model did not answer within {self.limits.wait_seconds:g} s; raise the limit, or refuse it"
            ) from error
        if header.get("error"):
            kinds = {"UnsafeFileError": UnsafeFileError, "ArgumentError": ArgumentError}
            raise kinds.get(str(header.get("kind")), WorkerError)(str(header["error"])[:400])
        return header.get("value"), answer

    def _receive(self, deadline: float) -> tuple[dict[str, Any], np.ndarray | None]:
        size = int.from_bytes(self._read(8, deadline), "little")
        if size > MAX_HEADER:
            raise EOFError("a header too long")
        try:
            header = json.loads(self._read(size, deadline))
            spec = header.get("array")
            if spec is None:
                return header, None
            dtype, shape = spec["dtype"], [int(n) for n in spec["shape"]]
            count = int(np.prod(shape, dtype=object))
            if dtype not in _DTYPES or min(shape, default=0) < 0 or count > 1 << 28:
                raise EOFError("an array that cannot be")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EOFError("an answer that cannot be read") from error
        raw = self._read(count * np.dtype(dtype).itemsize, deadline)
        return header, np.frombuffer(raw, dtype).reshape(shape)

    def _read(self, count: int, deadline: float) -> bytearray:
        parts, missing = [], count
        while missing:
            left = deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                raise TimeoutError
            part = os.read(self._out.fileno(), min(missing, 1 << 20))
            if not part:
                raise EOFError("the pipe closed")
            parts.append(part)
            missing -= len(part)
        return bytearray().join(parts)  # writable, as torch wants its arrays

    def close(self) -> None:
        """End the child, whatever it is doing."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._selector.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _send(pipe: BinaryIO, header: dict[str, Any], array: np.ndarray | None) -> None:
    if array is not None:
        array = np.ascontiguousarray(array)
        header = {**header, "array": {"dtype": array.dtype.name, "shape": list(array.shape)}}
    text = json.dumps(header).encode()
    pipe.write(len(text).to_bytes(8, "little") + text)
    if array is not None:
        pipe.write(array.tobytes())
    pipe.flush()


def serve() -> None:
    """The child's loop: one request, one answer, until the pipe closes."""
    from .load import Session

    # whatever a library prints must not reach the pipe
    pipe_in, pipe_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    void = os.open(os.devnull, os.O_RDWR)
    os.dup2(void, 0)
    os.dup2(void, 1)
    session: Session | None = None
    while len(prefix := pipe_in.read(8)) == 8:
        header = json.loads(pipe_in.read(int.from_bytes(prefix, "little")))
        array = None
        if spec := header.get("array"):
            count = int(np.prod(spec["shape"])) * np.dtype(spec["dtype"]).itemsize
            array = np.frombuffer(pipe_in.read(count), spec["dtype"]).reshape(spec["shape"])
        value, answer = None, None
        try:
            if header["verb"] == "limit":
                _limit(**header["options"])
            elif header["verb"] == "load":
                session = Session(**header["options"])
                value = session.about
            elif session is not None:
                answer = session.ask(array)
            reply = {"value": value}
        except Exception as error:  # the loop answers whatever went wrong; the parent decides what it means
            reply = {"error": " ".join(str(error).split())[:400] or type(error).__name__, "kind": type(error).__name__}
            answer = None
        _send(pipe_out, reply, answer)


def _limit(memory: int, cpu_seconds: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits; the waiting time still holds
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
