import pytest

from feature_extraction import cores
from feature_extraction.sizes import needed_and_free


def test_two_sizes_never_look_the_same() -> None:
    assert needed_and_free(2**31, 2**30) == "2.0 GiB, but 1.0 GiB are free"
    assert needed_and_free(2**30 + 1, 2**30) == "1,073,741,825 bytes, but 1,073,741,824 are free"


class TestCores:
    def test_affinity_limits_the_cores(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        monkeypatch.setattr(cores, "CPU_QUOTA", tmp_path / "none")
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
        assert cores.usable_cores() == 3

    @pytest.mark.parametrize(
        ("quota", "count"),
        [("max 100000", 3), ("150000 100000", 2), ("1000 100000", 1), ("900000 100000", 3),
         ("nonsense", 3), ("5 0", 3)],
    )  # fmt: skip
    def test_a_container_quota_limits_the_cores(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path, quota: str, count: int
    ) -> None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
        monkeypatch.setattr(cores, "CPU_QUOTA", tmp_path / "cpu.max")
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
        assert cores.usable_cores() == count
