"""List the packages of this Python, and collect their licences.

    python requirements/sbom.py FOLDER

writes FOLDER/sbom.cdx.json (CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/) and
FOLDER/NOTICES.
The images' builds run it where they have installed what is locked, so it needs no package.
"""

import json
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

LICENCE_FILE = re.compile(r"(licen[cs]e|notice|copying|authors)[^/]*$", re.IGNORECASE)
# Other files of dist-info, and modules that are called so.
NO_TEXT = (".py", ".pyc", ".json")


def main(folder: Path) -> None:
    found = {package.name.lower(): package for package in distributions()}
    packages = [found[name] for name in sorted(found) if name != "race-pipeline"]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "components": [component(package) for package in packages],
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    (folder / "sbom.cdx.json").write_text(text, encoding="utf-8")
    (folder / "NOTICES").write_text("".join(map(notice, packages)), encoding="utf-8")


def component(package: Distribution) -> dict[str, object]:
    """A package as CycloneDX has it; one whose licence its metadata does not name is without."""
    name = re.sub(r"[-_.]+", "-", package.name).lower()
    made: dict[str, object] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{package.version}",
        "name": name,
        "version": package.version,
        "purl": f"pkg:pypi/{name}@{package.version}",
    }
    if licences := licences_of(package):
        made["licenses"] = licences
    return made


def licences_of(package: Distribution) -> list[dict[str, object]]:
    """What the metadata says: an SPDX expression, else classifiers, else a name of one line."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return [{"expression": expression}]
    classified = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier") or ()
        if line.startswith("License :: ") and not line.endswith(":: OSI Approved")
    ]
    stated = (about.get("License") or "").strip().partition("\n")[0]
    names = classified or ([stated] if stated and stated != "UNKNOWN" else [])
    return [{"license": {"name": name}} for name in names]


def notice(package: Distribution) -> str:
    """A package's licence files, under a heading."""
    texts = [
        path.read_text(encoding="utf-8", errors="replace").strip()
        for file in sorted(package.files or (), key=str)
        if ".dist-info/" in str(file) and LICENCE_FILE.search(str(file))
        if not str(file).endswith(NO_TEXT) and (path := Path(str(file.locate()))).is_file()
    ]
    named = ", ".join(
        str(entry.get("expression") or entry["license"]["name"])  # type: ignore[index]
        for entry in licences_of(package)
    )
    text = "\n\n".join(texts) or "(The package brings no text of its licence.)"
    return f"{'=' * 80}\n{package.name} {package.version}: {named or 'see below'}\n\n{text}\n\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
