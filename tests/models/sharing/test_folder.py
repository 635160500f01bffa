from pathlib import Path

import pytest
import torch

from largescale.commit import read_json, write_json
from largescale.models.sharing.folder import CONFIG, NETWORK, WHITENING, Contents, DescriptorConfig, read_folder, write_folder
from largescale.models.whitening import Whitening
from largescale.settings import UserError
from tests.evaluation.small import tiny_network


@pytest.fixture
def contents() -> Contents:
    whitening = Whitening(torch.randn(24), torch.randn(24, 24))
    settings = DescriptorConfig(size=48, scales=(1.0, 0.5), whitening="pca", dim=16)
    return Contents(tiny_network(), settings, whitening, torch.randn(7, 24), {"run": "first"})


@pytest.mark.slow
def test_a_folder_gives_back_what_it_was_given(tmp_path: Path, contents: Contents) -> None:
    write_folder(tmp_path / "model", contents, "# Card\n")
    found, digest = read_folder(tmp_path / "model")
    assert found.settings == contents.settings
    assert found.about == {"run": "first"}
    assert read_json(tmp_path / "model" / CONFIG)["anchors"] == 7
    assert not found.network.training
    assert contents.whitening is not None
    assert found.whitening is not None
    assert contents.anchors is not None
    assert found.anchors is not None
    torch.testing.assert_close(found.anchors, contents.anchors, rtol=0, atol=0)
    torch.testing.assert_close(found.whitening.directions, contents.whitening.directions[:16], rtol=0, atol=0)
    for name, tensor in contents.network.state_dict().items():
        torch.testing.assert_close(found.network.state_dict()[name], tensor, rtol=0, atol=0)
    assert {path.name for path in (tmp_path / "model").glob("[!.]*")} == {
        "README.md",
        "anchors.safetensors",
        "config.json",
        "model.safetensors",
        "whitening.safetensors",
    }
    write_folder(tmp_path / "model", contents, "# Another card\n")
    assert read_folder(tmp_path / "model")[1] == digest


@pytest.mark.slow
def test_a_model_in_memory_stays_what_it_was_when_its_files_are_copied_over(tmp_path: Path, contents: Contents) -> None:
    """As `cp` and `rsync --inplace` do under a server that runs."""
    write_folder(tmp_path / "model", contents, "")
    found, _ = read_folder(tmp_path / "model")
    for path in (tmp_path / "model").glob("*.safetensors"):
        with path.open("r+b") as file:
            file.seek(-64, 2)
            file.write(b"\1" * 64)
    assert found.whitening is not None
    assert found.anchors is not None
    assert contents.whitening is not None
    assert contents.anchors is not None
    assert torch.equal(found.whitening.directions, contents.whitening.directions[:16])
    assert torch.equal(found.whitening.mean, contents.whitening.mean)
    assert torch.equal(found.anchors, contents.anchors)
    for name, tensor in contents.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], tensor)


@pytest.mark.slow
def test_another_network_or_setting_is_another_digest(tmp_path: Path) -> None:
    def digest(seed: int, size: int) -> str:
        network = tiny_network(seed)
        write_folder(tmp_path / "model", Contents(network, DescriptorConfig(size=size, dim=network.dim)), "")
        return read_folder(tmp_path / "model")[1]

    assert len({digest(0, 48), digest(0, 64), digest(1, 48)}) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / WHITENING).unlink(), "lists whitening.safetensors, which is not there"),
        (lambda folder: (folder / NETWORK).write_bytes(b"x"), "model.safetensors is not the file that was written"),
        (lambda folder: (folder / CONFIG).unlink(), "is no model folder: it has no config.json"),
        (lambda folder: (folder / CONFIG).write_text("{"), "config.json is damaged: it is not valid JSON"),
        (lambda folder: change(folder, version=2), "expected 'largescale model' version 1, found ('largescale model', 2)"),
        (lambda folder: change(folder, files={"../secret": "0"}), "lists ../secret, which is not there"),
        (lambda folder: change(folder, descriptor={"dim": 16, "zoom": 2}), "settings that are not known here"),
        (lambda folder: change(folder, model={"backbone": "resnet18"}), "holds another network than config.json describes"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, contents: Contents, damage: object, message: str) -> None:
    write_folder(tmp_path / "model", contents, "")
    damage(tmp_path / "model")  # type: ignore[operator]
    with pytest.raises(UserError) as error:
        read_folder(tmp_path / "model")
    assert message in str(error.value)


@pytest.mark.slow
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, contents: Contents) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="nothing was touched"):
        write_folder(tmp_path, contents, "")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def change(folder: Path, **values: object) -> None:
    write_json(folder / CONFIG, read_json(folder / CONFIG) | values)
