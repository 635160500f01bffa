"""Small ICC profiles, and what their colors are in sRGB by arithmetic: the reference that a color-managed viewer follows."""

import struct
from collections.abc import Mapping

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
SRGB = np.array([[0.4360657, 0.3851515, 0.1430784], [0.2224932, 0.7168870, 0.0606169], [0.0139160, 0.0970764, 0.7140961]])
PRIMARIES = {
    "Display P3": np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]]),
    "Adobe RGB": np.array([[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]]),
    "ProPhoto": np.array([[0.7977, 0.1352, 0.0313], [0.2880, 0.7119, 0.0001], [0.0, 0.0, 0.8249]]),
}
"""(X, Y, Z) of red, green and blue under D50, a column each."""
GAMMAS = {"Display P3": 2.2, "Adobe RGB": 563 / 256, "ProPhoto": 1.8}


def profile(space: bytes, tags: Mapping[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile, version 2."""
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size, kind = start + len(body), b"mntr" if space != b"CMYK" else b"prtr"
    head = struct.pack(">I4s4s4s4s4s", size, bytes(4), b"\x02\x40\0\0", kind, space, connection)
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + struct.pack(">3i", *_fixed(D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def rgb_profile(name: str) -> bytes:
    columns = {tag: _xyz(column) for tag, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), PRIMARIES[name].T, strict=True)}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(GAMMAS[name]))
    return profile(b"RGB ", {**_texts(name), b"wtpt": _xyz(D50), **columns, **curves})


def gray_profile(gamma: float) -> bytes:
    return profile(b"GRAY", {**_texts("gray"), b"wtpt": _xyz(D50), b"kTRC": _curve(gamma)})


def cmyk_profile(inks: np.ndarray) -> bytes:
    """Of a press whose inks at 0 and 1 give the colors `inks` (2, 2, 2, 2, 3) in Lab, and mixtures between them."""
    ramp = bytes(range(256))
    grid = np.stack([inks[..., 0] * 2.55, inks[..., 1] + 128, inks[..., 2] + 128], axis=-1).round().astype(np.uint8)
    identity = struct.pack(">9i", *_fixed(np.eye(3).ravel()))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + grid.tobytes() + ramp * 3
    return profile(b"CMYK", {**_texts("press"), b"wtpt": _xyz(D50), b"A2B0": table, b"A2B1": table}, b"Lab ")


def from_rgb(pixels: np.ndarray, name: str) -> np.ndarray:
    """8-bit colors of a space in 8-bit sRGB."""
    return to_srgb((pixels / 255) ** GAMMAS[name] @ PRIMARIES[name].T)


def from_gray(pixels: np.ndarray, gamma: float) -> np.ndarray:
    return to_srgb((pixels / 255)[..., None] ** gamma * D50)


def from_cmyk(pixels: np.ndarray, inks: np.ndarray) -> np.ndarray:
    share = pixels[..., None] / 255
    lab = inks[None, None]  # (1, 1, c, m, y, k, 3)
    for ink in range(4):
        own = share[:, :, ink].reshape(*share.shape[:2], *[1] * (4 - ink))
        lab = (1 - own) * lab[:, :, 0] + own * lab[:, :, 1]
    return to_srgb(xyz_of(lab))


def xyz_of(lab: np.ndarray) -> np.ndarray:
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    return np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50


def to_srgb(xyz: np.ndarray) -> np.ndarray:
    """Colors relative to D50 -> 8 bits."""
    linear = (xyz @ np.linalg.inv(SRGB).T).clip(0, 1)
    return np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)).astype(np.uint8)


def _fixed(values: np.ndarray) -> list[int]:
    return np.rint(np.asarray(values) * 65536).astype(int).tolist()


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *_fixed(values))


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _texts(name: str) -> dict[bytes, bytes]:
    text = name.encode() + b"\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    return {b"desc": description, b"cprt": b"text" + bytes(4) + b"free\0"}
