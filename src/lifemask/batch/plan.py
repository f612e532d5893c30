"""What a run has still to do, from what the journal says and what lies on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lifemask.batch.job import JOURNAL, PARTS, BatchJob
from lifemask.batch.journal import Journal, Ledger, Outcome, read_journal, read_ledger
from lifemask.batch.layouts import is_there, shard_file
from lifemask.batch.sources import Item


@dataclass
class ShardPlan:
    """A shard to be written.

    Attributes:
        number: of the shard.
        items: its photos, in order.
        waiting: keys of those that have no outcome yet.
    """

    number: int
    items: list[Item]
    waiting: set[str]


@dataclass
class Plan:
    """What is to do.

    Attributes:
        todo: photos to reconstruct, in order.
        shards: to write, by the keys of their photos; none with the layout "folders".
        found_done: photos of the sources that have heads already.
        found_failed: photos of the sources that failed before and are not tried again.
        staged: keys of heads that wait for their shard.
    """

    todo: list[Item] = field(default_factory=list)
    shards: list[ShardPlan] = field(default_factory=list)
    found_done: int = 0
    found_failed: int = 0
    staged: set[str] = field(default_factory=set)


def recorded(job: BatchJob) -> Ledger:
    """The sum of the journals of a folder; changes nothing."""
    return read_ledger(job.part(JOURNAL), *sorted(job.part(PARTS).glob("*.jsonl")))


def absorb_parts(job: BatchJob, journal: Journal) -> None:
    """Take what actors wrote in journals of their own into the one of the run."""
    parts = sorted(job.part(PARTS).glob("*.jsonl"))
    if parts:
        known = read_ledger(job.part(JOURNAL))
        for path in parts:
            journal.add(*(e for e in read_journal(path) if _is_news(e, known)), sync=True)
            path.unlink()
    if job.part(PARTS).is_dir():
        job.part(PARTS).rmdir()


def make_plan(job: BatchJob, items: list[Item], ledger: Ledger, retry_failed: bool = False) -> Plan:
    """What is to do for some photos.

    Heads that the journal knows and that are gone from the disk are made again. Shards that are
    complete stay as they are; the other photos fill shards of the numbers left, in their order, so
    that a run that was interrupted writes the shards of one that was not.

    Args:
        job: the run.
        items: its photos.
        ledger: what the journals say.
        retry_failed: try photos again that failed before.
    """
    if job.layout == "shards":
        return _plan_shards(job, items, ledger, retry_failed)
    plan = Plan()
    for item in items:
        _place(job, item, ledger, retry_failed, plan)
    return plan


def _plan_shards(job: BatchJob, items: list[Item], ledger: Ledger, retry_failed: bool) -> Plan:
    plan, packed, given_up, covered = Plan(), set[str](), set[str](), set[int]()
    for number, sealed in ledger.sealed.items():
        if not sealed.file or shard_file(job, number).is_file():
            packed.update(sealed.keys)
            given_up.update(sealed.failed)
            covered.add(number)
    given_up.intersection_update(() if retry_failed else ledger.failed)
    plan.staged = {key for key in ledger.done if key not in packed and is_there(job, key)}
    rest: list[Item] = []
    for item in items:
        if item.key in packed:
            plan.found_done += 1
        elif item.key in given_up:
            plan.found_failed += 1
        else:
            rest.append(item)
    free = _free_numbers(covered)
    for start in range(0, len(rest), job.shard_size):
        chosen = rest[start : start + job.shard_size]
        waiting = {i.key for i in chosen if _place(job, i, ledger, retry_failed, plan)}
        plan.shards.append(ShardPlan(next(free), chosen, waiting))
    return plan


def _place(job: BatchJob, item: Item, ledger: Ledger, retry_failed: bool, plan: Plan) -> bool:
    """Count a photo as done, failed or to do; returns whether it is to do."""
    if item.key in ledger.done and is_there(job, item.key):
        plan.found_done += 1
        return False
    if item.key in ledger.failed and not retry_failed:
        plan.found_failed += 1
        return False
    plan.todo.append(item)
    return True


def _free_numbers(taken: set[int]) -> Iterator[int]:
    number = 0
    while True:
        if number not in taken:
            yield number
        number += 1


def _is_news(entry: object, known: Ledger) -> bool:
    if not isinstance(entry, Outcome):
        return True
    return entry.key not in known.done and known.failed.get(entry.key) != entry
