"""A reader of pickled data that executes nothing: opcodes become inert records, never calls.

Face models are published as pickles of numpy, scipy.sparse and chumpy objects. Python's own
unpickler imports and calls whatever a file names. This module is not an unpickler: it walks over
the opcodes (the tables of the standard library tell only how long each argument is) and builds
dicts, lists, tuples, numbers, strings and `Record`s. A record remembers a name, arguments and a
state; nothing is imported, called or looked up by a name from the file. Names outside
`KNOWN_NAMES`, and opcodes that face models do not need (extension codes, old-style instances,
out-of-band buffers), are refused, so that a strange file is noticed. `_pickle_arrays` turns
records of arrays into numpy arrays, by its own code.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pickletools import code2op  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

from lifemask.assets import AssetError

MAX_BYTES = 2**31
MAX_OPCODES = 4_000_000

_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
CALLABLES = frozenset(
    {
        *((module, name) for module in _NUMPY for name in ("_reconstruct", "scalar")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
        *(("copy_reg", "_reconstructor"), ("copyreg", "_reconstructor")),
        *(
            (module, name)
            for module in ("__builtin__", "builtins")
            for name in ("set", "bytes", "bytearray")
        ),
        *(("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict")),
        *(("torch._utils", "_rebuild_tensor_v2"), ("torch.storage", "_load_from_bytes")),
    }
)
_SPARSE = ("csc", "csr")
CLASSES = frozenset(
    {
        *((f"scipy.sparse.{kind}", f"{kind}_matrix") for kind in _SPARSE),
        *((f"scipy.sparse._{kind}", f"{kind}_matrix") for kind in _SPARSE),
        *(("chumpy.ch", "Ch"), ("chumpy", "Ch")),
    }
)
_ARGUMENTS = frozenset(
    {
        *(("numpy", "ndarray"), ("__builtin__", "object"), ("builtins", "object")),
        *(("torch", f"{kind}Storage") for kind in ("Long", "Int", "Float", "Double")),
    }
)
KNOWN_NAMES = CALLABLES | CLASSES | _ARGUMENTS
"""(module, name) pairs that a file may mention; they stay names."""


@dataclass(frozen=True)
class Name:
    """A global that a pickle mentions; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def key(self) -> tuple[str, str]:
        """(module, name)."""
        return (self.module, self.name)


@dataclass(eq=False)
class Record:
    """What a pickle wanted to create: the callable's or class's name, arguments, state.

    Attributes:
        name: of the callable or class; "persistent id" for an object stored outside.
        args: its arguments.
        state: what was to be set on the result, or None.
        items: key and value pairs, or elements, that were to be put into the result.
    """

    name: Name
    args: tuple[Any, ...]
    state: Any = None
    items: list[Any] = field(default_factory=list)


PERSISTENT = Name("", "persistent id")
_MARK = object()


def read_pickle(data: bytes | io.BytesIO, source: str, persistent: bool = False) -> Any:
    """The content of one pickle as inert values.

    Args:
        data: the file's content, or a stream that is left behind the pickle's end.
        source: what messages call the file.
        persistent: allow references to objects stored outside the pickle (torch's old files).

    Returns:
        dicts, lists, tuples, numbers, str, bytes, None and `Record`s. Strings of Python 2 are
        read as latin-1. Sets are lists.

    Raises:
        AssetError: it is damaged, too large, or holds what is not known to be harmless.
    """
    if isinstance(data, bytes) and len(data) > MAX_BYTES:
        raise AssetError(f"{source} is larger than {MAX_BYTES >> 20} MiB: refused")
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        return _Machine(stream, source, persistent).run()
    except AssetError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        reason = f"{type(error).__name__}: {error}"[:120]
        raise AssetError(f"{source} is not a readable pickle ({reason})") from error


