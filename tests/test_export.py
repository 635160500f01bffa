"""What other runtimes compute, on pictures of several sizes."""

from pathlib import Path

import pytest
import torch

from largescale.export import Kind, export
from largescale.models.folder import Contents, DescriptorConfig
from tests.corpora import photograph
from tests.evaluation.small import tiny_network


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_an_export_computes_what_the_network_computes(tmp_path: Path, kind: Kind) -> None:
    torch.set_num_threads(1)
    network = tiny_network().eval()
    pictures = [photograph(number, 0, *size) for number, size in enumerate([(64, 48), (48, 64), (57, 71)])]
    found = export(Contents(network, DescriptorConfig(size=64, dim=network.dim)), kind, tmp_path, pictures)
    assert found.difference < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == [found.file.name]
