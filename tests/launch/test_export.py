"""launch/export.py in process; which models it takes is in tests/models/sharing, what it writes in tests/test_export.py."""

from pathlib import Path

import pytest
import torch

import largescale
from largescale.settings import UserError
from launch.export import main
from tests.corpora import encode, photograph
from tests.search.photos import make_model


@pytest.mark.slow
def test_a_format_is_checked_on_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model(tmp_path / "model", precision="fp32")
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number, size in enumerate([(96, 72), (72, 96), (80, 80)]):
        (photos / f"{number}.jpg").write_bytes(encode(photograph(number, 0, *size)))
    (photos / "notes.txt").write_text("no picture")
    main([str(tmp_path / "model"), str(out), "formats=[torchscript]", f"pictures={photos}"])
    said = capsys.readouterr().out
    assert "model.ts.pt: differs by " in said
    assert " ms for a picture, torch " in said
    pixels = torch.from_numpy(next(largescale.load(out, "cpu").pixels([photos / "0.jpg"])).transpose(2, 0, 1)[None].copy())
    row = torch.jit.load(str(out / "model.ts.pt"))(pixels)[0]
    torch.testing.assert_close(row, torch.from_numpy(largescale.load(out, "cpu").embed([photos / "0.jpg"])[0]))


@pytest.mark.slow
def test_what_cannot_be_checked_is_not_made(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    model, out, photos = str(tmp_path / "model"), str(tmp_path / "out"), tmp_path / "photos"
    photos.mkdir()
    (photos / "notes.txt").write_text("no picture")
    for given, said in (
        ([model], "expected a model .* usage: python launch/export.py"),
        ([model, out, "formats=[onnx]"], "give pictures=FOLDER"),
        ([model, out, "formats=[onnx]", f"pictures={photos}"], "there is no photograph in it"),
    ):
        with pytest.raises(UserError, match=said):
            main(given)
    data = encode(photograph(0, 0, 96, 72))
    (photos / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut\.jpg: "):
        main([model, out, "formats=[torchscript]", f"pictures={photos}"])
    assert not list(Path(out).glob("*.pt"))
