"""Protocols are frozen: a changed rule must be seen here, and come with a new version."""

import pytest

from largescale.evaluation.protocol.protocols import INSHOP, LABELS, LEAVE_ONE_OUT, UKBENCH, WITHIN_GALLERY, landmark_protocols
from largescale.settings import UserError

HASHES = {
    "oxford5k-crop": "2 e7fb4e6b839e70cd",
    "oxford5k-nocrop": "2 185f9ed4ad8fedba",
    "paris6k-crop": "2 85b828f42c2ce09a",
    "paris6k-nocrop": "2 c1e969f0e9cb1d4c",
    "roxford5k-easy-crop": "2 3d141a4ed6da268b",
    "roxford5k-medium-crop": "2 b6280a7d25cb7b76",
    "roxford5k-hard-crop": "2 7f3296fc6ba4449f",
    "roxford5k-easy-nocrop": "2 42f4862ffd8cd500",
    "roxford5k-medium-nocrop": "2 cf47bc4a9fd065d3",
    "roxford5k-hard-nocrop": "2 b338d0ae9a57bff2",
    "rparis6k-easy-crop": "2 50cae8561bddddc4",
    "rparis6k-medium-crop": "2 b6243c4e3a2da0de",
    "rparis6k-hard-crop": "2 d0c5bbd9a5e80528",
    "rparis6k-easy-nocrop": "2 7d283b82a4c8d381",
    "rparis6k-medium-nocrop": "2 164759bf945dc4c2",
    "rparis6k-hard-nocrop": "2 58b239c2e2e5efc3",
    "holidays": "2 c40b6426bc556a43",
    "holidays-upright": "2 cece10f5d7346114",
    "gldv2-public": "2 632ec1551b8667bb",
    "gldv2-private": "2 454aa44acf881466",
    "ilias": "2 97eeea068e9b3dd7",
    "inshop": "3 59315e0b9a8fa001",
    "ukbench": "3 d835099cf0631eb8",
    "labels-query-gallery": "3 91bc758e9bc98326",
    "labels-query-within-gallery": "3 5cd8b48cc75687b4",
    "labels-leave-one-out": "3 fbdc831e4c7e2369",
}


def test_rules_have_not_changed() -> None:
    families = ("oxford5k", "paris6k", "roxford5k", "rparis6k", "holidays", "holidays-upright", "gldv2", "ilias")
    protocols = [p for family in families for crop in (True, False) for p in landmark_protocols(family, crop)]
    assert {
        p.name: f"{p.version} {p.hash}" for p in [*protocols, INSHOP, LABELS, LEAVE_ONE_OUT, WITHIN_GALLERY, UKBENCH]
    } == HASHES


def test_crop_is_part_of_the_name() -> None:
    assert [p.name for p in landmark_protocols("rparis6k", crop=True)] == [
        f"rparis6k-{x}-crop" for x in ("easy", "medium", "hard")
    ]
    assert landmark_protocols("oxford5k", crop=False)[0].name == "oxford5k-nocrop"


def test_unknown_family() -> None:
    with pytest.raises(UserError, match="'oxford6k'; known are oxford5k, paris6k"):
        landmark_protocols("oxford6k", crop=True)
