"""What a step that is run by hand does with s3:// addresses."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.common import storage
from components.common.cli import option
from components.common.errors import ConfigError, DataError, OutputError
from components.common.remote import address, at_hand


@dataclass(frozen=True)
class CopyConfig:
    source: Path = option(help="what to copy")
    output: Path = option(help="where to")
    times: int = option(1, help="how often")

    def __post_init__(self) -> None:
        built.append(self)


built: list[CopyConfig] = []


def copy(config: CopyConfig) -> None:
    config.output.mkdir()
    for path in config.source.iterdir():
        (config.output / path.name).write_bytes(path.read_bytes() * config.times)


@pytest.fixture
def source(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "text").write_text("some text\n")
    storage.publish(folder, f"s3://{bucket}/source")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return f"s3://{bucket}/source"


def test_input_is_fetched_and_output_published(source: str, bucket: str, tmp_path: Path) -> None:
    output = f"s3://{bucket}/deep/er/copy"
    given = CopyConfig(Path(source), Path(output), times=2)
    built.clear()
    with at_hand(given) as config:
        assert not built
        assert config.times == 2
        copy(config)
        assert storage.find(output) is None
    storage.fetch(output, tmp_path / "back")
    assert (tmp_path / "back" / "text").read_text() == "some text\n" * 2
    assert list((tmp_path / "scratch").iterdir()) == []


def test_only_one_of_them_need_be_an_address(source: str, tmp_path: Path) -> None:
    with at_hand(CopyConfig(Path(source), tmp_path / "copy")) as config:
        assert config.output == tmp_path / "copy"
        copy(config)
    assert (tmp_path / "copy" / "text").read_text() == "some text\n"


def test_an_output_that_is_not_to_be_is_not_looked_for(source: str) -> None:
    with at_hand(CopyConfig(Path("here"), Path(source)), writes=False) as config:
        assert config == CopyConfig(Path("here"), Path(source))


def test_a_failed_step_publishes_nothing(source: str, bucket: str, tmp_path: Path) -> None:
    output = f"s3://{bucket}/copy"
    config = CopyConfig(Path(source), Path(output))

    def fail_half_way() -> None:
        with at_hand(config) as local:
            copy(local)
            raise DataError("failed half way")

    with pytest.raises(DataError, match="half way"):
        fail_half_way()
    assert storage.find(output) is None
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_output_that_is_there_is_refused_before_the_work(source: str) -> None:
    with (
        pytest.raises(OutputError, match=r"s3://.*/source exists already"),
        at_hand(CopyConfig(Path("nowhere"), Path(source))),
    ):
        pytest.fail("the work began")


def test_an_input_that_is_not_there_is_named(source: str, tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=f"{source}/missing"),
        at_hand(CopyConfig(Path(source + "/missing"), tmp_path / "copy")),
    ):
        pytest.fail("the work began")


def test_local_paths_stay_as_they_are(tmp_path: Path) -> None:
    given = CopyConfig(tmp_path / "a", Path("relative/b"))
    with at_hand(given) as config:
        assert config is given


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("s3://bucket/key/part", "s3://bucket/key/part"),
        ("s3://bucket", "s3://bucket"),
        ("/data/s3:/x", ""),
        ("s3", ""),
        ("text", ""),
    ],
)
def test_addresses_survive_being_paths(text: str, uri: str) -> None:
    assert address(Path(text)) == uri


@dataclass(frozen=True)
class JoinConfig:
    sources: tuple[Path, ...] = option(help="what to join")
    output: Path = option(help="where to")


def test_each_of_several_inputs_may_be_an_address(source: str, tmp_path: Path) -> None:
    here = tmp_path / "made"
    config = JoinConfig((Path(source), here, Path(source)), tmp_path / "joined")
    with at_hand(config) as local:
        assert local.sources[1] == here
        assert len(set(local.sources)) == 3
        for path in local.sources:
            assert (path / "text").read_text() == "some text\n"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("scheme", ["gs", "https"])
def test_an_address_of_another_kind_is_named(scheme: str, tmp_path: Path) -> None:
    config = CopyConfig(Path(f"{scheme}://bucket/folder"), tmp_path / "out")
    with (
        pytest.raises(ConfigError, match=f"source: addresses with {scheme}:// are not read here"),
        at_hand(config),
    ):
        pytest.fail("it was")
