"""Settings of mining: the pool, how it is embedded and searched, how many negatives a query gets."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from largescale.names import Location
from largescale.settings import Settings


class MiningConfig(Settings):
    """Hard negatives for the queries of an epoch, or for losses over labels, which labels are alike."""

    negatives: PositiveInt = 5
    """Negatives of each query (N): the nearest images of N different clusters, never the query's or the positive's. Of labels:
    K images of each ask, and the N labels that each finds are near to theirs."""
    order: Literal["nearest", "farthest"] = "nearest"
    """nearest: the most similar images (hard negatives); farthest: the least similar, by the other reading of LRML."""
    semi_hard: bool = False
    """Only negatives that are less similar to the query than its positive is; positives are embedded too."""
    similarity_cap: float | None = None
    """Images whose similarity to the query reaches this are no negatives: they may show what the query shows. null: none."""
    duplicate: float | None = None
    """A cluster with an image that is as similar to the query or more, a near-duplicate, gives no negatives. null: off."""
    stored: NonNegativeInt = 0
    """Descriptors of a generation that each query is compared with as further negatives, without reading their images: first
    those of mined negatives, then of others of the pool; new with each generation. They are constants in the loss."""
    pool: PositiveInt | None = None
    """Images among which negatives are searched, drawn anew each epoch; null: all images of the corpus."""
    batch_size: PositiveInt = 32
    """Images of one shape that are decoded together, and on a GPU embedded together; fewer where a shard has fewer."""
    index: str = "auto"
    """exact: the best image of every cluster, by brute force; else a FAISS factory string, e.g. IVF1024,SQfp16 (Flat is exact
    too), on the GPU where FAISS has one that holds it. auto: exact where it fits exact_bytes, on a GPU by torch or FAISS,
    whichever is faster; else lists of codes (IVF with SQ8, or PQ where these do not fit)."""
    index_scratch: PositiveInt = 2**30
    """Memory that FAISS keeps on each GPU for its own use."""
    exact_bytes: PositiveInt = 2**34
    """auto: memory for descriptors in each process up to which search is exact; beyond it they stay in the memory of the node."""
    index_search: str = ""
    """FAISS parameters of the search in an approximate index, e.g. nprobe=64."""
    min_recall: float = Field(default=0.95, ge=0, le=1)
    """Share of the true negatives that an approximate index shall find, measured on 256 queries of each generation; below it
    the index is trained again, then searched up to 16 times deeper, and a warning says where that is not enough."""
    index_sample: PositiveInt = 100_000
    """Descriptors of the whole pool on which a FAISS index is trained."""
    depth: PositiveInt = 256
    """Neighbors that a FAISS index returns at first; queries left short of clusters search 4 times deeper, again and again."""
    block_bytes: int | None = Field(default=None, ge=2**20)
    """Memory of one block of similarities in each process, null: 32 MiB on a CPU, 512 MiB on a GPU; about three times as much
    is in use at once. The negatives do not depend on it."""

    home: Literal["inline", "service"] = "inline"
    """inline: the training processes mine at each epoch's boundary; service: the program `mine` does so beside them."""
    wait: Literal["never", "always"] | NonNegativeFloat = "never"
    """How long training waits at a boundary for the service: never, so many seconds, or always, which gives the negatives of the
    inline miner. Without a generation of its epoch it goes on with an earlier one, and with random clusters for the rest."""

    exchange: Location | None = None
    """A folder in object storage (s3://..., gs://...) through which training and the service pass weights and generations where
    they share no file system; the service is started with it in place of the run directory. null: the run directory."""

    @model_validator(mode="after")
    def _exchange_with_a_service(self) -> "MiningConfig":
        if self.exchange is not None and (self.home != "service" or "://" not in self.exchange):
            raise ValueError(f"exchange={self.exchange} is a URL through which home=service passes generations, home={self.home}")
        return self

    @model_validator(mode="after")
    def _wait_for_the_service(self) -> "MiningConfig":
        if self.home == "inline" and "wait" in self.model_fields_set and self.wait != "never":
            raise ValueError(f"wait={self.wait} is read with home=service only; inline mining is over before its epoch begins")
        return self

    @model_validator(mode="after")
    def _limits_of_the_nearest(self) -> "MiningConfig":
        values = {"semi_hard": self.semi_hard or None, "similarity_cap": self.similarity_cap, "duplicate": self.duplicate}
        limits = [name for name, value in values.items() if value is not None]
        if self.order == "farthest" and limits:
            raise ValueError(
                f"order=farthest takes the least similar images, so {' and '.join(limits)} would do nothing: drop one"
            )
        return self

    @model_validator(mode="after")
    def _parameters_of_an_index(self) -> "MiningConfig":
        if self.index in ("auto", "exact") and self.index_search:
            raise ValueError(f"index_search={self.index_search!r} is read by a FAISS index only, not with index={self.index}")
        return self


class ServiceConfig(Settings):
    """The mining service."""

    timeout: float = Field(default=600, gt=0)
    """Seconds that a rank may keep the others waiting; then they end with an error, which torchrun --max-restarts answers."""
    folder: Path | None = None
    """Where the run directory is a URL: a folder that all processes of the service share, in which they work; null: one for
    temporary files, for processes on one machine."""


class PlanConfig(Settings):
    """What a generation would cost. Rates that are not given are measured on the processes that run this program."""

    pool: PositiveInt = 1_000_000
    """Images to embed and search among."""
    queries: PositiveInt = 2000
    """Of an epoch."""
    dim: PositiveInt = 2048
    """Dimensions of a descriptor."""
    ranks: PositiveInt = 1
    """Processes that mine."""
    negatives: PositiveInt = 5
    """Of each query."""
    descriptor_bytes: PositiveInt = 4
    """Of one number: 4 on processors, 2 on GPUs."""
    corpus: Location | None = None
    """Images that are decoded to measure; null: the corpus under data/, or pictures of noise."""
    backbone: str = "resnet101"
    """Network that embeds them."""
    size: PositiveInt = 362
    """Longest side of an image in pixels."""
    sample: PositiveInt = 64
    """Images to measure with."""
    decode: float | None = Field(default=None, gt=0)
    """Images that a processor core decodes in a second."""
    forward: float | None = Field(default=None, gt=0)
    """Images that the network embeds in a second, on a processor core or on a GPU."""
    search: float | None = Field(default=None, gt=0)
    """FLOP/s of the search, on a processor core or on a GPU."""
    network: float | None = Field(default=None, gt=0)
    """Bytes that a rank sends in a second."""
    cores: float | None = Field(default=None, gt=0)
    """Processor cores of a rank."""
    gpu: bool | None = None
    """Whether the given rates are those of a GPU; null: as on this machine."""
