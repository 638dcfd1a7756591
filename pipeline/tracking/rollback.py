"""Undoing a promotion: the aliases ``champion`` and ``previous`` of one user's registered model change places."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from pipeline.tracking.registry import Registry
from pipeline.tracking.tracker import Tracker
from stages.errors import InputError
from stages.registered import CHAMPION, PREVIOUS, RETRAIN, WITHDRAWN


@dataclass(frozen=True)
class Rollback:
    """What changed, or would: the version that is champion again and the one that was."""

    restored: str
    withdrawn: str


def rollback(tracker: Tracker, cohort: str, user: str, reason: str = "", *, dry_run: bool = False) -> Rollback:
    """Make the previous champion the champion again; both versions keep when and why as tags.

    Raises InputError where there is nothing to go back to, or where that learned from a person who was erased; TrackingError.
    """
    registry, adapter = Registry(tracker), f"{cohort}/{user}"
    name, aliases = registry.name_of(cohort, user), registry.aliases(cohort, user)
    if CHAMPION not in aliases:
        raise InputError(f"{adapter}: has no champion in {name}. `edgealign adapters promote {adapter}` makes one.")
    if PREVIOUS not in aliases:
        raise InputError(f"{adapter}: version {aliases[CHAMPION]} is the first champion; there is no previous one.")
    done = Rollback(restored=aliases[PREVIOUS], withdrawn=aliases[CHAMPION])
    if done.restored == done.withdrawn:
        raise InputError(f"{adapter}: version {done.restored} is champion and previous at once; nothing to go back to.")
    marked = registry.tags(name, done.restored).get(RETRAIN)
    if marked:
        raise InputError(
            f"{adapter}: the previous version {done.restored} learned from a person who was erased since ({marked}). "
            f"`dvc repro` trains one that did not; then `edgealign adapters promote {adapter}`."
        )
    if not dry_run:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        told = f": {reason}" if reason else ""
        # tags first: aliases without a reason would be a change that nobody explains
        registry.set_tags(name, done.withdrawn, {WITHDRAWN: f"{now}, for version {done.restored}{told}"})
        registry.set_tags(name, done.restored, {"restored": f"{now}, in place of version {done.withdrawn}{told}"})
        registry.drop_tag(name, done.restored, WITHDRAWN)
        registry.set_aliases(name, {CHAMPION: done.restored, PREVIOUS: done.withdrawn})
    return done
