"""From raw images to shards with a manifest: the driver.

The driver lists the source, plans the shards and writes the plan beside the output; Ray Data
spreads the plan over the cluster, each task making a few whole shards; the driver gathers the
records and writes the manifest last. Repeating a command that was killed redoes unfinished shards
only.

Memory: the driver holds the listing (about 150 bytes an image); a task holds one image decoded
and up to 64 images or 32 MB encoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from pyarrow.fs import FileType

from itpn_ray.data.holdout import hold_out
from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.merge import without_objects, write_results
from itpn_ray.data.prepare.plan import ShardPlan, plan_shards
from itpn_ray.data.prepare.reencode import ImageRules
from itpn_ray.data.prepare.shard_job import (
    Made,
    ShardJob,
    ShardPlace,
    ShardRecord,
    plan_key,
    remove_work,
)
from itpn_ray.data.prepare.tally import ProgressCallback, Tally
from itpn_ray.data.schema import WITH_OBJECTS
from itpn_ray.data.sources.base import Listing, Say, silent
from itpn_ray.data.sources.detect import open_source
from itpn_ray.data.sources.leftovers import LEFTOVER, counted, in_words, is_leftover
from itpn_ray.data.sources.walk import children
from itpn_ray.data.store.manifest import INDEX, MANIFEST, QUARANTINE, WORK, Manifest, read_manifest
from itpn_ray.errors import ConfigError, DataError, RunError
from itpn_ray.formatting import number_of
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.machines import require_seen, shared_folder
from itpn_ray.ray_runtime.start import start_ray
from itpn_ray.ray_runtime.tasks import run_on_ray
from itpn_ray.storage import ObjectStore, check_writable, filesystem, is_s3, join, open_store


def prepare(
    config: PrepareConfig,
    progress: ProgressCallback | None = None,
    *,
    ray: RayConfig | None = None,
    say: Say = silent,
) -> Manifest:
    """Prepare raw images for training; at once where it has been done already.

    Args:
        config: what, whereto and how.
        progress: called for each shard, when its worker has written the next one.
        ray: the Ray to run on, unless this process is connected to one.
        say: takes what is said before the work begins: what was guessed, which files and folders
            became which split, and how much is left out that programs leave behind.

    Returns:
        The manifest, which is also at ``config.out``.

    Raises:
        ConfigError: the output cannot be written or holds something else.
        DataError: the source cannot be used, or too many images or objects cannot.
        RunError: Ray has lost what became of a shard.
    """
    form, source = open_source(config, say)
    store = open_store(config.out)
    _check_places(config, store)
    listing = hold_out(source, source.listing(), config.holdout, config.seed)
    _tell(form, listing, say)
    # Leftovers of programs are told above and are not counted as left out.
    listing = replace(listing, skipped=counted(listing.skipped))
    with TemporaryDirectory(prefix="itpn_ray-") as scratch:
        plans = list(plan_shards(listing, config, Path(scratch)))
        _check_objects(listing, plans, config)
        # The plans' digests in order stand for all rows and settings of the whole data set.
        digest = hashlib.sha256("".join(plan.digest for plan in plans).encode()).hexdigest()
        # Only now is the digest known that tells whether it is the same preparation.
        if store.exists(MANIFEST):
            manifest = _finished(config, digest)
            # A process that was killed after the manifest has left its work.
            remove_work(store)
            return manifest
        check_writable(config.out)
        job = ShardJob(
            source=source,
            out=store.uri,  # absolute, for workers in other folders
            kind=listing.kind,
            masks=listing.masks,
            tiling=(config.tile, config.tile_gap),
            rules=ImageRules(
                max_side=config.max_side, quality=config.quality, max_pixels=config.max_pixels
            ),
        )
        # One file stands for the source when other machines are asked whether they see it.
        file = next(iter(listing.splits.values())).column("file")[0].as_py()
        records = _make_shards(job, file, plans, config, progress, ray)
    problems = [problem for plan in plans for problem in plan.problems]
    manifest = write_results(store, listing, records, problems, config, digest)
    _remove_strays(store, manifest)
    remove_work(store)
    return manifest


def _tell(form: str, listing: Listing, say: Say) -> None:
    """Say how the source was understood."""
    say(f"read as {form}, {listing.kind}")
    for note in listing.notes:
        say(note)
    for split, table in listing.splits.items():
        say(f"{split}: {number_of(table.num_rows, 'image')} from {listing.origins[split]}")
    leftovers = [path for path, reason in listing.skipped if reason == LEFTOVER]
    if leftovers:
        say(in_words(leftovers))


def _check_objects(listing: Listing, plans: Sequence[ShardPlan], config: PrepareConfig) -> None:
    """Refuse, before an image is decoded, a split of detection without one usable object."""
    for split in listing.splits if listing.kind in WITH_OBJECTS else ():
        ours = [plan for plan in plans if plan.split == split]
        if not any(plan.objects for plan in ours):
            problems = [problem for plan in plans for problem in plan.problems]
            raise without_objects(config.source, split, problems)


def _make_shards(
    job: ShardJob,
    file: str,
    plans: Sequence[ShardPlan],
    config: PrepareConfig,
    progress: ProgressCallback | None,
    ray: RayConfig | None,
) -> dict[tuple[str, int], ShardRecord]:
    """Records of all shards, making those that are not there yet."""
    store = open_store(job.out)
    tally = Tally(config, plans, progress)
    waiting: list[ShardPlace] = []
    for plan in plans:
        place = plan.split, plan.index, plan.digest
        record = job.record_of(store, place)
        if record is not None:
            tally.add(plan.split, plan.index, record)
        else:
            # A worker may be on another machine: it reads its plan from the output's own store.
            store.put_file(plan.path, plan_key(plan.split, plan.index), move=True)
            waiting.append(place)
    workers = config.num_workers
    # Both are generators: nothing is made before the loop below asks.
    making = job.make(waiting) if workers == 0 else _make_on_ray(job, file, waiting, workers, ray)
    try:
        with closing(making) as made:
            for split, index, record in made:
                tally.add(split, index, record)
    except OSError as error:
        raise DataError(
            "prepare.out",
            job.out,
            f"stopped: {error}",
            "Fix this and repeat the command; finished shards are kept",
        ) from error
    unreported = len(plans) - len(tally.records)
    if unreported:
        raise RunError(
            "prepare.out",
            job.out,
            f"Ray has not reported what became of {number_of(unreported, 'shard')}",
            "Repeat the command; finished shards are kept",
        )
    return tally.records


def _make_on_ray(
    job: ShardJob,
    file: str,
    places: Sequence[ShardPlace],
    workers: int | None,
    config: RayConfig | None,
) -> Generator[Made, None, None]:
    """Make shards in Ray Data tasks, in whatever order they finish.

    Raises:
        ConfigError: another machine does not see the output, or ``file``, which is of the source.
    """
    if not places:
        return
    with (
        start_ray(config),
        shared_folder("prepare.out", job.out, job.out, "Give --out s3://BUCKET/PREFIX"),
    ):
        import ray

        if not is_s3(job.source.uri):
            require_seen("prepare.source", job.source.uri, file, "Copy it to s3://BUCKET/PREFIX")

        cpus = int(ray.cluster_resources().get("CPU", 0))  # none yet where workers start on demand
        ends = [0, *accumulate(task_sizes(len(places), workers or max(cpus, 1)))]
        tasks = [places[start:stop] for start, stop in pairwise(ends)]
        yield from run_on_ray(lambda: job.make, tasks, workers=workers)


_MOST_OF_A_TASK = 8


def task_sizes(shards: int, workers: int) -> Iterator[int]:
    """How many shards each task makes: several, as a new one waits 0.1 s for Ray Data; one at last.

    Guided self-scheduling: each takes half of a worker's share of what is left, so that all end at
    about the same time. At most eight, for workers that join later.
    """
    while shards:
        # Half of a share: large tasks first, small ones to even out the end.
        size = min(max(shards // (2 * workers), 1), _MOST_OF_A_TASK)
        shards -= size
        yield size


def _check_places(config: PrepareConfig, store: ObjectStore) -> None:
    """Refuse an output inside the source, or a folder that holds something else.

    Raises:
        ConfigError: as said.
    """
    # A slash behind both: /data/images2 does not lie in /data/images.
    source = join(open_store(config.source).uri, "")
    out = join(store.uri, "")
    if out.startswith(source):
        raise ConfigError(
            "prepare.out", config.out, "lies in the source", "Give a folder outside of it"
        )
    fs, path = filesystem(config.out)
    if store.exists(MANIFEST) or fs.get_file_info(path).type != FileType.Directory:
        return
    names = [entry.name for entry in children(fs, path)]
    strangers = [name for name in names if name not in _OURS and not is_leftover(name)]
    if strangers:
        raise ConfigError(
            "prepare.out",
            config.out,
            f"holds something else already ({strangers[0]})",
            "Give a new folder",
        )


_OURS = (WORK, QUARANTINE, "train", "val", "test")


def _remove_strays(store: ObjectStore, manifest: Manifest) -> None:
    """Remove shards of an earlier plan that was never finished."""
    for split in ("train", "val", "test"):
        info = manifest.splits.get(split)
        # The index is written anew beside the shards of each split that there is.
        files = [INDEX, *(shard.file for shard in info.shards)] if info else []
        keep = {f"{split}/{file}" for file in files}
        for key in store.list(f"{split}/"):
            if key not in keep:
                store.delete(key)


def _finished(config: PrepareConfig, plan_digest: str) -> Manifest:
    manifest = read_manifest(config.out)
    if manifest.plan != plan_digest:
        raise ConfigError(
            "prepare.out",
            config.out,
            "holds another preparation: other images or other settings",
            "Give a new folder or remove this one",
        )
    return manifest
