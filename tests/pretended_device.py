"""A device that is none: what an accelerator would refuse is refused, what it would compute is computed on the CPU.

It finds tensors of two devices that meet, reads of memory that is another device's, and whatever else would fail on a
GPU however small the data; not what CUDA's own kernels do. torch's registration of a device is for the whole process
and for good, so whoever pretends runs in a process of their own (tests/unit/lurm_model/test_devices.py).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretended"
DEVICE = f"{NAME}:0"
PLACES = {"index", "index_put", "index_put_"}


class Pretended(Tensor):
    """A tensor of the device; its numbers are in ``numbers``, on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        """The same shape and strides, another device."""
        made: Pretended = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(DEVICE),
        )
        made.numbers = inner
        return made

    def tolist(self) -> Any:
        """torch refuses it for subclasses; a GPU's tensors have it."""
        return self.numbers.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Only `Device` computes with them."""
        raise RuntimeError(f"outside Device: operator={func} {types=}")


class Device(TorchDispatchMode):
    """Inside it `DEVICE` is there. Counts what was computed on it. **Raises** ``RuntimeError`` where devices meet."""

    def __init__(self) -> None:
        super().__init__()
        self.n_computed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU, on behalf of whichever device it is."""
        kwargs, name = dict(kwargs or {}), func.overloadpacket._qualified_op_name.removeprefix("aten::")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        pretended = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
        target = kwargs.get("device") and torch.device(kwargs.pop("device")).type
        if name == "_pin_memory":
            return args[0]
        if pretended and not target and name != "copy_":
            _refuse_others(name, tensors)
        bare_args, bare = tree_map(_bare, args), tree_map(_bare, kwargs) | ({"device": "cpu"} if target else {})
        found = FUSED.get(name, func)(*bare_args, **bare)
        if name == "copy_":
            return args[0]
        if not (target == NAME if target else pretended) or name == "_local_scalar_dense":
            return found
        self.n_computed += 1
        made = tree_map(lambda leaf: Pretended(leaf) if isinstance(leaf, Tensor) else leaf, found)
        return return_and_correct_aliasing(func, args, kwargs, made) if pretended and not target else made


def register() -> None:
    """Make torch know the device; once per process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    # A wrapper cannot be an inference tensor.
    torch.inference_mode = torch.no_grad  # type: ignore[misc, assignment]


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> Sequence[torch.dtype]:
        return [torch.bfloat16]


def _bare(leaf: Any) -> Any:
    return leaf.numbers if isinstance(leaf, Pretended) else leaf


def _refuse_others(name: str, tensors: Sequence[Tensor]) -> None:
    """Numbers alone may come from the CPU, and for `PLACES` where to read and write, as on CUDA."""
    others = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, Pretended) and tensor.dim()]
    if others and name not in PLACES:
        raise RuntimeError(f"tensors of two devices meet: operator={name} shapes_on_the_cpu={others}")


def _gru_cell(
    given: Tensor, known: Tensor, state: Tensor, given_bias: Tensor | None = None, known_bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A GRU's step as accelerators fuse it: the CPU has none."""
    if given_bias is not None and known_bias is not None:
        given, known = given + given_bias, known + known_bias
    (reset, update, new), (of_reset, of_update, of_new) = given.chunk(3, 1), known.chunk(3, 1)
    reset, update = torch.sigmoid(reset + of_reset), torch.sigmoid(update + of_update)
    new = torch.tanh(new + reset * of_new)
    return new + update * (state - new), torch.cat([reset, update, new, state, of_new], 1)


def _gru_cell_backward(grad: Tensor, kept: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    reset, update, new, state, of_new = kept.chunk(5, 1)
    to_update = grad * (state - new) * update * (1 - update)
    to_new = grad * (1 - update) * (1 - new * new)
    to_reset = to_new * of_new * reset * (1 - reset)
    given, known = torch.cat([to_reset, to_update, to_new], 1), torch.cat([to_reset, to_update, to_new * reset], 1)
    biases = (given.sum(0), known.sum(0)) if has_bias else (None, None)
    return given, known, grad * update, *biases


FUSED = {"_thnn_fused_gru_cell": _gru_cell, "_thnn_fused_gru_cell_backward": _gru_cell_backward}