class _Machine:
    """Stack, memo and marks of one pickle."""

    def __init__(self, stream: io.BytesIO, source: str, persistent: bool):
        self.stream = stream
        self.source = source
        self.persistent = persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_OPCODES):
            code = self.stream.read(1).decode("latin-1")
            opcode = code2op.get(code)
            if opcode is None:
                raise ValueError(f"unknown opcode {code!r}")
            argument = self._argument(opcode)
            if opcode.name == "STOP":
                return self._pop()
            if opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name])
            elif opcode.name in _PUSH:
                self.stack.append(argument)
            else:
                handler = _HANDLERS.get(opcode.name)
                if handler is None:
                    raise self.refusal(f"the opcode {opcode.name}")
                handler(self, argument)
        raise self.refusal(f"more than {MAX_OPCODES} opcodes")

    def refusal(self, what: str) -> AssetError:
        return AssetError(
            f"{self.source} holds {what}, which no face model needs: refused, nothing was executed"
        )

    def _argument(self, opcode: Any) -> Any:
        if opcode.name == "STRING":  # the library's reader knows only ASCII
            return _read_string(self.stream)
        return None if opcode.arg is None else opcode.arg.reader(self.stream)

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def top(self) -> Any:
        if self.stack[-1] is _MARK:
            raise ValueError("a mark where a value should be")
        return self.stack[-1]

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Record):
            target.items.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise ValueError("elements for what is no list")

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if len(values) % 2:
            raise ValueError("a key without a value")
        pairs = list(zip(values[::2], values[1::2], strict=True))
        if isinstance(target, Record):
            target.items.extend(pairs)
        elif isinstance(target, dict):
            for key, value in pairs:
                target[_plain_key(key)] = value
        else:
            raise ValueError("items for what is no dict")

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no string")
        if (module, name) not in KNOWN_NAMES:
            raise self.refusal(f"a reference to {f'{module}.{name}'[:80]!r}")
        self.stack.append(Name(module, name))

    def call(self, allowed: frozenset[tuple[str, str]]) -> None:
        args, target = self._pop(), self._pop()
        if not isinstance(target, Name) or target.key not in allowed:
            raise self.refusal(f"a call of {str(target)[:80]!r}")
        if not isinstance(args, tuple):
            raise ValueError("arguments that are no tuple")
        self.stack.append(Record(target, args))

    def build(self) -> None:
        state, target = self._pop(), self.top()
        if not isinstance(target, Record) or target.state is not None:
            raise self.refusal("a state for what is no new object")
        target.state = state

    def reference(self, identity: Any) -> None:
        if not self.persistent:
            raise self.refusal("a reference to an object outside")
        self.stack.append(Record(PERSISTENT, (identity,)))


def _plain_key(key: Any) -> Any:
    if not isinstance(key, str | int | float | bytes | None):
        raise ValueError("a dict key that is neither text nor number")
    return key


def _read_string(stream: io.BytesIO) -> str:
    """A quoted, escaped string of protocol 0, bytes as latin-1."""
    line = stream.readline()
    text = line[:-1]
    if not line.endswith(b"\n") or len(text) < 2 or text[:1] not in b"'\"" or text[-1:] != text[:1]:
        raise ValueError("a string without quotes")
    return codecs.escape_decode(text[1:-1])[0].decode("latin-1")


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.top()


def _dict_of(machine: _Machine, _: None) -> None:
    values = machine.pop_to_mark()
    machine.stack.append({})
    machine.set_items(values)


def _tuple_of(count: int) -> Callable[[_Machine, None], None]:
    def handler(machine: _Machine, _: None) -> None:
        values = [machine._pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(values)))

    return handler


def _stack_name(machine: _Machine) -> None:
    name, module = machine._pop(), machine._pop()
    machine.name(module, name)


def _pair(machine: _Machine) -> list[Any]:
    value, key = machine._pop(), machine._pop()
    return [key, value]


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSH = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_HANDLERS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "MARK": lambda m, a: m.stack.append(_MARK),
    "POP": lambda m, a: m.stack.pop(),
    "POP_MARK": lambda m, a: m.pop_to_mark(),
    "DUP": lambda m, a: m.stack.append(m.top()),
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": lambda m, a: _put(m, len(m.memo)),
    "GET": lambda m, a: m.stack.append(m.memo[a]),
    "BINGET": lambda m, a: m.stack.append(m.memo[a]),
    "LONG_BINGET": lambda m, a: m.stack.append(m.memo[a]),
    "EMPTY_LIST": lambda m, a: m.stack.append([]),
    "EMPTY_SET": lambda m, a: m.stack.append([]),
    "EMPTY_DICT": lambda m, a: m.stack.append({}),
    "EMPTY_TUPLE": lambda m, a: m.stack.append(()),
    "LIST": lambda m, a: m.stack.append(m.pop_to_mark()),
    "FROZENSET": lambda m, a: m.stack.append(m.pop_to_mark()),
    "TUPLE": lambda m, a: m.stack.append(tuple(m.pop_to_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "DICT": _dict_of,
    "APPEND": lambda m, a: m.append([m._pop()]),
    "APPENDS": lambda m, a: m.append(m.pop_to_mark()),
    "ADDITEMS": lambda m, a: m.append(m.pop_to_mark()),
    "SETITEM": lambda m, a: m.set_items(_pair(m)),
    "SETITEMS": lambda m, a: m.set_items(m.pop_to_mark()),
    "GLOBAL": lambda m, a: m.name(*a.split(" ", 1)),
    "STACK_GLOBAL": lambda m, a: _stack_name(m),
    "REDUCE": lambda m, a: m.call(CALLABLES),
    "NEWOBJ": lambda m, a: m.call(CLASSES),
    "BUILD": lambda m, a: m.build(),
    "PERSID": lambda m, a: m.reference(a),
    "BINPERSID": lambda m, a: m.reference(m._pop()),
}
