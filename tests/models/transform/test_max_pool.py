"""Maximum pooling by bits, against torch's."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from largescale.models.transform.max_pool import MaxPoolOfBits, may_take_bits


def positive(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu().to(torch.bfloat16)


@pytest.mark.parametrize("shape", [(2, 8, 17, 23), (1, 4, 5, 6), (1, 3, 64, 65)])
@torch.inference_mode()
def test_every_window_as_torch_takes_it(shape: tuple[int, ...]) -> None:
    for layout, kernel, stride, padding, ceil in itertools.product(
        (torch.channels_last, torch.contiguous_format), (2, 3, (3, 2), 5), (1, 2, (2, 3), 3), (0, 1), (True, False)
    ):
        layer = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
        images = positive(*shape).contiguous(memory_format=layout)
        assert torch.equal(MaxPoolOfBits(layer)(images), layer(images)), layer


@torch.inference_mode()
def test_what_is_no_number_stays_none() -> None:
    images = positive(1, 2, 8, 8)
    images[0, 0, 3, 3], images[0, 1, 3, 3] = float("nan"), float("inf")
    layer = nn.MaxPool2d(3, 2)
    torch.testing.assert_close(MaxPoolOfBits(layer)(images), layer(images), equal_nan=True, rtol=0, atol=0)


def test_windows_with_gaps_and_places_are_left_to_torch() -> None:
    assert may_take_bits(nn.MaxPool2d(3, 2, ceil_mode=True))
    assert not may_take_bits(nn.MaxPool2d(3, 2, dilation=2))
    assert not may_take_bits(nn.MaxPool2d(3, 2, return_indices=True))
    assert not may_take_bits(nn.AvgPool2d(3, 2))
