"""The arithmetic of the sparse benchmark: what is chosen is chosen on the other cohort, and the ratio is of what was judged."""

from __future__ import annotations

from pathlib import Path

from benchmarks import sparse_plots
from benchmarks.sparse import COHORTS, Candidate, figures, piece

FULL, SMALL, RANDOM = Candidate("full"), Candidate("shira", "gradient", 0.01), Candidate("shira", "random", 0.01)
USERS = dict.fromkeys(COHORTS, 2)


def errors(by: dict[tuple[Candidate | None, float], dict[str, int]]) -> dict[str, tuple[int, int]]:
    """Errors of 50 words for each of two users of a cohort."""
    return {
        piece(candidate, rate, cohort, f"user-{place}"): (count, 50)
        for (candidate, rate), cohorts in by.items()
        for cohort, count in cohorts.items()
        for place in range(2)
    }


def measured() -> dict[str, tuple[int, int]]:
    quiet, far = COHORTS
    found: dict[tuple[Candidate | None, float], dict[str, int]] = {(None, 0.0): {quiet: 25, far: 25}}
    found |= {(FULL, rate): {quiet: 10, far: 10} for rate in FULL.rates}
    found |= {(RANDOM, rate): {quiet: 20, far: 20} for rate in RANDOM.rates}
    low, high, worst = SMALL.rates
    found[SMALL, low] = {quiet: 12, far: 2}  # the best for far is the worst for quiet
    found[SMALL, high] = {quiet: 4, far: 14}
    found[SMALL, worst] = {quiet: 25, far: 25}
    return errors(found)


def test_a_rate_is_chosen_on_the_other_cohort() -> None:
    found, _ = figures(measured(), (FULL, SMALL, RANDOM), USERS)
    told = {figure.name: figure for figure in found}
    # quiet gets the rate that is best for far (12 errors) and far the one that is best for quiet (14): never its own
    assert told["wer_gradient_0.01"].value == (12 + 12 + 14 + 14) / 200
    assert told["wer_base"].value == 0.5 and told["wer_full"].value == 0.2
    assert told["sparse_over_dense_wer"].value == (26 / 100) / 0.2
    assert told["sparse_over_dense_wer"].met is False


def test_the_picture_shows_every_mask_and_line(tmp_path: Path) -> None:
    _, plots = figures(measured(), (FULL, SMALL, RANDOM), USERS)
    assert plots["sparse_density"]["masks"] == {"gradient": [[0.01, 0.26]], "random": [[0.01, 0.4]]}
    assert plots["sparse_density"]["lines"] == {"base": 0.5, "full": 0.2}
    made = sparse_plots.draw(plots, tmp_path)
    assert [(tmp_path / name).is_file() for name, _ in made] == [True]
    assert sparse_plots.draw({}, tmp_path) == []


def test_what_was_not_finished_is_told_as_such_and_chosen_for_nothing() -> None:
    pieces = measured()
    lost = next(name for name in pieces if name.startswith(str(SMALL)))
    del pieces[lost]
    told = {figure.name: figure for figure in figures(pieces, (FULL, SMALL, RANDOM), USERS)[0]}
    assert told["wer_gradient_0.01"].value is None and "not measured" in told["wer_gradient_0.01"].note
    assert "random at 0.01" in told["sparse_over_dense_wer"].note
    assert told["sparse_over_dense_wer"].value == 0.4 / 0.2
