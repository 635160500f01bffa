"""What a generation costs a rank: a model of the stages, with rates that were measured or given.

Letters: P images of the pool, Q queries, D dimensions, N negatives, R ranks.
"""

from dataclasses import dataclass

from largescale.mining.config import PlanConfig

CANDIDATE_BYTES = 24
"""Similarity, image id and cluster."""
ASKED_BYTES = 24
"""Two clusters that are not eligible, and a mark."""


@dataclass(frozen=True)
class Rates:
    """What a rank can do."""

    decode: float
    """Images that a processor core decodes in a second."""
    forward: float
    """Images that the network embeds in a second: on one processor core, or on the GPU."""
    search: float
    """FLOP/s of search and selection: on one processor core, or on the GPU."""
    network: float
    """Bytes that a rank sends in a second."""
    cores: float
    """Processor cores of a rank."""
    gpu: bool = False


@dataclass(frozen=True)
class Stage:
    """A part of a generation on one rank."""

    name: str
    seconds: float
    bound: str
    """What limits it."""


@dataclass(frozen=True)
class Cost:
    """Of one generation, for one rank."""

    images: float
    """To read, decode and embed."""
    decode_cores: float
    """Processor cores that decode as fast as a GPU embeds; without one, those that decoding takes from the network."""
    index_bytes: float
    search_flops: float
    network_bytes: float
    """Sent to other ranks while searching."""
    stages: tuple[Stage, ...]

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def bound(self) -> str:
        """What limits the slowest stage."""
        return max(self.stages, key=lambda stage: stage.seconds).bound


def estimate(plan: PlanConfig, rates: Rates) -> Cost:
    """The cost of a generation with exact search (mining study, DESIGN section 5).

    A processor decodes and embeds in turns on the same cores; beside a GPU they do nothing but decode, at the same time.
    """
    P, Q, D, N, R = plan.pool, plan.queries, plan.dim, plan.negatives, plan.ranks
    others, own = R - 1, -(-Q // R)
    images = P / R
    flops = 2.0 * P * Q * D / R
    sent = own * others * (D * plan.descriptor_bytes + ASKED_BYTES + N * CANDIDATE_BYTES)
    units = 1 if rates.gpu else rates.cores  # that compute
    decode, forward = images / (rates.decode * rates.cores), images / (rates.forward * units)
    return Cost(
        images=images,
        decode_cores=rates.forward / rates.decode if rates.gpu else rates.cores * decode / (decode + forward),
        index_bytes=images * D * plan.descriptor_bytes,
        search_flops=flops,
        network_bytes=sent,
        stages=(
            _embedding(decode, forward, rates.gpu),
            Stage("search", flops / (rates.search * units), "the GPU" if rates.gpu else "the processor"),
            Stage("exchange", sent / rates.network, "the links between ranks"),
        ),
    )


def _embedding(decode: float, forward: float, gpu: bool) -> Stage:
    if not gpu:
        return Stage("embed", decode + forward, "decoding" if decode > forward else "the neural network, on the processor")
    return Stage("embed", max(decode, forward), "decoding" if decode > forward else "the neural network, on the GPU")


def table(plan: PlanConfig, rates: Rates) -> str:
    """The plan as `--plan` prints it."""
    cost = estimate(plan, rates)
    forward = f"{rates.forward:,.0f} images/s embedded {'by the GPU' if rates.gpu else 'by a core'}"
    lines = [
        f"pool {plan.pool:,}, queries {plan.queries:,}, dimension {plan.dim:,}, ranks {plan.ranks:,}; for each rank:",
        f"  images to embed    {cost.images:,.0f}",
        f"  decode cores       {cost.decode_cores:.2f} needed, {rates.cores:g} there",
        f"  index              {cost.index_bytes / 1e9:,.3f} GB",
        f"  search             {cost.search_flops / 1e12:,.3f} TFLOP",
        f"  sent               {cost.network_bytes / 1e6:,.1f} MB",
        *(f"  {stage.name:<10}{stage.seconds:>12,.2f} s, bound by {stage.bound}" for stage in cost.stages),
        f"  {'together':<10}{cost.seconds:>12,.2f} s, bound by {cost.bound}",
        f"rates of a rank: {rates.decode:,.0f} images/s decoded by a core, {forward},",
        f"  {rates.search / 1e9:,.0f} GFLOP/s searched, {rates.network / 1e9:,.2f} GB/s sent, {rates.cores:g} cores",
    ]
    return "\n".join(lines)
