"""The synthetic sky can be learnt: a network of another library, trained coarse, judged coarse and fine."""

from __future__ import annotations

import numpy as np
import pytest
from skymill.chunking.tiling import Tiling
from skymill.models.dust_sky import DustSky

pytestmark = pytest.mark.science


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")  # stopped by the number of epochs, on purpose
@pytest.mark.parametrize(("name", "hidden", "limit"), [("850um", (12, 8), 0.04), ("1380um", (60, 30), 0.07)])
@pytest.mark.parametrize("seed", [11, 5])
def test_the_long_waves_can_be_learned_from_the_short_ones(name, hidden, limit, seed):
    """An independent network, trained at nside 256 on noisy maps, judged there and on fine truth (scikit-learn)."""
    from sklearn.neural_network import MLPRegressor
    from sklearn.preprocessing import RobustScaler

    sky = DustSky(seed=seed, footprint="surveys")
    short, target, truth = ["i160", "i250", "i350", "i500"], f"i{name}", f"truth_{name}"

    def pixels(nside, tile_nside, every):
        grid = Tiling(nside, tile_nside=tile_nside)
        parts = [sky.tile(grid, tile, [*short, target, truth, "survey"]) for tile in sky.observed(grid)[::every]]
        maps = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        seen = maps["survey"] > 0
        return {key: values[seen].astype(np.float64) for key, values in maps.items()}

    coarse = pixels(256, 1, 1)
    inputs = np.log(np.stack([coarse[key] for key in short], axis=1))
    wanted = np.log(coarse[target])
    scaler, center, spread = (
        RobustScaler().fit(inputs),
        np.median(wanted),
        np.subtract(*np.percentile(wanted, [75, 25])),
    )
    training = coarse["survey"] <= 3
    held = np.random.default_rng(0).random(training.size) < 0.33
    network = MLPRegressor(
        hidden_layer_sizes=hidden,
        activation="tanh",
        alpha=0.0,
        random_state=1,
        max_iter=200,
        n_iter_no_change=30,
        tol=0,
    ).fit(scaler.transform(inputs)[training & ~held], ((wanted - center) / spread)[training & ~held])

    def predicted(logs):
        return np.exp(network.predict(scaler.transform(logs)) * spread + center)

    test = training & held
    error = predicted(inputs)[test] / coarse[target][test] - 1
    oracle = coarse[truth][test] / coarse[target][test] - 1
    assert error.std() < limit
    assert error.std() < 1.2 * oracle.std()
    residual = np.log(predicted(inputs)[test]) - wanted[test]
    assert 1 - residual.var() / wanted[test].var() > 0.99
    plane = predicted(inputs)[coarse["survey"] == 1] / coarse[target][coarse["survey"] == 1] - 1
    assert (np.abs(plane) > 0.2).mean() < 0.002
    fine = pixels(2048, 32, 40)
    logs = np.log(np.stack([fine[key] for key in short], axis=1))
    at_fine = predicted(logs) / fine[truth] - 1
    assert at_fine[fine["survey"] <= 3].std() < 1.5 * error.std()
    for code in range(4, 9):
        galaxy = coarse["survey"] == code
        assert abs((predicted(inputs)[galaxy] / coarse[truth][galaxy] - 1).mean()) < 0.05
