import multiprocessing
import sys
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from largescale.corpus.config import AugmentConfig, ImagesConfig, LoaderConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.loading import load_pass, parts_of
from largescale.embedding import AT_ONCE, Embedded, Embedder
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from largescale.precision import Resolved
from tests.corpora import make_corpus
from tests.laws import check_coverage

CPU = torch.device("cpu")
IMAGES = ImagesConfig(size=64, augment=AugmentConfig())
ALONE = LoaderConfig(workers=0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """60 images of three shapes in 4 shards, two of them no images."""
    folder = tmp_path_factory.mktemp("embedding") / "corpus"
    return Corpus.open(str(make_corpus(folder, 10, 5, 4, 64, unlabeled=10, mixed=True, replace={7: b"no image", 33: b"?"})))


@pytest.fixture(scope="module")
def network() -> RetrievalNet:
    torch.manual_seed(0)
    return build_network(ModelConfig(backbone="resnet18", freeze_batchnorm=False))


def embedder(**settings: Any) -> Embedder:
    return Embedder(IMAGES, **{"batch_size": 4, "loader": ALONE, "device": CPU, "precision": "fp32"} | settings)


def run(network: RetrievalNet, corpus: Corpus, ids: np.ndarray | None = None, **settings: Any) -> list[Embedded]:
    wanted = np.arange(len(corpus.manifest)) if ids is None else ids
    of_pass = {name: settings.pop(name) for name in ("shards", "boxes", "progress") if name in settings}
    return list(embedder(**settings).embed(network, corpus, wanted, **of_pass))


def in_order(groups: list[Embedded]) -> tuple[np.ndarray, Tensor]:
    ids = np.concatenate([group.ids for group in groups])
    order = np.argsort(ids)
    return ids[order], torch.cat([group.descriptors for group in groups])[order]


@pytest.mark.slow
def test_every_image_once_and_bad_ones_reported(network: RetrievalNet, corpus: Corpus) -> None:
    groups = run(network, corpus)
    ids, descriptors = in_order(groups)
    assert ids.tolist() == [i for i in range(60) if i not in (7, 33)]
    assert descriptors.dtype == torch.float32
    assert descriptors.shape == (58, network.dim)
    assert sorted(bad.key for group in groups for bad in group.bad) == ["000007", "000033"]


@pytest.mark.slow
def test_descriptors_are_the_networks_own(network: RetrievalNet, corpus: Corpus) -> None:
    """Those of the network in evaluation mode, to rounding, on images that were not augmented."""
    ids, descriptors = in_order(run(network, corpus, batch_size=20))
    found = dict(zip(ids.tolist(), descriptors, strict=True))
    torch.set_num_threads(1)
    network.eval()
    with torch.inference_mode():
        parts = parts_of(corpus.manifest, np.arange(60), 20)
        for group in load_pass(corpus, parts, IMAGES.model_copy(update={"augment": None}), batch=20, loader=ALONE):
            rows = torch.cat([network(network.contract.normalize(part)) for part in group.images.split(AT_ONCE)])
            torch.testing.assert_close(torch.stack([found[i] for i in group.ids.tolist()]), rows, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "precision"), [(1, "fp32"), (2, "fp32"), (3, "fp32"), (7, "fp32"), (3, "bf16")])
def test_ranks_share_a_pass_without_gap_and_with_the_same_bits(
    network: RetrievalNet, corpus: Corpus, ranks: int, precision: Resolved
) -> None:
    wanted = np.sort(np.random.default_rng(0).choice(60, 40, replace=False))
    ids, descriptors = in_order(run(network, corpus, wanted, precision=precision))
    shares = [run(network, corpus, wanted, share=(rank, ranks), precision=precision) for rank in range(ranks)]
    own = [embedder(share=(rank, ranks)).own_images(corpus, wanted) for rank in range(ranks)]
    np.testing.assert_array_equal(np.concatenate(own), wanted)
    for groups, expected in zip(shares, own, strict=True):
        check_coverage([group.ids for group in groups], set(expected.tolist()) - {7, 33})
    found = in_order([group for groups in shares for group in groups])
    np.testing.assert_array_equal(found[0], ids)
    assert torch.equal(found[1], descriptors)


