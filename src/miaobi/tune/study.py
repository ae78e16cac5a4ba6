"""The search as an Optuna study whose journal is on disk: what is done stays done when the process is killed.

Optuna: Akiba et al. 2019, arXiv:1907.10902; its multi-objective TPE: Ozaki et al. 2020.
"""

import json
import math
from pathlib import Path
from typing import Any

from miaobi.accelerate.recipe import Recipe, Step
from miaobi.errors import InputError, MachineError
from miaobi.tune.space import Space
from miaobi.tune.trial import Trial

JOURNAL = "journal.log"
_NAME = "miaobi"
_TRIES = 40
"""Suggestions in a row that may be known already before the search takes the space for exhausted."""


class Study:
    """Suggests recipes and remembers trials, in the order in which they were done.

    Every suggestion is seeded by `seed` and the number of finished trials, so that a resumed search suggests
    what the uninterrupted one would have.
    """

    def __init__(self, space: Space, folder: Path, settings: dict[str, Any], resume: bool) -> None:
        """Open the journal in `folder`.

        Raises:
            InputError: there is one and `resume` is false, or it was begun with other settings.
            MachineError: Optuna is not installed, or the journal is damaged.
        """
        self.space, self.seed = space, int(settings["seed"])
        path = folder / JOURNAL
        if path.exists() and not resume:
            raise InputError(f"{str(folder)!r} holds a search; give --resume to go on, or another --out.")
        try:
            import optuna
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend
        except ImportError as error:
            raise MachineError("tuning needs Optuna; pip install 'miaobi[tune]'.") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        try:
            storage = JournalStorage(JournalFileBackend(str(path)))
            self._study = optuna.create_study(
                storage=storage, study_name=_NAME, directions=["minimize"] * 2, load_if_exists=True
            )
            self._check_settings(settings, path)
            done = [one for one in self._study.trials if "trial" in one.user_attrs]
            self.trials = [Trial.from_json(one.user_attrs["trial"]) for one in done]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise MachineError(
                f"{str(path)!r} cannot be read ({type(error).__name__}: {error}); choose another --out."
            ) from error
        for one in self._study.get_trials(states=[optuna.trial.TrialState.RUNNING], deepcopy=False):
            self._study.tell(one.number, state=optuna.trial.TrialState.FAIL)  # it was killed in it
        self._open: Any = None

    def _check_settings(self, settings: dict[str, Any], path: Path) -> None:
        kept = self._study.user_attrs.get("settings")
        if kept is None:
            self._study.set_user_attr("settings", settings)
            return
        differs = [
            f"{key} {kept.get(key)!r}, not {value!r}"
            for key, value in settings.items()
            if kept.get(key) != value
        ]
        if differs:
            raise InputError(f"{str(path)!r} was begun with {'; '.join(differs)}; choose another --out.")

    @property
    def known(self) -> dict[Recipe, Trial]:
        """Trials by recipe."""
        return {one.recipe: one for one in self.trials}

    @property
    def barred(self) -> frozenset[Step]:
        """Steps that failed alone."""
        return frozenset(one.recipe[0] for one in self.trials if one.failure and len(one.recipe) == 1)

    def begin(self, recipe: Recipe) -> None:
        """Make `recipe` the trial that `finish` will end."""
        self._study.enqueue_trial(self.space.parameters(recipe, self.barred))
        self._ask()

    def suggest(self) -> Recipe | None:
        """A recipe that is not known, by TPE, as the trial that `finish` will end; None: none was found."""
        known = self.known
        for attempt in range(_TRIES):
            recipe = self._ask(attempt)
            if recipe not in known:
                return recipe
            self._study.tell(self._open, state=self._optuna.trial.TrialState.PRUNED)
        return None

    def _ask(self, attempt: int = 0) -> Recipe:
        seed = self.seed * 1_000_003 + len(self.trials) * 1009 + attempt
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed % 2**32)
        self._open = trial = self._study.ask()
        return self.space.walk(lambda name, labels: str(trial.suggest_categorical(name, labels)), self.barred)

    def finish(self, trial: Trial) -> None:
        """Write a trial down; after this it is never measured again."""
        states = self._optuna.trial.TrialState
        self._open.set_user_attr("trial", trial.to_json())
        if trial.cost is None or trial.loss is None:
            self._study.tell(self._open, state=states.FAIL)
        else:
            self._study.tell(self._open, [math.log(trial.cost), trial.loss.value])
        self.trials.append(trial)
        self._open = None

    def note(self, name: str, value: Any) -> None:
        """Keep a value that JSON can hold; `noted` gives it back."""
        self._study.set_user_attr(name, json.loads(json.dumps(value)))

    def noted(self, name: str, otherwise: Any) -> Any:
        """What `note` kept, or `otherwise`."""
        return self._study.user_attrs.get(name, otherwise)
