"""Searches the detector's settings with Optuna: a wide stage, a narrow one around its best, a final run.

Run:
    python -m training.search_hparams --config training/configs/detector_search.yaml --out var/runs/search

Trials are kept in SQLite: a killed search repeats the trial that it was at and goes on with those that are missing.
"""

import argparse
import logging
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import optuna
import yaml
from optuna.trial import TrialState
from pydantic import Field, ValidationError, model_validator

from lookalike.errors import LookalikeError, SetupError
from training.configuration import read_config
from training.detector.config import DetectorConfig, StrictModel, load_config
from training.train_detector import Diverged, Training

STUDIES = "studies.db"
BEST_CONFIG = "best.yaml"
DONE = (TrialState.COMPLETE, TrialState.PRUNED)

_log = logging.getLogger(__name__)


class Range(StrictModel):
    """What one setting may be: an interval, or one of a few."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: Annotated[list[Any], Field(default_factory=list)]

    @model_validator(mode="after")
    def _one_of_both(self) -> "Range":
        interval = self.low is not None and self.high is not None and self.low < self.high
        if interval == bool(self.choices):
            raise ValueError("say low < high, or choices")
        return self

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Return a value for `trial`."""
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        assert self.low is not None and self.high is not None
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def around(self, value: Any, share: float) -> "Range":
        """Return the part of this range, `share` of it wide, that has `value` in its middle, cut at the ends."""
        if self.choices:
            return Range(choices=[value])
        assert self.low is not None and self.high is not None
        to, back = (math.log, math.exp) if self.log else (float, float)
        half = (to(self.high) - to(self.low)) * share / 2
        low, high = max(to(self.low), to(value) - half), min(to(self.high), to(value) + half)
        return Range(low=back(low), high=back(high), log=self.log)


class Stage(StrictModel):
    """One study; without a `space` of its own it searches around the best of the stage before."""

    name: str
    trials: Annotated[int, Field(ge=1)]
    views_per_epoch: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    space: Annotated[dict[str, Range], Field(default_factory=dict)]
    around_best: Annotated[float, Field(gt=0, le=1)] = 0.25


class FinalRun(StrictModel):
    """The length of the last run."""

    views_per_epoch: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]


class SearchConfig(StrictModel):
    """The whole file."""

    base: Path
    stages: Annotated[list[Stage], Field(min_length=1)]
    final: FinalRun

    @model_validator(mode="after")
    def _first_stage_has_a_space(self) -> "SearchConfig":
        if not self.stages[0].space:
            raise ValueError("the first stage needs a space")
        return self


def load_search(path: Path) -> SearchConfig:
    """Read the search's configuration.

    Raises:
        SetupError: when it is missing, not YAML, or says something that it may not.
    """
    return read_config(path, SearchConfig)


def with_settings(base: DetectorConfig, settings: Mapping[str, Any]) -> DetectorConfig:
    """Return `base` with `settings`, each named by its path, `optimiser.rate`.

    Raises:
        SetupError: for a path or a value that the configuration does not allow.
    """
    tree = base.model_dump(mode="json")
    for path, value in settings.items():
        *parents, leaf = path.split(".")
        part = tree
        for parent in parents:
            part = part.get(parent, {})
        part[leaf] = value
    try:
        return DetectorConfig.model_validate(tree)
    except ValidationError as error:
        raise SetupError(f"the search sets what the configuration does not allow: {error}") from error


class Search:
    """A search in one folder."""

    def __init__(self, config: SearchConfig, base: DetectorConfig, data: Path, out: Path, downloads: Path) -> None:
        self.config, self.base = config, base
        self._data, self._out, self._downloads = data, out, downloads
        out.mkdir(parents=True, exist_ok=True)
        self._storage = f"sqlite:///{out / STUDIES}"

    def run(self) -> DetectorConfig:
        """Go through the stages, write `best.yaml`, train the final run in `final/`; return its configuration."""
        space: dict[str, Range] = {}
        best: dict[str, Any] = {}
        for number, stage in enumerate(self.config.stages):
            space = stage.space or {name: space[name].around(best[name], stage.around_best) for name in space}
            best = self._best(number, stage, space, best)
        final = self.config.final
        length = {"data.views_per_epoch": final.views_per_epoch, "optimiser.epochs": final.epochs}
        found = with_settings(self.base, {**best, **length})
        text = yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False)
        (self._out / BEST_CONFIG).write_text("# Found by training.search_hparams.\n" + text)
        Training(found, self._data, self._out / "final", self._downloads).run()
        return found

    def _best(self, number: int, stage: Stage, space: Mapping[str, Range], before: Mapping[str, Any]) -> dict[str, Any]:
        study = optuna.create_study(
            storage=self._storage, study_name=stage.name, direction="maximize", load_if_exists=True
        )
        if before and not study.get_trials(deepcopy=False):
            study.enqueue_trial(dict(before))  # so that a stage never ends below the one before it
        self._repeat_killed(stage, study)
        # Seeded by stage and by how many trials there are: a resumed search does not repeat the ones it has.
        done = len(study.get_trials(deepcopy=False, states=DONE))
        study.sampler = optuna.samplers.TPESampler(seed=self.base.seed + 1000 * number + done, multivariate=True)
        study.optimize(
            lambda trial: self._score(trial, stage, space),
            n_trials=max(0, stage.trials - done),
            callbacks=[lambda study, trial: self._log(stage, study, trial)],
        )
        if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
            raise SetupError(f"every trial of stage {stage.name} diverged: lower the rates of its space")
        return dict(study.best_params)

    def _repeat_killed(self, stage: Stage, study: optuna.Study) -> None:
        """Queue what a killed search was at again: its trial can neither end nor be counted."""
        for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
            shutil.rmtree(self._run_dir(stage, trial.number), ignore_errors=True)
            _log.info("%s: trial %d was killed and is repeated", stage.name, trial.number)

    def _run_dir(self, stage: Stage, number: int) -> Path:
        return self._out / f"{stage.name}-{number:03}"

    def _score(self, trial: optuna.Trial, stage: Stage, space: Mapping[str, Range]) -> float:
        settings = {name: choice.suggest(trial, name) for name, choice in space.items()}
        length = {"data.views_per_epoch": stage.views_per_epoch, "optimiser.epochs": stage.epochs}
        config = with_settings(self.base, {**settings, **length})
        run_dir = self._run_dir(stage, trial.number)
        try:
            return Training(config, self._data, run_dir, self._downloads).run().best_iou
        except Diverged as error:
            raise optuna.TrialPruned(str(error)) from error  # the sampler learns from it
        finally:
            shutil.rmtree(run_dir, ignore_errors=True)  # the settings and the score are in the study

    def _log(self, stage: Stage, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        done = study.get_trials(deepcopy=False, states=DONE)
        best = max((other.value for other in done if other.value is not None), default=math.nan)
        value = math.nan if trial.value is None else trial.value
        _log.info("%s %d/%d: %.4f (best %.4f) %s", stage.name, len(done), stage.trials, value, best, trial.params)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's error is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Search the detector's settings.")
    parser.add_argument("--config", type=Path, default=Path("training/configs/detector_search.yaml"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("var/runs/search"))
    parser.add_argument("--downloads", type=Path, default=Path("var/downloads"))
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        config = load_search(options.config)
        Search(config, load_config(config.base), options.data, options.out, options.downloads).run()
    except LookalikeError as error:
        _log.error("%s", error.message)
        return 1
    _log.info("the settings are in %s, the weights in %s", options.out / BEST_CONFIG, options.out / "final")
    return 0


if __name__ == "__main__":
    sys.exit(main())