@pytest.mark.slow
@pytest.mark.parametrize(("cores", "precision"), [(1, "fp32"), (3, "fp32"), (3, "bf16")])
def test_bits_do_not_depend_on_cores(
    network: RetrievalNet, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, cores: int, precision: Resolved
) -> None:
    expected = in_order(run(network, corpus, precision=precision))[1]
    monkeypatch.setattr("largescale.embedding.own_cores", lambda: cores)
    torch.set_num_threads(cores)
    assert torch.equal(in_order(run(network, corpus, precision=precision))[1], expected)


@pytest.mark.slow
def test_a_cpu_starts_no_loader_processes(network: RetrievalNet, corpus: Corpus) -> None:
    for _ in embedder(loader=LoaderConfig(workers=2)).embed(network, corpus, np.arange(60)):
        assert not multiprocessing.active_children()


@pytest.mark.slow
def test_leaves_modes_threads_and_random_numbers_as_they_were(network: RetrievalNet, corpus: Corpus) -> None:
    network.train()
    network.backbone.bn1.eval()
    modes = [module.training for module in network.modules()]
    torch.set_num_threads(2)
    torch.manual_seed(5)
    before, statistics = torch.get_rng_state(), network.state_dict()["backbone.bn1.running_mean"].clone()
    for group in embedder().embed(network, corpus, np.arange(20)):
        assert not network.training
        assert not group.descriptors.requires_grad
        break
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(network.state_dict()["backbone.bn1.running_mean"], statistics)
    assert torch.get_num_threads() == 2


@pytest.mark.slow
def test_a_pass_that_is_left_early_computes_to_its_end_in_evaluation_mode(network: RetrievalNet, corpus: Corpus) -> None:
    """What threads still compute then must not change running statistics."""
    network.train()
    found = list[bool]()

    def slow(module: torch.nn.Module, *_: Any) -> None:
        time.sleep(0.2)
        found.append(module.training)

    hook = network.pool.register_forward_pre_hook(slow)
    groups = embedder().embed(network, corpus, np.arange(20))
    next(groups)
    groups.close()  # type: ignore[attr-defined]
    hook.remove()
    assert len(found) > 1
    assert not any(found)


@pytest.mark.slow
def test_a_continued_pass_has_the_groups_of_the_whole_and_counts_what_is_left(
    network: RetrievalNet, corpus: Corpus, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    whole, left = run(network, corpus), corpus.manifest.shard_start[1:3]
    groups = run(network, corpus, shards={1}, progress="rest")
    ids = [group.ids.tolist() for group in groups]
    assert ids == [group.ids.tolist() for group in whole if left[0] <= group.ids[0] < left[1]]
    assert f"/{left[1] - left[0]} [" in capsys.readouterr().err


@pytest.mark.slow
def test_stops_when_asked(network: RetrievalNet, corpus: Corpus) -> None:
    answers = iter([False, False, True, True, True])
    groups = run(network, corpus, should_stop=lambda: next(answers))
    assert 0 < sum(len(group.ids) for group in groups) <= 8


@pytest.mark.slow
def test_a_rank_without_images_has_nothing_to_do(network: RetrievalNet, corpus: Corpus) -> None:
    shares = [run(network, corpus, np.array([3]), share=(rank, 2)) for rank in (0, 1)]
    assert sorted(len(groups) for groups in shares) == [0, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu_to_rounding(network: RetrievalNet, corpus: Corpus) -> None:
    cpu = in_order(run(network, corpus))[1]
    device = torch.device("cuda")
    try:
        network.to(device)
        exact = in_order(run(network, corpus, device=device))[1].cpu()
        half = in_order(run(network, corpus, device=device, precision="bf16"))[1].cpu()
    finally:
        network.to(CPU)
    torch.testing.assert_close(exact, cpu, rtol=0, atol=1e-3)
    assert ((half * cpu).sum(1) > 0.999).all()
