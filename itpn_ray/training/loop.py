"""THE training loop: one for every task.

A step's images, masks, mixes and rates are functions of (seed, step), never of the number of
workers, so that a run can stop at any step and go on with more or fewer of them.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from itpn_ray.data.transforms.on_device import prefetch
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.runs.journal import PLOTS, Journal
from itpn_ray.tasks.base import AnyTask
from itpn_ray.tasks.batches import Batch, TrainBatches
from itpn_ray.training.best import Best
from itpn_ray.training.buffers import Buffers
from itpn_ray.training.checkpoint.run_state import full_state, restore
from itpn_ray.training.checkpoint.writer import CheckpointStore
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.meters import Meter
from itpn_ray.training.mfu import peak_rate
from itpn_ray.training.optimizer import make_optimizer, set_learning_rate
from itpn_ray.training.replay import stop_with_replay
from itpn_ray.training.schedule import learning_rate, total_steps
from itpn_ray.training.sharding import gather_full


class Leave(IntEnum):
    """Whether the workers save and leave after this step; of several answers the highest counts."""

    NO = 0
    ASKED = 1
    PREEMPTED = 2


@dataclass(kw_only=True)
class TrainingParts:
    """What a run works with.

    Attributes:
        config: the experiment.
        task: what is trained.
        worker: this process.
        journal: where records go.
        store: where checkpoints go.
        train: images to train on.
        val: held-out images.
        preempted: whether this machine is about to be taken away.
        evaluated: called by every rank with the figures of each evaluation.
        best: the best evaluation so far.
    """

    config: ExperimentConfig
    task: AnyTask
    worker: TrainContext
    journal: Journal
    store: CheckpointStore
    train: TrainBatches
    val: Iterable[Batch]
    preempted: Callable[[], bool]
    evaluated: Callable[[dict[str, float]], None]
    best: Best


def train(parts: TrainingParts) -> nn.Module:
    """Train to the last epoch, from the newest good checkpoint where there is one.

    Where the driver asks the workers to stop, they save and return after the step at hand.

    Returns:
        The trained network, unwrapped, on this worker's device.

    Raises:
        RunError: too many steps in a row were not finite; names the replay file.
        SystemExit: the machine is being taken away; the state has been saved.
    """
    config, worker = parts.config, parts.worker
    task = parts.task
    network = task.build()
    task.check_elastic(network)
    network = network.to(worker.device).train()
    full = peak_rate(task, network, worker.device)
    # Before the optimiser: sharding puts other parameters in the place of these.
    compile = task.compile if config.model.compile else None
    elastic = bool(config.model.elastic_migration)
    model = worker.wrap_model(network, sharded=config.sharded, compile=compile, elastic=elastic)
    optimizer = make_optimizer(
        network, task.layer_ids(network), task.no_weight_decay(network), config.optim
    )
    step = restore(parts.store, network, optimizer, worker, parts.journal, parts.best)
    per_epoch = parts.train.steps_per_epoch
    last = total_steps(config.optim, per_epoch)
    buffers = Buffers(network)
    # A run that is resumed may have stopped early before.
    if _stops_early(parts, step, last):
        last = step
    meter = Meter(worker, parts.journal, steps=last, peak_rate=full)
    skipped, saved = 0, step
    if step >= last and config.eval_every >= 0:
        # Stopped between the last save and the end: whoever waits for the figures still needs them.
        _evaluate(parts, network, step, step / per_epoch)
    # One stream for the whole run, so that no epoch begins with an empty queue.
    with closing(prefetch(parts.train.batches(step, last), worker.device)) as batches:
        while step < last:
            epoch = step // per_epoch
            meter.tell(step, step / per_epoch)
            with meter.time("reading"):
                batch = next(batches)
            rate = learning_rate(config.optim, step, per_epoch)
            set_learning_rate(optimizer, rate)
            with meter.time("computing"):
                batch = parts.task.prepare(batch, epoch)
                # The forward pass moves batch statistics; a
                # step that is refused must leave none behind.
                buffers.keep()
                parts.task.before_step(network, step)
                loss = _gradients(model, network, batch, parts, meter)
                norm, finite, leaving = _agree(network, loss, buffers, parts)
            if finite:
                with meter.time("updating"):
                    optimizer.step()
                    parts.task.after_step(network, step)
                skipped = 0
            else:
                buffers.restore()
                skipped += 1
                parts.journal.event("skip", step=step, rank=worker.rank, in_a_row=skipped)
                if skipped >= config.optim.max_skipped_steps:
                    stop_with_replay(
                        config,
                        network,
                        batch,
                        parts.journal,
                        task=task,
                        step=step,
                        rank=worker.rank,
                    )
            # Also after a skipped step, whose gradients must not be added to those of the next.
            optimizer.zero_grad(set_to_none=True)
            step += 1
            meter.step(config.optim.global_batch, parts.task.work_share(batch))
            if step % config.log_every == 0 or step == last:
                meter.record(step, step / per_epoch, rate=rate, grad_norm=norm)
            best = False
            if _evaluates(config, step, per_epoch, last):
                with meter.time("evaluating"):
                    # now: an evaluation may take minutes, in which no other status is written.
                    meter.tell(step, step / per_epoch, now=True)
                    best = _evaluate(parts, network, step, step / per_epoch)
                best = best and config.checkpoint.keep_best
                if _stops_early(parts, step, last):
                    last = step
            due = step == last or step - saved >= config.checkpoint.every_steps
            if leaving or best or due:
                with meter.time("saving"):
                    meter.tell(step, step / per_epoch, now=True)
                    hurry = leaving == Leave.PREEMPTED
                    # On every rank, for sharded tensors are gathered in it.
                    _save(parts, network, optimizer, step, step / per_epoch, best, hurry=hurry)
                saved = step
            if leaving and step < last:
                # The save in flight is to be committed before the process goes.
                parts.store.wait()
                if leaving == Leave.ASKED:
                    return network
                parts.journal.event("preempted", step=step, rank=worker.rank)
                # No ItpnError, which would end the run: the
                # worker is to be started again elsewhere.
                raise SystemExit(f"machine is being taken away; saved at step {step}")
    parts.store.wait()
    return network


def _gradients(
    model: nn.Module,
    network: nn.Module,
    batch: Batch,
    parts: TrainingParts,
    meter: Meter,
) -> Tensor:
    """Accumulate gradients over the micro-batches of this worker's share; its part of the loss.

    They are averaged over workers, so a micro-batch of m of the G images counts m · world / G.
    """
    optim, worker = parts.config.optim, parts.worker
    share = len(batch["sample_id"])
    count = micro_batches(optim, worker.world)
    # A pair may be cut in two here, for images have been mixed before.
    ends = [number * share // count for number in range(count + 1)]
    # All are cut before the first is computed, for a task may wait for the device to tell sizes.
    micros = [parts.task.cut(batch, *bounds) for bounds in itertools.pairwise(ends)]
    loss = torch.zeros((), device=worker.device)
    for number, micro in enumerate(micros, 1):
        part = len(micro["sample_id"]) / optim.global_batch
        # Sent with the last micro-batch only: once a step is enough.
        worker.average_gradients(model, network, number == count)
        with worker.autocast():
            terms = model(micro)
        # DDP and FSDP average over the workers; the factor makes it the mean over all images.
        (terms["loss"] * (part * worker.world)).backward()
        loss += terms["loss"].detach() * part
        meter.add(terms, part)
    return loss


def micro_batches(optim: OptimConfig, world: int) -> int:
    """Parts that each worker's share is cut into, as even as they can be.

    As many on all workers, though shares may differ by a pair: networks may sum over the workers
    in each part.
    """
    # Workers get whole pairs of images.
    largest = 2 * math.ceil(optim.global_batch // 2 / world)
    return math.ceil(largest / (optim.micro_batch or largest))


def _agree(
    network: nn.Module, loss: Tensor, buffers: Buffers, parts: TrainingParts
) -> tuple[float, bool, Leave]:
    """Gradient norm, whether the step is finite on every rank, whether all are to leave."""
    worker, clip = parts.worker, parts.config.optim.clip_norm
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    # Of a sharded network the norm is in parts, which are added up here.
    norm = gather_full(torch.nn.utils.get_total_norm(grads))
    finite = torch.isfinite(norm) & torch.isfinite(loss) & buffers.finite()
    # In one tensor, for one collective; the largest, since one rank's bad step is everyone's.
    flags = torch.stack([~finite, torch.full_like(finite, _leave(parts), dtype=torch.int32)])
    flags = worker.reduce(flags, dist.ReduceOp.MAX)
    # The only time in a step that the host waits for the device, so all that it asks goes at once.
    told, bad, leaving = torch.cat([norm.double().view(1), flags.double()]).tolist()
    if clip and not bad:
        torch.nn.utils.clip_grads_with_norm_(network.parameters(), clip, norm)
    return told, not bad, Leave(int(leaving))


def _leave(parts: TrainingParts) -> Leave:
    """What this rank knows: each of its machine, the first one what the driver asks."""
    if parts.preempted():
        return Leave.PREEMPTED
    asked = parts.worker.is_main and parts.journal.stop_asked()
    return Leave.ASKED if asked else Leave.NO


def _evaluates(config: ExperimentConfig, step: int, per_epoch: int, last: int) -> bool:
    if config.eval_every < 0:
        return False
    if step == last:
        return True
    epoch, inside = divmod(step, per_epoch)
    return bool(config.eval_every) and inside == 0 and epoch % config.eval_every == 0


def _stops_early(parts: TrainingParts, step: int, last: int) -> bool:
    """Whether the run ends here, for its evaluations get no better."""
    patience, best = parts.config.early_stopping, parts.best
    if not patience or best.since < patience or step == last:
        return False
    if parts.worker.is_main:
        told = f"{best.headline.name} was best at step {best.step}: {best.value:.4g}"
        parts.journal.event("early_stop", step=step, message=told)
    return True


def _evaluate(parts: TrainingParts, network: nn.Module, step: int, epoch: float) -> bool:
    """Evaluate on all workers; rank 0 writes figures and images.

    With ``keep_best``, results and images are those of the best evaluation.

    Returns:
        Whether it is the best so far.
    """
    trained, network = network, _gathered(parts, network).eval()
    # Read anew for each r: all see the same images.
    batches = partial(prefetch, parts.val, parts.worker.device)
    with torch.no_grad(), parts.worker.autocast(), _eager(parts.config):
        found = parts.task.evaluate_ratios(network, batches, parts.worker.reduce)
        figures = {k: v for evaluation in found for k, v in evaluation.metrics.items()}
        best = _is_best(parts, figures, step)
        if parts.worker.is_main:
            for evaluation in found:
                parts.journal.metrics(evaluation.split, step, epoch, evaluation.metrics)
        # With keep_best these are to be the figures of the weights that are exported.
        if parts.worker.is_main and (best or not parts.config.checkpoint.keep_best):
            for evaluation in found:
                parts.journal.result(**evaluation.metrics, **evaluation.details, step=step)
            # Drawn here and sent as bytes, for the journal may be on another machine.
            with tempfile.TemporaryDirectory() as folder:
                for path in parts.task.draw(network, Path(folder)):
                    parts.journal.file(f"{PLOTS}/{path.name}", path.read_bytes())
    trained.train()
    # On every rank, for Ray Train's report waits for all of them.
    parts.evaluated({**figures, "step": step, "epoch": epoch})
    return best


def _eager(config: ExperimentConfig) -> AbstractContextManager[object]:
    """Nothing is compiled meanwhile: evaluations have sizes and a mode of their own."""
    # Not unless it is needed, for the compiler takes seconds to import.
    return torch.compiler.set_stance("force_eager") if config.model.compile else nullcontext()


def _is_best(parts: TrainingParts, figures: dict[str, float], step: int) -> bool:
    """Whether an evaluation is the best so far; all ranks go by the first one's figures."""
    worker = parts.worker
    # The other ranks add 0, so that the sum is the first one's value.
    told = figures.get(parts.task.headline.name, math.nan) if worker.is_main else 0.0
    value = worker.reduce(torch.tensor([told], dtype=torch.float64)).item()
    return parts.best.take(value, step)


def _gathered(parts: TrainingParts, network: nn.Module) -> nn.Module:
    """The network itself, or where it is sharded a whole copy.

    Held-out images do not divide evenly: sharded, a worker with one batch less would leave the
    others waiting for its share of the weights. A copy to evaluate takes a quarter of the training
    state.
    """
    if not isinstance(network, FSDPModule):
        return network
    copy = parts.task.build().to(parts.worker.device)
    copy.load_state_dict(gather_full(network.state_dict()))
    return copy


def _save(
    parts: TrainingParts,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    epoch: float,
    best: bool,
    *,
    hurry: bool,
) -> None:
    """Start saving the whole state on rank 0; training goes on once it is copied."""
    begin = time.perf_counter()
    state = full_state(network, optimizer, step, parts.config, parts.best)
    if not parts.worker.is_main:
        return
    # Reading back takes time that a machine about to go has not; a resume verifies in any case.
    parts.store.save(step, state, epoch=epoch, verify=not hurry, best=best)
    parts.journal.event("checkpoint", step=step, seconds=round(time.perf_counter() - begin, 3))
