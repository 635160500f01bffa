"""Protocols are frozen: a changed rule must be seen here, and come with a new version."""

import pytest

from largescale.evaluation.protocol.protocols import LABELS, LEAVE_ONE_OUT, UKBENCH, landmark_protocols
from largescale.settings import UserError

HASHES = {
    "oxford5k-crop": "1 73131f57ff09c1ba",
    "oxford5k-nocrop": "1 a14d4d95f92cd12c",
    "paris6k-crop": "1 1fdd3e09f5fa24d7",
    "paris6k-nocrop": "1 3913162e626850bf",
    "roxford5k-easy-crop": "1 5b6900c7b1f13ecb",
    "roxford5k-medium-crop": "1 5093de38fea20d97",
    "roxford5k-hard-crop": "1 0acad7f357430e3c",
    "roxford5k-easy-nocrop": "1 e3a42682ff8f85cf",
    "roxford5k-medium-nocrop": "1 58e73368b792655c",
    "roxford5k-hard-nocrop": "1 530d34169fce3cf0",
    "rparis6k-easy-crop": "1 ce7a752bf2ce2485",
    "rparis6k-medium-crop": "1 5cfed5f65583aad8",
    "rparis6k-hard-crop": "1 9f4b07bca6ed0767",
    "rparis6k-easy-nocrop": "1 89d15ecca697a269",
    "rparis6k-medium-nocrop": "1 a04e9f2b3d143417",
    "rparis6k-hard-nocrop": "1 b0274c2c6ae60332",
    "holidays": "1 4413b22f63105e6e",
    "holidays-upright": "1 e7976886070123ef",
    "gldv2-public": "1 0d07118162bd2a24",
    "gldv2-private": "1 1d573fc623513cf7",
    "ilias": "1 d7a00747f68419a0",
    "ukbench": "2 0603fd5a245b3b0b",
    "labels-query-gallery": "2 24c2325a4099339f",
    "labels-leave-one-out": "2 50e11c2fd2be49ec",
}


def test_rules_have_not_changed() -> None:
    families = ("oxford5k", "paris6k", "roxford5k", "rparis6k", "holidays", "holidays-upright", "gldv2", "ilias")
    protocols = [p for family in families for crop in (True, False) for p in landmark_protocols(family, crop)]
    assert {p.name: f"{p.version} {p.hash}" for p in [*protocols, LABELS, LEAVE_ONE_OUT, UKBENCH]} == HASHES


def test_crop_is_part_of_the_name() -> None:
    assert [p.name for p in landmark_protocols("rparis6k", crop=True)] == [
        f"rparis6k-{x}-crop" for x in ("easy", "medium", "hard")
    ]
    assert landmark_protocols("oxford5k", crop=False)[0].name == "oxford5k-nocrop"


def test_unknown_family() -> None:
    with pytest.raises(UserError, match="'oxford6k'; known are oxford5k, paris6k"):
        landmark_protocols("oxford6k", crop=True)
