"""Spectra from outside: the same numbers in every form, and what is no spectrum."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from skymill.chunking.errors import InputError
from skymill.engine.given_spectra import read_spectra

ELL = np.arange(96)
CL = 1.0 / (10.0 + ELL) ** 2


def test_spectra_come_in_every_form(tmp_path):
    one = read_spectra(CL, ["g"])
    np.testing.assert_array_equal(one["g", "g"], CL)
    pair = {("a", "a"): CL, ("b", "b"): 2 * CL, ("a", "b"): 0.3 * CL}
    labels = ["a x a", "b x b", "a x b"]
    dataset = xr.Dataset({"cl": (("pair", "ell"), np.array(list(pair.values())))}, {"pair": labels, "ell": ELL})
    csv, blanks, single = tmp_path / "pairs.csv", tmp_path / "blanks.txt", tmp_path / "one.txt"
    rows = [
        [ell, *numbers]
        for ell, *numbers in zip(ELL[2:].tolist(), *(cl[2:].tolist() for cl in pair.values()), strict=True)
    ]
    csv.write_text("ell," + ",".join(labels) + "\n" + "\n".join(",".join(map(repr, row)) for row in rows))
    blanks.write_text("# a comment\nell a:a b:b a:b\n" + "\n".join(" ".join(map(repr, row)) for row in rows))
    single.write_text("\n".join(f"{ell} {cl!r}" for ell, cl in zip(ELL.tolist(), CL.tolist(), strict=True)))
    np.testing.assert_array_equal(read_spectra(single, ["g"])["g", "g"], CL)
    above = np.where(ELL >= 2, 1.0, 0.0)
    for came, factor in ((pair, 1), (dataset, 1), (csv, above), (str(blanks), above)):
        found = read_spectra(came, ["a", "b"])
        assert set(found) == set(pair)
        for key, wanted in pair.items():
            np.testing.assert_array_equal(found[key], wanted * factor)
    assert set(read_spectra(pair, ["b"])) == {("b", "b")}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0 1\n2 1\n", "every multipole"),
        ("0 1\n1\n", "row 2 is not 2 numbers"),
        ("0,1\n1,x\n", "row 2"),
        ("ell,a x a,b\n0,1,1\n", "have a column 'b'"),
        ("ell,g x g,h x h\n0,1,nan\n", "nan at ell 0"),
        ("0 1 1\n1 1 1\n", "row 1 is not 2 numbers"),
        ("", "not a table"),
        ("ell,g x g,g x g\n0,1,2\n", "came twice"),
    ],
)
def test_files_that_are_no_spectra(tmp_path, text, told):
    (tmp_path / "cl.txt").write_text(text)
    with pytest.raises(InputError, match=told):
        read_spectra(tmp_path / "cl.txt", ["g"])


def test_datasets_that_are_no_spectra():
    binned = xr.Dataset({"cl": (("pair", "bin"), np.ones((1, 3)))}, {"pair": ["g x g"]})
    with pytest.raises(InputError, match="without bins"):
        read_spectra(binned, ["g"])
    gap = xr.Dataset({"cl": (("pair", "ell"), np.ones((1, 3)))}, {"pair": ["g x g"], "ell": [0, 1, 3]})
    with pytest.raises(InputError, match="every multipole"):
        read_spectra(gap, ["g"])
