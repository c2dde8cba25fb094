"""What importing the feature store loads."""

import subprocess
import sys


def test_disk_does_not_load_hdf5() -> None:
    """The command line imports `store.disk` at every start."""
    code = "import sys, feature_extraction.store.disk; sys.exit('h5py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_open_features_is_public() -> None:
    import feature_extraction.store
    from feature_extraction.store.open import open_features

    assert feature_extraction.store.open_features is open_features
