"""What an evaluation leaves for use: OUT/model, a model folder whose descriptors are those that were scored."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from largescale.evaluation.context import Context
from largescale.evaluation.results import ProtocolResult
from largescale.models.sharing.card import card
from largescale.models.sharing.folder import MODEL, Contents, DescriptorConfig, write_folder
from largescale.program.inputs import trained_on


def leave_model(context: Context, protocols: Sequence[ProtocolResult]) -> None:
    """One rank calls this."""
    contents = as_scored(context, protocols)
    write_folder(context.config.out / MODEL, contents, card(contents))


def as_scored(context: Context, protocols: Sequence[ProtocolResult]) -> Contents:
    """The network with the images, scales, whitening and dimensions of the evaluation, and what it scored."""
    images, transform, network = context.config.images, context.transform, context.network
    network.contract = trained_on(network.contract, images)
    settings = DescriptorConfig.seen_as(
        network.contract,
        scales=context.scales,
        exponent=transform.exponent,
        whitening=context.settings["whitening"],
        precision=context.config.precision,
        dim=transform.dim or (network.dim if transform.whitening is None else len(transform.whitening.directions)),
    )
    scored = {"scored on": asdict(context.task.gallery.used), "scored in": context.precision}
    about = {**context.contents.about, "scores": scores(protocols), **scored}
    return replace(context.contents, settings=settings, whitening=transform.whitening, about=about)


def scores(protocols: Sequence[ProtocolResult]) -> Mapping[str, Any]:
    """The headline of each protocol with its interval and the protocol's hash."""
    return {f"{x.protocol}/{x.main}": {**asdict(x.metrics[x.main]), "protocol": x.hash} for x in protocols}
