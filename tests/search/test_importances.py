"""Laws of importances, on studies of a known function and on small ones.

The known function is that of benchmarks/importance_trials.py: one hyperparameter has most of the
effect, two have none.
"""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from benchmarks.importance_trials import SPACE, WITHOUT_EFFECT, first, search
from cid_ray.results.hyperparameters import MIN_RELIABLE_TRIALS
from cid_ray.search.importances import MIN_TRIALS, importances
from cid_ray.search.trial_spec import StudyKey
from tests.helpers.simulated_studies import open_search, run_trials, search_config

SEARCHES = 20
NOISE = 1.0


@pytest.mark.parametrize(
    ("trials", "hyperparameters"), [(3, set()), (12, {"loss.relation_weight"})]
)
def test_importances_need_trials_of_full_length(
    tmp_path: Path, trials: int, hyperparameters: set[str]
) -> None:
    config = search_config(trials=trials, **{"search.pruner": {"name": "NopPruner"}})
    with open_search(tmp_path, config) as opened:
        run_trials(opened)
        fractions, counts = importances(opened.store.studies[StudyKey("1/8", "cid")])
        assert set(fractions) == set(counts) == hyperparameters
        assert set(counts.values()) <= {trials}


def named_first(trials: int, top_fraction: float = 0.5) -> list[bool]:
    """Of each search whether the strongest is named first after so many trials."""
    found = (
        importances(search("random", NOISE, trials, seed), top_fraction)[0]
        for seed in range(SEARCHES)
    )
    return [next(iter(each)) == "strong" for each in found]


def test_importances_are_reliable_from_the_stated_number_of_trials_on() -> None:
    assert sum(named_first(MIN_RELIABLE_TRIALS)) >= 0.9 * SEARCHES
    assert sum(named_first(MIN_RELIABLE_TRIALS // 4)) < 0.9 * SEARCHES


def test_better_half_tells_more_than_the_best_tenth() -> None:
    assert sum(named_first(16)) > sum(named_first(16, top_fraction=0.1)) + SEARCHES / 5


def test_fractions_sum_to_one_the_largest_first() -> None:
    fractions, trials = importances(search("random", NOISE, 128, seed=0))
    assert sum(fractions.values()) == pytest.approx(1)
    assert list(fractions.values()) == sorted(fractions.values(), reverse=True)
    assert trials == dict.fromkeys(SPACE, 128) and list(trials) == list(fractions)
    assert sum(fractions[key] for key in WITHOUT_EFFECT) < 0.2


def test_pruned_trials_do_not_count() -> None:
    study = search("random", NOISE, 32, seed=0)
    before = importances(study)
    params = {**study.trials[0].params, "strong": 0.0}
    pruned = create_trial(
        state=TrialState.PRUNED,
        params=params,
        distributions=SPACE,
        value=99.0,
        intermediate_values={1: 99.0},
    )
    study.add_trials([pruned] * 20)
    assert importances(study) == before


def test_conditional_hyperparameter_is_judged_over_the_trials_that_have_it() -> None:
    whole = search("random", NOISE, 48, seed=0)
    having = [trial for trial in whole.trials if trial.params["kind"] == "b"]
    study = optuna.create_study(direction="maximize")
    alone = optuna.create_study(direction="maximize")
    for trial in whole.trials:
        params = dict(trial.params)
        if trial.params["kind"] != "b":
            del params["weak"]
        distributions = {key: SPACE[key] for key in params}
        one = create_trial(params=params, distributions=distributions, value=trial.value)
        study.add_trial(one)
        if trial in having:
            alone.add_trial(one)
    fractions, trials = importances(study)
    assert trials == {**dict.fromkeys(SPACE, 48), "weak": len(having)}
    # against a hyperparameter that all have, as over the few trials against the many
    of_few, of_all = importances(alone)[0], importances(whole)[0]
    assert of_few["weak"] > 0 and fractions["weak"] > 0
    assert fractions["strong"] / fractions["none"] == pytest.approx(
        of_all["strong"] / of_all["none"]
    )
    assert fractions["weak"] / fractions["strong"] != pytest.approx(
        of_all["weak"] / of_all["strong"], rel=0.01
    )


def test_hyperparameter_that_few_trials_have_has_no_importance() -> None:
    study = first(search("random", NOISE, 12, seed=0), 12)
    rare = optuna.distributions.FloatDistribution(0, 1)
    for number in range(MIN_TRIALS - 1):
        params = {**study.trials[number].params, "rare": 0.1 * number}
        distributions = {**SPACE, "rare": rare}
        study.add_trial(create_trial(params=params, distributions=distributions, value=50.0))
    assert set(importances(study)[0]) == set(SPACE)


def test_second_objective_does_not_count() -> None:
    study = search("random", NOISE, 32, seed=0)
    both = optuna.create_study(directions=["maximize", "minimize"])
    for trial in study.trials:
        assert trial.value is not None
        values = [trial.value, float(trial.number)]
        both.add_trial(create_trial(params=trial.params, distributions=SPACE, values=values))
    assert importances(both) == importances(study)
