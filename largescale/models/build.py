"""Networks from settings, and from the interchange file of a run."""

import logging
from pathlib import Path
from typing import Any

from torch import nn

from largescale.models.backbones.backbones import (
    build_backbone,
    download_weights,
    gives_several,
    gives_tokens,
    named_as_published,
    source_keys,
)
from largescale.models.backbones.contract import Contract
from largescale.models.backbones.probe import borne, negative_share
from largescale.models.backbones.tokens import Tokens
from largescale.models.config import ModelConfig, Pooling
from largescale.models.layers import freeze_layers
from largescale.models.lora import add_adapters
from largescale.models.network import ONE_CELL, RetrievalNet
from largescale.models.weights import FORMAT, State, Weights, load_exactly, load_weights, read_pickle, read_safetensors
from largescale.program.logs import ONCE
from largescale.settings import UserError

log = logging.getLogger(__name__)


def build_network(config: ModelConfig) -> RetrievalNet:
    """The network with its first weights, on the CPU, in training mode.

    Raises:
        UserError: the weights or the pooling do not fit the backbone, or weights cannot be downloaded.
    """
    backbone, published = build_backbone(config.backbone, _tokens(config), config.drop_path)
    contract = borne(backbone, published, config.backbone)
    if config.pooling not in (None, "own") and gives_several(backbone):
        raise UserError(
            f"pooling={config.pooling} of {config.backbone}: it makes several maps of an image, which its own head puts "
            "together; use pooling=own, or leave it out"
        )
    if config.pooling == "gem":
        _check_gem(config.backbone, backbone, contract)
    if config.pooling is None:
        config = config.model_copy(update={"pooling": _default_pooling(config.backbone, backbone, contract)})
        if config.pooling == "own":
            backbone, published = build_backbone(config.backbone, "own", config.drop_path)
            contract = borne(backbone, published, config.backbone)
    net = RetrievalNet(config, backbone, contract)
    _initialize(net, config.weights)
    if config.freeze and config.unfreeze_at is None:
        freeze_layers(net, config.freeze)
    if config.lora is not None:
        add_adapters(net.backbone, contract, config.lora)
    return net.train()


def load_network(path: Path) -> tuple[RetrievalNet, dict[str, Any]]:
    """The network in an interchange file (see `save_weights`) and its metadata.

    Raises:
        UserError: no such file, not an interchange file, or names that do not fit.
    """
    weights = load_weights(path)
    return restored(weights, str(path)), weights.metadata


def restored(weights: Weights, source: str) -> RetrievalNet:
    """The network of an interchange file that has been read.

    Raises:
        UserError: names that do not fit.
    """
    config = weights.config
    net = RetrievalNet(config, build_backbone(config.backbone, _tokens(config))[0], weights.contract)
    load_exactly(net, weights.state, source)
    return net


def _check_gem(name: str, backbone: nn.Module, contract: Contract) -> None:
    """Raise UserError where it is of tokens; say it where it is of a map with negative numbers."""
    if gives_tokens(backbone):
        raise UserError(
            f"pooling=gem of {name}: about half of the numbers in the tokens of a transformer are negative, and "
            "GeM takes them for 0; use pooling=own, class_token, class_mean, spoc or mac, or leave it out"
        )
    if share := negative_share(backbone, contract):
        told = "pooling=gem of %s: %.0f %% of its map are negative, and GeM takes them for 0"
        log.warning(told, name, 100 * share, extra=ONCE)


def _default_pooling(name: str, backbone: nn.Module, contract: Contract) -> Pooling:
    """GeM of maps without negative numbers; their mean of others; of tokens what the model itself does."""
    if gives_tokens(backbone):
        return "own"
    share = negative_share(backbone, contract)
    if not share:
        return "gem"
    told = "pooling=spoc of %s: %.0f %% of its map are negative, which GeM would take for 0"
    log.info(told, name, 100 * share, extra=ONCE)
    return "spoc"


def _tokens(config: ModelConfig) -> Tokens:
    return ONE_CELL.get(config.pooling or "", "map")


def _initialize(net: RetrievalNet, source: str) -> None:
    """Load `none`, `imagenet` or a file into a network.

    Raises:
        UserError: names that are missing or unexpected, shapes that differ; a download that failed; an unreadable file.
    """
    if source == "none":
        return
    if source == "imagenet":
        _load_backbone(net, download_weights(net.config.backbone), f"the ImageNet weights of {net.config.backbone}")
        return
    path = Path(source)
    state, header = read_safetensors(path) if path.suffix == ".safetensors" else (read_pickle(path), {})
    if header.get("format") == FORMAT:
        load_exactly(net, state, source)
    else:
        _load_backbone(net, state, source)


def _load_backbone(net: RetrievalNet, state: State, source: str) -> None:
    """The classifier of the published model is left out; any other name must fit."""
    backbone = named_as_published(net.backbone)
    classifier = source_keys(net.config.backbone) - set(backbone.state_dict())
    load_exactly(backbone, {name: x for name, x in state.items() if name not in classifier}, source)
