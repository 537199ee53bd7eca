"""What would a pickle call?  Its opcodes are walked, never executed.

    safe  ⇔  every opcode parses  ∧  every global named ∈ ALLOWED  ∧  none is computed, extended or built by INST/OBJ

The stack is interpreted symbolically: strings are followed through the memo, DUP and marks, so that a name that is assembled
to hide from a text search is either resolved or reported as computed. A pickle that breaks off in the middle is judged by
everything up to there and refused: its beginning would already have run.
"""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass
from typing import Any

from .._errors import UnsafeFileError
from .._results import Result

MAX_OPCODES = 500_000  # a checkpoint takes about thirty for each tensor
_STORAGES = (
    "Bool",
    "Byte",
    "Char",
    "Short",
    "Int",
    "Long",
    "Half",
    "Float",
    "Double",
    "BFloat16",
    "ComplexFloat",
    "ComplexDouble",
)
ALLOWED = frozenset(
    {
        "collections.OrderedDict",
        "torch.Size",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.storage.UntypedStorage",
        "torch.storage.TypedStorage",
        "torch.serialization._get_layout",
        *(f"torch.{name}Storage" for name in _STORAGES),
        *(
            f"torch.{name}"
            for name in (
                "float32",
                "float64",
                "float16",
                "bfloat16",
                "int64",
                "int32",
                "int16",
                "int8",
                "uint8",
                "bool",
            )
        ),
    }
)
COMPUTED = "<a name computed while loading>"
_MARK, _OTHER = object(), object()
_STRINGS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"}
_EXTENSIONS = {"EXT1", "EXT2", "EXT4"}


@dataclass(frozen=True)
class PickleReport(Result):
    """What a stream of pickles names.

    Attributes:
        globals: Every class or function it would import, in the order of first mention.
        calls: How many calls (REDUCE, BUILD, NEWOBJ, INST, OBJ) it would make.
        complete: Whether the stream parses to its last STOP.
        trouble: What is wrong with it, in words; empty when nothing is.
    """

    globals: tuple[str, ...]
    calls: int
    complete: bool
    trouble: str = ""

    @property
    def refused(self) -> tuple[str, ...]:
        """The globals that no file of weights needs."""
        return tuple(g for g in self.globals if g not in ALLOWED)

    @property
    def safe(self) -> bool:
        """Whether the stream is whole and names nothing beyond tensors and containers."""
        return self.complete and not self.trouble and not self.refused

    def require_safe(self, name: str) -> None:
        """Raise unless ``safe``.

        Raises:
            UnsafeFileError: The message lists what the file would call.
        """
        if self.refused:
            listed = ", ".join(repr(g)[1:-1][:80] for g in self.refused[:6]) + (
                ", ..." if len(self.refused) > 6 else ""
            )
            raise UnsafeFileError(
                f"{name}: loading it would call {listed}; ask its author for safetensors or ONNX, "
                "or convert it where nothing can be lost"
            )
        if not self.safe:
            raise UnsafeFileError(f"{name}: {self.trouble}; ask its author for safetensors or ONNX")


def walk(data: bytes, *, pickles: int | None = 1, max_opcodes: int = MAX_OPCODES) -> PickleReport:
    r"""Walk the opcodes of one or more pickles that follow each other.

    Args:
        data: The bytes; what stands behind the last pickle is not looked at.
        pickles: How many pickles to walk; ``None`` walks on while the bytes parse.
        max_opcodes: A stream with more is refused rather than walked for minutes.

    Returns:
        What they name; nothing is imported or executed.

    Example:
        >>> import pickle
        >>> walk(pickle.dumps({"weight": [1.0, 2.0]})).safe
        True
        >>> walk(b"cos\nsystem\n(S'id'\ntR.").refused
        ('os.system',)
    """
    found: dict[str, None] = {}
    calls = seen = done = 0
    stream = io.BytesIO(data)
    trouble = ""
    while pickles is None or done < pickles:
        start = stream.tell()
        if start >= len(data):
            break
        machine = _Machine(found)
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                seen += 1
                if seen > max_opcodes:
                    trouble = f"more than {max_opcodes:,} pickle opcodes"
                    break
                machine.take(opcode, argument)
        except (ValueError, IndexError, KeyError, UnicodeDecodeError, OverflowError, MemoryError) as error:
            # the bytes behind the last whole pickle of a legacy checkpoint are raw storages, not a pickle
            if pickles is None and done and machine.calls == 0 and not machine.named:
                break
            trouble = f"a pickle that breaks off ({' '.join(str(error).split())[:80] or type(error).__name__})"
        calls += machine.calls
        if trouble:
            break
        done += 1
    complete = not trouble and done > 0 and (pickles is None or done == pickles)
    return PickleReport(tuple(found), calls, complete, trouble or ("" if complete else "fewer pickles than expected"))


class _Machine:
    """The stack and memo of one pickle, with strings known and everything else opaque."""

    def __init__(self, found: dict[str, None]) -> None:
        self.found = found
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.calls = 0
        self.named = False

    def name(self, symbol: str) -> None:
        self.found[symbol] = None
        self.named = True

    def take(self, opcode: Any, argument: Any) -> None:
        name, stack = opcode.name, self.stack
        if name in _STRINGS:
            stack.append(argument if isinstance(argument, str) else argument.decode("latin-1"))
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if argument > MAX_OPCODES:  # an unpickler in C sets aside memory for every index below it
                raise ValueError("a memo index beyond any use")
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            stack.pop()
        elif name == "GLOBAL":
            self.name(argument.replace(" ", ".", 1))
            stack.append(_OTHER)
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            known = isinstance(attribute, str) and isinstance(module, str)
            self.name(f"{module}.{attribute}" if known else COMPUTED)
            stack.append(_OTHER)
        else:
            self.generic(opcode, argument)

    def generic(self, opcode: Any, argument: Any) -> None:
        name = opcode.name
        if name in _EXTENSIONS:
            self.name(f"<extension {argument}>")
        if name == "INST":
            self.name(argument.replace(" ", ".", 1))
        if name in ("REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ"):
            self.calls += 1
        if name == "OBJ":
            self.name("<an object built by OBJ>")
        takes = [kind.name for kind in opcode.stack_before]
        if "mark" in takes:
            while self.stack.pop() is not _MARK:
                pass
            takes = takes[: takes.index("mark")]
        for _ in takes:
            if self.stack.pop() is _MARK:
                raise ValueError("a mark stands where a value is needed")
        self.stack.extend(_OTHER for _ in opcode.stack_after)
