"""The reader of pickles reads what face models hold, and executes nothing whatever it is given."""

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.face_model_files import npy_of_object
from lifemask.assets import AssetError
from lifemask.facemodel import _pickle
from lifemask.facemodel._pickle import Record, read_pickle
from lifemask.facemodel._pickle_arrays import read_pickle_file, to_array, to_dict


def read(data: bytes):
    return read_pickle(data, "model.pkl")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24.0).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6, dtype=np.uint32).reshape(2, 3)),
        np.arange(3, dtype=">i2"),
        np.array(["left", "right"]),
        np.zeros((0, 3), np.float32),
        np.float64(2.5),
    ],
    ids=["double", "fortran", "big-endian", "text", "empty", "scalar"],
)
def test_arrays_of_every_protocol(array, protocol):
    value = read(pickle.dumps({"key": [array, "text", 3, None, True, (1.5,)]}, protocol))
    content = value["key"]
    again = to_array(content[0], "array")
    assert np.array_equal(again, array) and again.dtype.kind == np.asarray(array).dtype.kind
    assert content[1:] == ["text", 3, None, True, (1.5,)]


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_sparse_matrices(protocol):
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.random.default_rng(0).normal(size=(4, 7)) * (np.arange(7) % 3 == 0)
    for kind in (sparse.csc_matrix, sparse.csr_matrix):
        value = read(pickle.dumps(kind(dense), protocol))
        assert np.array_equal(to_array(value, "regressor"), dense)


def test_torch_tensors_inside_pickles():
    tensor = torch.arange(12, dtype=torch.int64).reshape(3, 4).T[1:]
    value = read(pickle.dumps({"dynamic": tensor, "real": torch.ones(2) / 3}))
    assert np.array_equal(to_array(value["dynamic"], "t"), tensor.numpy())
    assert np.array_equal(to_array(value["real"], "t"), (torch.ones(2) / 3).numpy())


def test_object_arrays_are_only_a_wrapping(tmp_path):
    table = {"lmk_face_idx": np.arange(5), "rows": [np.zeros(3), np.ones(3)]}
    path = tmp_path / "embedding.npy"
    np.save(path, np.array(table, dtype=object), allow_pickle=True)
    again = to_dict(read_pickle_file(path), path.name)
    assert np.array_equal(to_array(again["lmk_face_idx"], "x"), np.arange(5))
    assert to_array(again["rows"], "x").shape == (2, 3)
    np.save(path, np.arange(4.0))
    assert np.array_equal(read_pickle_file(path), np.arange(4.0))


class Evil:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


MARKER = "touched-by-a-pickle"


def hostile() -> dict[str, bytes]:
    """Pickles that would create a file named MARKER if anything in them ran."""
    shell = Evil(os.system, f"touch {MARKER}")
    code = f"open({MARKER!r}, 'w').close()"
    cases = {
        "os.system": pickle.dumps(shell),
        "eval": pickle.dumps(Evil(eval, code)),
        "exec": pickle.dumps(Evil(exec, code)),
        "popen": pickle.dumps(Evil(subprocess.Popen, ["touch", MARKER])),
        "nested": pickle.dumps({"v_template": [1, {"deep": (2, shell)}]}),
        "as key": pickle.dumps({Hashable(os.system, f"touch {MARKER}"): 1}),
        "getattr": b"cbuiltins\ngetattr\n.",
        "global": f"cos\nsystem\n(S'touch {MARKER}'\ntR.".encode(),
        "inst": f"(S'touch {MARKER}'\nios\nsystem\n.".encode(),
        "obj": f"(cos\nsystem\nS'touch {MARKER}'\no.".encode(),
        "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x12core.os.system.foo\x93.",
        "name in a memo": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93.",
        "extension code": b"\x80\x02\x82\x01.",
        "extension code 4": b"\x80\x02\x84\x01\x00\x00\x00.",
        "persistent id": b"\x80\x02X\x01\x00\x00\x00xQ.",
        "out of band": b"\x80\x05\x97.",
        "newobj_ex": b"\x80\x04cnumpy\nndarray\n)}\x92.",
        "call of a class": b"\x80\x02cnumpy\nndarray\nK\x01\x85R.",
        "new of a function": b"\x80\x02c_codecs\nencode\n)\x81.",
        "call of a string": b"\x80\x02X\x06\x00\x00\x00systemK\x01\x85R.",
        "state on a list": b"\x80\x02]}b.",
        "state on a name": b"\x80\x02cnumpy\nndarray\n}b.",
        "second state": b"\x80\x02cchumpy.ch\nCh\n)\x81}b}b.",
        "numpy runstring": b"cnumpy.testing._private.utils\nrunstring\n.",
        "numpy load": b"cnumpy\nload\n.",
        "reduce_ex": b"ccopyreg\n__reduce_ex__\n.",
        "torch load": b"ctorch\nload\n.",
        "importlib": b"cimportlib\nimport_module\n(S'this'\ntR.",
        "unhashable key": b"\x80\x02}]K\x01s.",
        "mark as a value": b"\x80\x02(.",
        "truncated": pickle.dumps(np.arange(9))[:-4],
        "empty": b"",
        "text": b"hello world\n",
        "zip": b"PK\x03\x04" + bytes(40),
    }
    return cases


