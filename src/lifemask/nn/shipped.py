"""Shipped networks behind one call on arrays, by onnxruntime or by torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from numpy import ndarray
from torch import nn

from lifemask.assets import AssetError, UserError, network_card, weights_folder, weights_path

Engine = Literal["onnx", "torch"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
Network = TypeVar("Network", bound=nn.Module)
Described = TypeVar("Described")


class OnnxNetwork:
    """An exported graph through onnxruntime, on the CPU; the call gives its first output.

    Args:
        file_name: in the weights folder.
        inputs: names of the graph's inputs, in the order of the call; what the graph does not
            take, because its network makes no use of it, is left out.
        threads: of onnxruntime; 0 lets it choose.

    Raises:
        AssetError: the file is missing or damaged.
    """

    def __init__(self, file_name: str, inputs: tuple[str, ...], threads: int = 1) -> None:
        import onnxruntime

        self._inputs = inputs
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # what it has to say of its own optimisations
        path = _graph_path(file_name)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises classes of its own
            raise _damaged(path) from error
        self._taken = {one.name for one in self._session.get_inputs()}

    def __call__(self, *arrays: ndarray) -> ndarray:
        """First output for float32 arrays."""
        return self.outputs(*arrays)[0]

    def outputs(self, *arrays: ndarray) -> list[ndarray]:
        """All outputs for float32 arrays."""
        given = {
            name: np.ascontiguousarray(array)
            for name, array in zip(self._inputs, arrays, strict=True)
            if name in self._taken
        }
        return self._session.run(None, given)


class TorchNetwork:
    """A module on the CPU, asked with arrays."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module.eval()

    def __call__(self, *arrays: ndarray) -> ndarray:
        """Its output for float32 arrays."""
        with torch.inference_mode():
            return self._module(*(torch.from_numpy(a) for a in arrays)).numpy()


def load_network(
    name: str,
    engine: Engine,
    inputs: tuple[str, ...],
    threads: int,
    module: Callable[[], nn.Module],
) -> OnnxNetwork | TorchNetwork:
    """A shipped network by the engine of that name.

    Args:
        name: of its files.
        engine: "onnx" or "torch".
        inputs: see `OnnxNetwork`.
        threads: of onnxruntime; 0 lets it choose.
        module: makes what "torch" runs, weights included.

    Raises:
        AssetError: the weights are missing or damaged.
        ValueError: an unknown engine.
    """
    check_engine(engine)
    if engine == "onnx":
        return OnnxNetwork(f"{name}.onnx", inputs, threads)
    return TorchNetwork(module())


def family_name(method: str, weights: str) -> str:
    """Name of the files of a method's network.

    Raises:
        ValueError: an unknown family.
    """
    if weights not in ("open", "research"):
        raise ValueError(f"unknown weights {weights!r}; valid: open, research")
    return f"{method}-{weights}"


def described(name: str, create: Callable[[dict[str, Any]], Described]) -> Described:
    """The network that a card describes, without its weights; or its settings.

    Args:
        name: of its files.
        create: makes it from the card's settings.

    Raises:
        AssetError: the card is missing or damaged.
    """
    card = network_card(name)
    try:
        return create(card)
    except (TypeError, ValueError, KeyError, UserError) as error:
        raise AssetError(f"weight card {name}.json is damaged: install lifemask again") from error


def with_weights(network: Network, name: str) -> Network:
    """The network with the shipped weights of that name.

    Raises:
        AssetError: the file is missing, damaged or of another network.
    """
    from safetensors.torch import load_file

    path = weights_path(name)
    try:
        network.load_state_dict(load_file(path))
    except Exception as error:  # a broken header raises a class of its own
        raise _damaged(path) from error
    return network


def check_engine(name: str) -> None:
    """Refuse an unknown engine.

    Raises:
        ValueError: the message lists what is valid.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; valid: {', '.join(ENGINES)}")


def _graph_path(file_name: str) -> Path:
    """Path of a graph; where only the weights for torch are there, the message says so."""
    name = file_name.split(".")[0]
    folder = weights_folder()
    there = (folder / f"{name}.safetensors").is_file()
    if there and not (folder / file_name).is_file():
        raise AssetError(
            f"{file_name} is missing from {folder}: export {name} again (docs/engines.md),"
            " or use the engine torch"
        )
    return weights_path(file_name)


def _damaged(path: Path) -> AssetError:
    return AssetError(f"weight file {path} is damaged: install lifemask again")
