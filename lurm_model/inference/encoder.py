"""Full inference: the vectors of a batch of users as a pure function of (periods, model)."""

import re
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from lurm_model.bundle import Bundle
from lurm_model.errors import DeviceUnavailable
from lurm_model.smen.collate import collate, user_range
from state.history import ScaleBags

# Enough to keep two cores or a GPU busy; beyond it only memory grows.
BATCH_USERS = 4096
DEVICES = re.compile(r"cpu|cuda(:\d{1,3})?")


def choose_device(device: str) -> str:
    """``"auto"`` is CUDA when there is one, else the CPU; others are ``"cpu"``, ``"cuda"`` and ``"cuda:N"``.

    **Raises** `DeviceUnavailable` for any other, or where it is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not DEVICES.fullmatch(device):
        raise DeviceUnavailable(f"no such device, use --device auto, cpu, cuda or cuda:N: device={device}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a CPU-only torch asserts
        raise DeviceUnavailable(f"torch has no such device here, use --device auto: device={device}") from error
    return device


class Encoder:
    """A bundle ready to encode: what depends on the model only is computed once, here.

    Invariant: the result depends neither on the order nor on the grouping of users beyond float rounding; users
    without periods get zeros. All is float32; on CUDA, cuDNN multiplies in TF32 where the card has it. Nothing changes
    while it encodes, so threads may share it.
    """

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self.device = choose_device(device)
        self._config = bundle.config
        self._idf = bundle.codebook.idf
        self._smen = bundle.smen().to(self.device).eval()
        with torch.inference_mode():
            self._table = self._smen.table()
        if self._on_cuda:
            torch.cuda.synchronize(self.device)

    @property
    def _on_cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def n_threads(self) -> int:
        """How many threads are worth encoding at once: on CUDA one prepares a batch while another's is computed."""
        return 2 if self._on_cuda else 1

    def use_own_stream(self) -> None:
        """Give the calling thread a CUDA stream of its own, so that its copies and kernels wait for nobody else's."""
        if self._on_cuda:
            torch.cuda.set_stream(torch.cuda.Stream(self.device))  # type: ignore[no-untyped-call]

    def encode(self, periods: Mapping[str, ScaleBags], n_users: int) -> NDArray[np.float32]:
        """Every user's M vectors.

        **Shapes**: the periods of every scale of the bundle, as `state.history.resolve` gives them -> float32[n, M, H].
        """
        out = np.zeros((n_users, self._config.n_vectors, self._config.d_anchor), np.float32)
        for start in range(0, n_users, BATCH_USERS):
            stop = min(start + BATCH_USERS, n_users)
            part = {name: user_range(periods[name], start, stop) for name in self._config.scales}
            out[start:stop] = self._encode_batch(part, stop - start)
        return out

    def _encode_batch(self, periods: Mapping[str, ScaleBags], n_users: int) -> NDArray[np.float32]:
        batch = collate(periods, n_users, self._config, self._idf).to(self.device)
        with torch.inference_mode():
            vectors = self._smen(batch, self._table)
        return vectors.float().cpu().numpy()  # type: ignore[no-any-return]  # torch leaves numpy() untyped
