"""Makes compressed versions of a model one after the other, and measures each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from partwise.cli.progress import Progress
from partwise.compress.accuracy import Accuracy, Outputs, compare
from partwise.compress.compressor import Made, check_recipe, compress
from partwise.compress.recipe import Recipe
from partwise.compress.text import Texts
from partwise.model import Model
from partwise.part.torch.outputs import run_to_head
from partwise.part.torch.walk import TorchWalk
from partwise.store import Store, open_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One version, what it takes and what it costs. ``compress_s`` includes calibration."""

    recipe: Recipe
    made: Made
    accuracy: Accuracy
    source_bytes: int
    compress_s: float
    evaluate_s: float

    @property
    def recipe_label(self) -> str:
        """All that was done to the model's own files."""
        assert self.made.manifest.derivation
        return self.made.manifest.derivation.recipe

    @property
    def bytes_ratio(self) -> float:
        """Over the source's."""
        return self.made.num_bytes / self.source_bytes


class Steps:
    """Compresses version ``version`` of the model in ``path``."""

    def __init__(self, path: Path, version: int, texts: Texts, progress: Progress) -> None:
        self.model: Model = open_version(path, version)
        with Store.open(path, version) as store:
            self.config = store.config
        self._path = path
        self._version = version
        self._texts = texts
        self._progress = progress
        self._source: Outputs | None = None

    def run(self, recipes: Sequence[Recipe]) -> Iterator[Step]:
        """Take the steps in turn; a version exists before it is measured.

        Raises:
            CompressionError: a block does not divide; then nothing was made.
            StoreError: a version cannot be written; those before it are there.
        """
        for recipe in recipes:
            check_recipe(self.model, recipe)
        for recipe in recipes:
            yield self._take(recipe)

    def run_into(self, taken: list[Step], recipes: Sequence[Recipe]) -> BaseException | None:
        """As `run`, but add each step to ``taken`` when it is finished, and give what ended them
        early (an error or an interrupt), to be raised when they are reported: their versions are
        there, and took long."""
        try:
            for step in self.run(recipes):
                taken.append(step)  # noqa: PERF402 - one by one: those before an error stay
        except (Exception, KeyboardInterrupt) as exc:  # noqa: BLE001
            return exc
        return None

    def _take(self, recipe: Recipe) -> Step:
        start_s = time.perf_counter()
        with Store.open(self._path, self._version) as source:
            walk = None
            if recipe.needs_calibration:
                walk = TorchWalk(self.model, source.config, self._texts.calibration)
            made = compress(self._path, self.model, source, recipe, walk, self._progress.report)
            names = {p.stored_name for p in self.model.parameters}
            source_bytes = sum(source.num_bytes(name) for name in names)
        made_s = time.perf_counter()
        source_outputs = self.measure_source()
        measured_s = time.perf_counter()
        outputs = self._measure(made.manifest.version, f"measuring {recipe.step}")
        accuracy = compare(source_outputs, outputs, self._texts.evaluation)
        return Step(
            recipe=recipe,
            made=made,
            accuracy=accuracy,
            source_bytes=source_bytes,
            compress_s=made_s - start_s,
            evaluate_s=time.perf_counter() - measured_s,
        )

    def measure_source(self) -> Outputs:
        """What the source gives for the evaluation windows; measured once."""
        if self._source is None:
            self._source = self._measure(self._version, "measuring the source")
        return self._source

    def _measure(self, version: int, step: str) -> Outputs:
        return run_to_head(
            self._path,
            version,
            self._texts.evaluation,
            lambda done, total: self._progress.report(step, done, total),
        )
