"""Files of named tensors (safetensors, which holds no code) with the checksum of their content in the header."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from largescale.commit import CHECKSUM, DamagedError, committed_file

Tensors = dict[str, torch.Tensor]


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str] | None = None) -> str:
    """Write a file, atomically; its checksum.

    Args:
        header: texts that are kept beside the tensors.
    """
    plain = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    found = checksum_of_tensors(plain, header or {})
    with committed_file(path) as temporary:
        save_file(plain, temporary, {**(header or {}), CHECKSUM: found})
    return found


def read_tensors(path: Path, checksum: str | None = None) -> tuple[Tensors, dict[str, str]]:
    """The tensors and the header of a file. One that carries a checksum, as all of ours do, must be what it says.

    Args:
        checksum: that of the file that is wanted.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is no safetensors file, or not the one that was written.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedError(f"{path} is no safetensors file, or is cut off ({error}); fetch or write it again") from None
    stated = header.pop(CHECKSUM, checksum)
    if stated is not None and stated != (found := checksum_of_tensors(tensors, header)):
        raise DamagedError(f"{path} is damaged: its checksum is {stated}, that of its tensors {found}; fetch or write it again")
    if checksum not in (None, stated):
        raise DamagedError(f"{path} has the checksum {stated}, expected {checksum}: it is another file; copy the folder again")
    return tensors, header


def read_copies(path: Path) -> Tensors:
    """As `read_tensors`, in memory of our own: those of a file follow what becomes of it, also while it is copied over.

    Raises:
        FileNotFoundError, DamagedError: as `read_tensors`.
    """
    return {name: tensor.clone() for name, tensor in read_tensors(path)[0].items()}


def checksum_of_tensors(tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> str:
    """Of names, types, shapes, numbers and header."""
    digest = xxhash.xxh3_64()
    shapes = [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in sorted(tensors)]
    digest.update(json.dumps([sorted(header.items()), shapes]).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
