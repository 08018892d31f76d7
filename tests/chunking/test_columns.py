"""The ledger's attributes while another process sweeps the same map."""

import zarr
from skies import make_sky
from skymill.chunking import columns


def test_attributes_are_written_again_where_another_process_swept_them_up(tmp_path, monkeypatch):
    sky = make_sky(tmp_path / "sky.zarr", 8, ("i160",))
    columns.create_column(sky, "i160", {"identity": "a"})
    put, failures = zarr.Array.update_attributes, []

    def swept(self, attributes):
        if len(failures) < 2:
            failures.append(attributes)
            raise FileNotFoundError("zarr.json.partial")
        return put(self, attributes)

    monkeypatch.setattr(zarr.Array, "update_attributes", swept)
    columns.set_column_attributes(sky, "i160", {"identity": "b"})
    assert len(failures) == 2
    assert columns.column_attributes(sky, "i160") == {"identity": "b"}
