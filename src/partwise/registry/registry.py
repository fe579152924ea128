"""Directories by plan_version: of the plan in force, and of the next."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from partwise.errors import PlanError
from partwise.registry.directory import Directory


@dataclass(frozen=True, slots=True)
class Registry:
    """Directories of ascending plan_versions, one at least: the first is of the oldest plan under
    which anything still runs. A value: a new version makes a new registry.

    Raises:
        PlanError: a version that does not follow the one before it.
    """

    directories: tuple[Directory, ...]

    def __post_init__(self) -> None:
        assert self.directories, "a registry holds a version"
        for before, after in pairwise(self.versions):
            if after <= before:
                raise PlanError(
                    f"plan_version {after} does not follow {before}, which is held: number the"
                    f" plan {before + 1} or higher"
                )

    @property
    def versions(self) -> tuple[int, ...]:
        return tuple(directory.plan_version for directory in self.directories)

    def at(self, plan_version: int) -> Directory:
        """The directory of that version.

        Raises:
            PlanError: it is stale or not known, with those that are held.
        """
        for directory in self.directories:
            if directory.plan_version == plan_version:
                return directory
        held = ", ".join(map(str, self.versions))
        what = "is stale" if plan_version < self.versions[0] else "is not known here"
        raise PlanError(f"plan_version {plan_version} {what}: the registry holds {held}")

    def add(self, directory: Directory) -> Registry:
        """With that of the next version, too.

        Raises:
            PlanError: it does not follow the last one that is held.
        """
        return Registry((*self.directories, directory))

    def drop(self, plan_version: int) -> Registry:
        """Without the directory of that version, which another one follows or precedes.

        Raises:
            PlanError: it is not held, or is the only one.
        """
        dropped = self.at(plan_version)
        if len(self.directories) == 1:
            raise PlanError(f"plan_version {plan_version} is the only one that the registry holds")
        return Registry(tuple(one for one in self.directories if one is not dropped))
