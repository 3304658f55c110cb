"""Tags, build arguments and errors of the image commands; no engine is needed."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ConfigError, OutputError
from pipeline import image_build
from pipeline.cli import main
from pipeline.image_build import (
    build_arguments,
    checkout_date,
    checkout_images,
    checkout_tag,
    engine,
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    for name in ("components", "docker", "requirements"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("one")
    (folder / ".dockerignore").write_text("*")
    (folder / ".gitignore").write_text("ignored\n")
    git(folder, "init", "--quiet")
    git(folder, "config", "user.email", "test@example.org")
    git(folder, "config", "user.name", "test")
    commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "a change")
    return git(folder, "rev-parse", "--short=12", "HEAD")


def test_tag_is_the_commit_that_last_changed_an_image(checkout: Path) -> None:
    first = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert checkout_tag(checkout) == first
    (checkout / "README.md").write_text("words")
    assert checkout_tag(checkout) == first
    commit(checkout)
    assert checkout_tag(checkout) == first
    (checkout / "components" / "file").write_text("two")
    assert commit(checkout) == checkout_tag(checkout) != first


def test_the_images_date_is_that_of_the_commit(checkout: Path, tmp_path: Path) -> None:
    made = int(git(checkout, "log", "-1", "--format=%ct"))
    assert checkout_date(checkout, {}) == made
    assert checkout_date(checkout, {"SOURCE_DATE_EPOCH": "86400"}) == 86400
    assert checkout_date(tmp_path, {}) == 315532800  # no checkout: the date of all files in there
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH=now: not seconds since 1970"):
        checkout_date(checkout, {"SOURCE_DATE_EPOCH": "now"})


def test_uncommitted_changes_each_have_their_tag(checkout: Path) -> None:
    clean = checkout_tag(checkout)
    (checkout / "components" / "file").write_text("two")
    changed = checkout_tag(checkout)
    (checkout / "components" / "new").write_text("")
    added = checkout_tag(checkout)
    (checkout / "components" / "file").unlink()
    removed = checkout_tag(checkout)
    (checkout / "components" / "ignored").write_text("of no account")
    assert checkout_tag(checkout) == removed
    assert len({clean, changed, added, removed}) == 4
    assert all(tag.startswith(f"{clean}-dirty-") for tag in (changed, added, removed))


def test_without_git_the_tag_is_the_version(tmp_path: Path, checkout: Path) -> None:
    assert checkout_tag(tmp_path / "nowhere") == "0.1.0"
    (checkout / "unpacked").mkdir()  # inside of a checkout that knows nothing of it
    assert checkout_tag(checkout / "unpacked") == "0.1.0"


def test_what_the_environment_asks_for_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_build, "checkout_tag", lambda: "0123456789ab")
    assert checkout_images({}).data == "localhost/race-pipeline-data:0123456789ab"
    assert checkout_images({"RACE_IMAGE_TAG": "v1"}).train == "localhost/race-pipeline-train:v1"
    whole = checkout_images({"RACE_DATA_IMAGE": "r.example.org/data:v2"})
    assert whole.data == "r.example.org/data:v2"
    assert whole.train == "localhost/race-pipeline-train:0123456789ab"


def test_pips_addresses_are_handed_on_and_its_paths_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    environment = {
        "PIP_INDEX_URL": "https://index.example.org/simple",
        "PIP_EXTRA_INDEX_URL": "https://a.example.org file:///srv/packages",
        "PIP_FIND_LINKS": "/srv/wheels",
        "PIP_TRUSTED_HOST": "index.example.org",
        "PIP_CERT": "/etc/ssl/bundle",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    assert build_arguments(environment) == {
        "PIP_INDEX_URL": "https://index.example.org/simple",
        "PIP_TRUSTED_HOST": "index.example.org",
    }
    said = capsys.readouterr().err.splitlines()
    assert [line.partition("=")[0] for line in said] == ["PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"]


def test_no_engine_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with (
        pytest.raises(ConfigError, match=r"no Docker engine answers at tcp://127\.0\.0\.1:1"),
        engine(),
    ):
        pytest.fail("it answered")
    for command in ("build", "list"):
        assert main(["images", command]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_image_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["images", "build", "tarin"]) == 2
    assert capsys.readouterr().err.startswith("error: no image is called tarin.")


def test_push_wants_a_registry(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RACE_IMAGE_PREFIX", raising=False)
    assert main(["images", "push"]) == 2
    assert "names no registry. Set RACE_IMAGE_PREFIX" in capsys.readouterr().err


def test_a_failed_build_shows_its_last_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log: list[dict[str, Any]] = [
        {"stream": "Step 1/2 : RUN pip install"},
        {"stream": "\n"},
        {"stream": "no such package\n"},
        {"error": "The command 'pip' returned 1", "errorDetail": {"code": 1, "message": "..."}},
    ]
    with pytest.raises(OutputError, match="a command failed with status 1"):
        image_build._follow(iter(log), "docker/data.Dockerfile")
    shown = capsys.readouterr().err
    assert "  Step 1/2 : RUN pip install" in shown
    assert "no such package" in shown
