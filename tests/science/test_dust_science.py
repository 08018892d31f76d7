"""System A judged on a synthetic sky with known truth: trained coarse, predicted 8 times finer.

Thresholds: science.md of the project, section 4.A (Paradis et al. 2024, A&A 691, A241); what an oracle could reach is
computed here from the truth: it predicts the noiseless sky, and only the noise of the target is left as its error.
"""

from __future__ import annotations

import numpy as np
import pytest
import skymill as sm
from skymill.models.emission import beta_star

COARSE, FINE = 256, 2048
BANDS = {"850um": 0.04, "1380um": 0.07}  # band -> largest sigma of the relative error
TRAINING = (1, 2, 3)  # codes of plane, clouds, cores; the galaxies stay unseen

pytestmark = [pytest.mark.science, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """Both resolutions, both networks, predictions and residuals."""
    folder = tmp_path_factory.mktemp("science")
    coarse, fine = folder / "coarse.zarr", folder / "fine.zarr"
    sm.simulate("dust", coarse, COARSE, seed=11, footprint="surveys").run(progress=False)
    sm.simulate("dust", fine, FINE, seed=11, footprint="surveys").run(progress=False)
    models, reports = [], {}
    for label in BANDS:
        models.append(folder / f"model-{label}")
        plan = sm.train(f"dust-{label}", coarse, models[-1], where="survey in 1, 2, 3", seed=1)
        reports[label] = plan.run(progress=False)
    for store in (coarse, fine):
        sm.predict(models, store).run(progress=False)
    for label in BANDS:
        sm.residual(coarse, f"pred_{label}", f"i{label}", mask_above=0.2).run(progress=False)
    sm.hand_down(coarse, fine, [f"mask_{label}" for label in BANDS]).run(progress=False)
    return {"coarse": coarse, "fine": fine, "reports": reports}


@pytest.mark.parametrize("label", BANDS)
def test_the_whole_sky_can_be_learnt_too(tmp_path, label):
    store = tmp_path / "full.zarr"
    sm.simulate("dust", store, COARSE, seed=11).run(progress=False)
    report = sm.train(f"dust-{label}", store, tmp_path / "model").run(progress=False)
    target, truth = (sm.open(store)[name].values for name in (f"i{label}", f"truth_{label}"))
    oracle = relative_errors(truth, target, slice(None))
    for split, parts in report.scores.items():
        known = parts["test"]
        print(f"{label}, full sky, {split}: mean {known['mean']:+.4f}, sigma {known['sigma']:.4f} ({oracle.std():.4f})")
        assert abs(known["mean"]) <= 0.004
        assert known["sigma"] <= min(BANDS[label], 1.2 * oracle.std())
        assert known["r2_log"] >= 0.99


def maps(sky, store, *names):
    dataset = sm.open(sky[store])
    return [dataset[name].values for name in names]


def relative_errors(prediction, reference, chosen):
    with np.errstate(divide="ignore", invalid="ignore"):
        error = prediction[chosen].astype(float) / reference[chosen] - 1
    return error[np.isfinite(error)]


@pytest.mark.parametrize("label", BANDS)
def test_errors_on_the_test_pixels(sky, label):
    # The limit on the mean is that of the publication, and so for its split; blocks of sky scatter more, because a
    # few thousand pixels that hang together are no average sky (0.0045 was seen at 1380 um).
    scores = {split: sky["reports"][label].scores[split]["test"] for split in ("random", "blocks")}
    for split, known in scores.items():
        print(label, split, {key: round(known[key], 5) for key in ("mean", "sigma", "half_width_95", "r2_log")})
        assert known["sigma"] <= BANDS[label]
        assert known["r2_log"] >= 0.99
    assert abs(scores["random"]["mean"]) <= 0.004


@pytest.mark.parametrize("label", BANDS)
def test_errors_are_near_those_of_an_oracle(sky, label):
    prediction, target, truth, survey = maps(sky, "coarse", f"pred_{label}", f"i{label}", f"truth_{label}", "survey")
    chosen = np.isin(survey, TRAINING)
    ours = relative_errors(prediction, target, chosen)
    oracle = relative_errors(truth, target, chosen)
    print(f"{label}: sigma {ours.std():.4f}, of the oracle {oracle.std():.4f}, ratio {ours.std() / oracle.std():.3f}")
    assert ours.std() <= 1.2 * oracle.std()
    assert abs(ours.mean()) <= 0.004


@pytest.mark.parametrize("label", BANDS)
def test_eight_times_finer_is_not_worse_than_one_and_a_half_times(sky, label):
    coarse = relative_errors(
        *maps(sky, "coarse", f"pred_{label}", f"i{label}"), np.isin(maps(sky, "coarse", "survey")[0], TRAINING)
    )
    fine = relative_errors(
        *maps(sky, "fine", f"pred_{label}", f"truth_{label}"), np.isin(maps(sky, "fine", "survey")[0], TRAINING)
    )
    print(f"{label}: fine sigma {fine.std():.4f} against truth, coarse sigma {coarse.std():.4f}, {fine.size:,} pixels")
    assert fine.std() <= 1.5 * coarse.std()


@pytest.mark.parametrize("label", BANDS)
def test_galaxies_with_other_dust_are_predicted_without_much_bias(sky, label):
    prediction, truth, survey = maps(sky, "fine", f"pred_{label}", f"truth_{label}", "survey")
    for code in np.unique(survey[survey > max(TRAINING)]):
        bias = float(np.median(relative_errors(prediction, truth, survey == code)))
        print(f"{label}, galaxy {code}: median relative error {bias:+.4f}")
        assert abs(bias) < 0.05


def test_few_pixels_of_the_plane_are_masked_and_children_inherit(sky):
    mask, survey = maps(sky, "coarse", "mask_1380um", "survey")
    fraction = float((mask[survey == 1] != 0).mean())
    print(f"masked at 1380 um in the plane: {fraction:.5f}")
    assert fraction < 0.002
    fine = maps(sky, "fine", "mask_1380um")[0].reshape(mask.size, -1)
    assert fine.shape[1] == 64
    assert (fine == mask[:, None]).all()


def test_ratios_and_spectral_indices_are_unbiased(sky):
    target = maps(sky, "fine", "truth_850um", "truth_1380um", "survey")
    ours = maps(sky, "fine", "pred_850um", "pred_1380um")
    chosen = np.isin(target[2], TRAINING) & np.isfinite(ours[0]) & np.isfinite(ours[1])
    true, predicted = target[0][chosen] / target[1][chosen], ours[0][chosen] / ours[1][chosen]
    peak = [float(np.median(ratio)) for ratio in (true, predicted)]
    bias = float(np.median(beta_star(predicted.astype(float)) - beta_star(true.astype(float))))
    print(f"ratio 850/1380: truth {peak[0]:.3f}, predicted {peak[1]:.3f}; bias of beta* {bias:+.4f}")
    assert 3.9 < peak[0] < 4.4
    assert abs(peak[1] / peak[0] - 1) <= 0.04
    assert abs(bias) <= 0.25


@pytest.mark.parametrize("label", BANDS)
def test_the_random_split_is_shown_beside_the_blocks(sky, label):
    scores = sky["reports"][label].scores
    assert set(scores) == {"random", "blocks"}
    assert sky["reports"][label].leak is not None
