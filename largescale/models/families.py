"""What works with which family of timm: `torchrun --nproc-per-node 2 -m largescale.models.families > docs/reference/families.md`.

One small model of each family, with random weights, is built, asked for a descriptor and a gradient, trained for two steps on
all processes, exported and read again. With names of models (`... largescale.models.families test_vit`), of their families only.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from largescale.distributed import World
from largescale.models.backbones.backbones import gives_tokens
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.layers import freeze_idle, layers_of
from largescale.models.network import RetrievalNet
from largescale.program.running import run_program
from largescale.settings import UserError
from largescale.training.trial import reload_difference, trial_batch, trial_engine

FAMILIES = {
    "ResNet, ResNeXt, RegNet, ECA": "test_resnet",
    "ByobNet (RepVGG, MobileOne, ...)": "test_byobnet",
    "EfficientNet, MobileNet, MnasNet": "test_efficientnet",
    "EfficientNet with group normalization": "test_efficientnet_gn",
    "NFNet": "test_nfnet",
    "ConvNeXt": "test_convnext",
    "MambaOut": "test_mambaout",
    "ViT (DeiT, DINOv2, DINOv3, CLIP)": "test_vit",
    "ViT with attention pooling (SigLIP)": "test_vit3",
    "ViT with relative positions": "test_vit_relpos",
    "EVA, PE": "eva02_tiny_patch14_224",
    "BEiT": "beit_base_patch16_224",
    "Swin": "swin_tiny_patch4_window7_224",
    "Swin v2": "swinv2_tiny_window8_256",
    "MaxViT": "test_maxvit",
    "CoAtNet": "test_coatnet",
    "Hiera": "hiera_tiny_224",
    "LeViT": "levit_128s",
    "CAFormer, ConvFormer": "caformer_s18",
    "FastViT": "fastvit_t8",
    "CrossViT": "crossvit_tiny_240",
    "EfficientViM": "efficientvim_m1",
    "Lambda networks": "lambda_resnet26t",
}
HEAD = (
    "family",
    "tried",
    "features",
    "sizes (pixels)",
    "smallest side",
    "default pooling",
    "layers to freeze",
    "adapters",
    "without gradient",
    "two steps, two processes",
    "export, reload",
)
CLOSE = 1e-5
"""Descriptors of a file that was read again differ by no more from those of its network."""


@dataclass(frozen=True)
class FamilyRow:
    """A family, as one of its models shows it."""

    family: str
    model: str
    cells: tuple[str, ...]

    def __str__(self) -> str:
        return "| " + " | ".join((self.family, f"`{self.model}`", *self.cells)) + " |"


def tried(family: str, model: str, world: World, folder: Path) -> FamilyRow:
    """Build the model, run it forward and backward, and train, export and read it again."""
    try:
        net = build_network(ModelConfig(backbone=f"timm:{model}"))
    except UserError as error:
        return FamilyRow(family, model, (f"refused: {str(error)[:90]}",) + ("",) * (len(HEAD) - 3))
    contract, idle = net.contract, freeze_idle(net)
    net(torch.zeros(2, 3, *(contract.borne(64),) * 2)).sum().backward()
    learning = [name for name, parameter in net.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert not learning, learning
    any_size = "any" if contract.multiple == 1 else f"multiples of {contract.multiple}"
    linear = any(isinstance(module, torch.nn.Linear) for module in net.backbone.modules())
    cells = (
        "tokens" if gives_tokens(net.backbone) else "map",
        f"{contract.size} x {contract.size} only" if contract.fixed else any_size,
        str(contract.least),
        str(net.config.pooling),
        str(max(layers_of(net.backbone).values()) + 1),
        "yes" if linear else "no",
        str(len(idle)) if idle else "none",
        "yes" if learns_alike(net, world) else "no",
        "yes" if reload_difference(net, folder / f"{model}.safetensors", trial_batch(net, world, 2).groups[1]) <= CLOSE else "no",
    )
    return FamilyRow(family, model, cells)


def learns_alike(net: RetrievalNet, world: World) -> bool:
    """Whether two steps change the network, and on every process to the same."""
    net.zero_grad()
    engine, before = trial_engine(net, world), _weights(net)
    for step in range(2):
        engine.backward([trial_batch(net, world, step)])
        engine.step(1.0)
    after = _weights(net)
    return not after.equal(before) and len(set(world.gather(float(after.double().sum())))) == 1


def _weights(net: RetrievalNet) -> torch.Tensor:
    """All of them in a row, a copy."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()])


COMMAND = "torchrun --nproc-per-node 2 -m largescale.models.families"
PAGE = f"""# Families of timm

Made by `{COMMAND} > docs/reference/families.md`: a model of each family
with random weights, built, run forward and backward, trained for two steps on two processes that end with the same weights,
exported, and read again to give the same descriptors.
`{COMMAND} MODEL ...` tries those of the column *tried* that are named.
Parameters without a gradient are those that the descriptor does not use; they are frozen, and named at the start of a run.
"""


def chosen(models: Sequence[str]) -> dict[str, str]:
    """The families of the models; without any, all families.

    Raises:
        UserError: no family is tried with such a model.
    """
    if unknown := sorted({*models} - {*FAMILIES.values()}):
        raise UserError(f"no family is tried with {', '.join(unknown)}; there are {', '.join(FAMILIES.values())}")
    return {family: model for family, model in FAMILIES.items() if model in models or not models}


def main(models: Sequence[str]) -> None:
    if {"-h", "--help"} & {*models}:
        print(__doc__)
        return
    families = chosen(models)
    torch.manual_seed(0)
    with World.start() as world, tempfile.TemporaryDirectory() as folder:
        if world.is_first:
            print(f"{PAGE}\n| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
        for family, model in families.items():
            row = tried(family, model, world, Path(folder))
            if world.is_first:
                print(row, flush=True)


if __name__ == "__main__":
    run_program(main)
