"""Where the project and the published data lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
REAL_PASSWORD = "model-organisms-em-datasets"
