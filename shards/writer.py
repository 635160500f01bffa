"""Builds a corpus on all cores: shards in worker processes, in any order, and the manifest when all are there.

A shard depends on the plan alone, so it does not matter which process writes it, when, or after how many kills. Several
machines write different shards of one output; whoever finds all of them finished publishes the corpus.
"""

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from largescale.commit import write_text
from largescale.cpu import own_cores
from largescale.locks import Lease
from largescale.program.progress import progress_bar
from largescale.settings import UserError

from .images import Encoding
from .plan import WORK, CorpusPlan, Sharding, settle
from .publish import publish, tidy, write_undecodable
from .shard import ShardJob, write_shard
from .sources import Source
from .sources.files import MissingImagesError
from .workers import advance, context, pool

Sidecars = Mapping[int, dict[str, Any] | None]
"""What `ShardJob.finished` says about some shards."""


@dataclass(frozen=True)
class BuildPart:
    """The shards that one of several processes writes: `index`, `index + count`, and so on."""

    index: int = 0
    count: int = 1

    def of(self, shards: int) -> range:
        return range(self.index, shards, self.count)


def build(
    source: Source,
    out: Path,
    encoding: Encoding | None = None,
    sharding: Sharding | None = None,
    *,
    part: BuildPart | None = None,
    workers: int | None = None,
    bad_budget: float = 0.01,
) -> bool:
    """Write this process's part of the corpus `out`; go on where a killed build stopped.

    Args:
        workers: processes; default all cores.
        bad_budget: share of undecodable images above which the build stops.

    Returns:
        whether the corpus is complete; False when shards of other parts are still missing.

    Raises:
        UserError: nothing or something else to build, too little disk, too many undecodable images, a dead worker.
    """
    encoding, sharding, part = encoding or Encoding(), sharding or Sharding(), part or BuildPart()
    plan = _settle(source, out, encoding, sharding)
    if plan is None:
        tidy(out)
        print(f"{out} is complete; nothing to do")
        return True
    lease = Lease(out / WORK / f"part-{part.index + 1}-of-{part.count}.lock")
    if holder := lease.acquire():
        raise UserError(f"{holder} is building this part of {out}; wait for it, or end it and repeat the command")
    if (out / "manifest.json").exists():  # another process has finished it since the plan was read
        tidy(out)
        return True
    job = ShardJob(source, out, encoding, plan.stem)
    own = {shard: job.finished(shard) for shard in part.of(plan.shards)}
    _remove_partial(job, own)
    _require_disk(job, plan)
    _write(job, plan, own, workers or own_cores(), bad_budget)
    return _publish_if_finished(job, plan, bad_budget)


def _settle(source: Source, out: Path, encoding: Encoding, sharding: Sharding) -> CorpusPlan | None:
    try:
        return settle(source, out, encoding, sharding)
    except MissingImagesError as error:
        write_text(out / "missing.txt", "\n".join(error.paths) + "\n")
        raise UserError(
            f"{error}\n{out / 'missing.txt'} lists all of them; restore them or take them out of the source"
        ) from None


def _write(job: ShardJob, plan: CorpusPlan, own: Sidecars, workers: int, bad_budget: float) -> None:
    """Write the shards of `own` that have no sidecar."""
    todo = [shard for shard, sidecar in own.items() if sidecar is None]
    bad = [entry for sidecar in own.values() if sidecar for entry in sidecar["bad"]]
    images, before = plan.images(own), plan.images(own) - plan.images(todo)
    written = context.Value("q", 0)
    with pool(min(workers, len(todo) or 1), written) as processes, progress_bar("shards", images, "image", before) as bar:
        pending = {processes.submit(_run, job, shard) for shard in todo}
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            bar.update(before + written.value - bar.n)
            for future in done:
                bad.extend(future.result())
            bar.set_postfix_str(f"{len(bad):,} undecodable" if bad else "", refresh=False)
            _require_budget(job, plan, bad, bad_budget)


def _run(job: ShardJob, shard: int) -> list[Any]:
    return write_shard(job, shard, advance)["bad"]


def _remove_partial(job: ShardJob, own: Sidecars) -> None:
    """Delete what killed workers left of the shards that are now written again."""
    for path in job.out.glob(".*.tar.*.partial"):
        if own.get(int(path.name.partition(".tar.")[0].rpartition("-")[2]), "of another part") is None:
            path.unlink(missing_ok=True)


def _require_disk(job: ShardJob, plan: CorpusPlan) -> None:
    images = plan.images(shard for shard in range(plan.shards) if not job.sidecar(shard).exists())
    needed, free = images * plan.image_bytes, shutil.disk_usage(job.out).free
    if needed > free:
        raise UserError(
            f"{images:,} images need about {needed / 1e9:.1f} GB below {job.out}, where {free / 1e9:.1f} GB are free; "
            "make room, choose another disk, or a smaller --max-side"
        )


def _require_budget(job: ShardJob, plan: CorpusPlan, bad: Sequence[Any], bad_budget: float) -> None:
    if len(bad) <= bad_budget * len(plan):
        return
    write_undecodable(job.out, plan, bad)
    shown = "".join(f"\n  {plan.rows['key'][row]}: {error}" for row, error in bad[:10]) + ("\n  …" if len(bad) > 10 else "")
    raise UserError(
        f"{len(bad):,} of {len(plan):,} images cannot be decoded, more than the budget of {bad_budget:.2%}:{shown}\n"
        f"{job.out / 'undecodable.txt'} lists them; repair or remove them, or allow more with --bad-budget and repeat the command"
    )


def _publish_if_finished(job: ShardJob, plan: CorpusPlan, bad_budget: float) -> bool:
    found = [job.finished(shard) for shard in range(plan.shards)]
    sidecars = [sidecar for sidecar in found if sidecar is not None]
    if len(sidecars) == plan.shards:
        _require_budget(job, plan, [entry for sidecar in sidecars for entry in sidecar["bad"]], bad_budget)
        publish(job, plan, sidecars)
    elif not (job.out / "manifest.json").exists():  # else another part has published and tidied up just now
        missing = plan.shards - len(sidecars)
        print(f"this part is done; {missing:,} of {plan.shards:,} shards are still to be written by other parts")
        return False
    return True