class Hashable(Evil):
    def __hash__(self):
        return 1


CASES = hostile()


@pytest.mark.parametrize("name", CASES)
def test_hostile_pickles_are_refused_and_nothing_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    for data in (CASES[name], npy_of_object(CASES[name])):
        (tmp_path / "model.pkl").write_bytes(data)
        with pytest.raises(AssetError) as caught:
            read_pickle_file(tmp_path / "model.pkl")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / MARKER).exists()
    assert not {m for m in set(sys.modules) - before if not m.startswith("lifemask")}


def test_the_hostile_pickles_are_live_ammunition(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "eval", "exec", "nested", "global", "inst", "obj"):
        pickle.loads(CASES[name])
        assert (tmp_path / MARKER).exists(), name
        (tmp_path / MARKER).unlink()


def array_record(dtype: str, shape: tuple, content: bytes, state: tuple | None = None) -> Record:
    kind = Record(_pickle.Name("numpy", "dtype"), (dtype, False, True), state)
    name = _pickle.Name("numpy.core.multiarray", "_reconstruct")
    return Record(name, (), (1, shape, kind, False, content))


@pytest.mark.parametrize(
    ("dtype", "shape", "content", "state"),
    [
        ("O8", (1,), struct.pack("<Q", 0x41414141), None),  # a pointer of the attacker's choice
        ("O", (), b"12345678", None),
        ("V8", (1,), bytes(8), None),
        ("f8,i4", (1,), bytes(12), None),
        ("f8", (3,), bytes(8), None),
        ("f8", (-1,), bytes(8), None),
        ("f8", (2**40,), b"", None),
        ("f8", (1,), bytes(8), (3, "<", ("f4", (2,)), None, None, -1, -1, 0)),
        ("f8", (1,), bytes(8), (3, "!", None, None, None, -1, -1, 0)),
        ("f8", "xx", bytes(8), None),
        ("M8[ns]", (1,), bytes(8), None),
    ],
)
def test_arrays_that_lie_about_their_bytes_are_refused(dtype, shape, content, state):
    with pytest.raises(AssetError, match="is not an array"):
        to_array(array_record(dtype, shape, content, state), "v_template")


def test_sparse_indices_are_checked():
    name = _pickle.Name("scipy.sparse.csc", "csc_matrix")
    good = {"_shape": (2, 2), "data": [1.0, 2.0], "indices": [0, 1], "indptr": [0, 1, 2]}
    assert np.array_equal(to_array(Record(name, (), good), "m"), np.diag([1.0, 2.0]))
    for change in (
        {"indices": [0, 5]},
        {"indices": [0, -1]},
        {"indptr": [0, 2, 1]},
        {"indptr": [0, 1]},
        {"indptr": [0, 1, 9]},
        {"_shape": (2**20, 2**20)},
    ):
        with pytest.raises(AssetError):
            to_array(Record(name, (), {**good, **change}), "m")


def test_bombs_are_bounded(monkeypatch):
    laughs = b"\x80\x02]q\x00" + b"".join(
        b"]q" + bytes([i + 1]) + b"(" + (b"h" + bytes([i])) * 10 + b"e" for i in range(20)
    )
    value = read(laughs + b".")  # shared references: small in memory
    with pytest.raises(AssetError):
        to_array(value, "list")
    monkeypatch.setattr(_pickle, "MAX_OPCODES", 100)
    with pytest.raises(AssetError, match="more than 100 opcodes"):
        read(b"\x80\x02" + b"N0" * 200 + b"N.")
    monkeypatch.setattr(_pickle, "MAX_BYTES", 10)
    with pytest.raises(AssetError, match="larger"):
        read(b"N" * 11)
    huge = b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x."
    monkeypatch.setattr(_pickle, "MAX_BYTES", 100)
    with pytest.raises(AssetError, match="not a readable pickle"):
        read(huge)


def test_an_array_that_holds_itself_is_refused():
    value = read(b"\x80\x02cchumpy.ch\nCh\n)\x81q\x00}U\x01xh\x00sb.")
    with pytest.raises(AssetError, match="nested too deeply"):
        to_array(value, "v_template")
    for state in (b"", b"]b", b"}b"):  # no state, a list, an empty dict
        with pytest.raises(AssetError, match="is not an array"):
            to_array(read(b"\x80\x02cchumpy.ch\nCh\n)\x81" + state + b"."), "v_template")


def test_a_view_may_not_be_larger_than_it_should():
    small = torch.zeros(1)
    with pytest.raises(AssetError, match="refused"):
        to_array(read(pickle.dumps(small.expand(2**26))), "tensor")
    value = read(pickle.dumps(small))
    value.args = (value.args[0], 1, *value.args[2:])
    with pytest.raises(AssetError, match="leaves its storage"):
        to_array(value, "tensor")


def test_deep_nesting_does_not_break_the_reader():
    value = read(b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".")
    with pytest.raises(AssetError):
        to_array(value, "list")


def test_no_name_reaches_an_import():
    text = Path(_pickle.__file__).read_text(encoding="utf-8")
    for word in ("__import__", "import_module", "getattr(", "eval(", "exec(", "find_class"):
        assert word not in text
