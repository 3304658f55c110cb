"""requirements/sbom.py, which the images are built with: each package, its version and licence."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sbom") / "app"
    script = ROOT / "requirements" / "sbom.py"
    subprocess.run([sys.executable, "-P", str(script), str(folder)], check=True)
    return folder


def test_it_lists_every_package_with_its_licence(made: Path) -> None:
    document = json.loads((made / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    listed = {c["name"]: c for c in document["components"]}
    installed = {re.sub(r"[-_.]+", "-", d.name).lower(): d for d in metadata.distributions()}
    assert listed.keys() == installed.keys() - {"race-pipeline"}
    for name, component in listed.items():
        assert component["version"] == installed[name].version
        assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
        assert component["licenses"], name
    assert listed["torch"]["licenses"][0]["expression"].startswith("Apache-2.0 AND ")
    assert listed["fairseq"]["licenses"] == [{"license": {"name": "MIT License"}}]


def test_the_notices_hold_the_licences_themselves(made: Path) -> None:
    notices = (made / "NOTICES").read_text(encoding="utf-8")
    assert "\nnumpy 2." in notices
    assert "NumPy Developers" in notices
    # Some few bring no text; what they are under stands in their heading.
    without = re.findall(r"={80}\n(.*): (.*)\n\n\(The package brings no", notices)
    assert len(without) < notices.count("=" * 80) / 10
    assert all(named != "see below" for _, named in without)
