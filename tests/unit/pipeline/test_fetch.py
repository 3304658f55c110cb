"""A cluster's run in a folder of this machine: whole artifacts, and a word on what is missing."""

import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from components.common import storage
from components.common.errors import ConfigError, DataError, TransferError
from components.common.retry import Patience
from components.train.supervisor.curve import compose
from pipeline.cli import main
from pipeline.client import Run
from pipeline.fetch import fetch, held_by
from pipeline.parameters import load_config, parameters, run_inputs
from tests.unit.pipeline.situations import launcher_log
from tests.unit.pipeline.stored import Ran, StoredRun

DATA = ("download-race", "download-bpe", "download-roberta", "preprocess", "binarize")
VALUES = {n: p.default for n, p in parameters().items()} | dict(load_config("smoke").values)
FILES = {
    ("download-bpe", "bpe"): {"dict.txt": b"a 1", "encoder.json": b"{}", "vocab.bpe": b"v" * 20},
    ("preprocess", "text"): {"train.input0": b"A text."},
    ("preprocess", "counts"): {"": b'{"questions": 7}'},
    ("train", "model"): {"checkpoint_best.pt": b"weights" * 1000, "train_log.jsonl": b""},
    ("train", "executor-logs-0"): {"": b"first attempt\n"},
    ("train", "executor-logs-1"): {"": b"second attempt\n"},
}
PLACES = {"bpe", "text", "model"}


class Cluster:
    """A run whose artifacts lie in a bucket, and how its server tells of it."""

    def __init__(self, bucket: str, *steps: Ran, **about: Any) -> None:
        ran = steps or tuple(map(Ran, (*DATA, "train", "evaluate", "gate")))
        self.stored = StoredRun(
            ran,
            root=f"minio://{bucket}/v2/artifacts/race-roberta",
            compiled=VALUES,
            parameters=run_inputs({**VALUES, "train_dropout": 0.3}, VALUES, False),
            **about,
        )
        self.bucket = bucket
        self.said = ""  # of a failed pod
        self.client = boto3.client("s3", region_name="us-east-1")
        for (step, name), files in FILES.items():
            if any(one.step == step for one in ran):
                for file, content in files.items():
                    self.put(f"{self.stored.folder(step)}/{name}/{file}".rstrip("/"), content)

    def put(self, uri: str, content: bytes) -> None:
        key = uri.partition(f"{self.bucket}/")[2]
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def manifest(self, run_id: str) -> str:
        return self.stored.manifest()

    def log(self, run_id: str, node: str) -> str:
        return self.said

    @property
    def run(self) -> Run:
        return Run.of({"run_id": "run-1", **self.stored.run(0)})

    def fetch(self, output: Path, **how: Any) -> list[str]:
        return fetch(self, self.run, output, **how)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_each_artifact_comes_to_the_place_that_a_run_here_gives_it(
    bucket: str, tmp_path: Path
) -> None:
    missing = Cluster(bucket).fetch(tmp_path / "run")
    found = content(tmp_path / "run")
    for (_, name), files in FILES.items():
        for file, data in files.items() if name in PLACES else ():
            assert found[f"{name}/{file}"] == data
    assert found["logs/train.log"] == b"first attempt\nsecond attempt\n"
    assert {"index.html", "run.json"} <= found.keys()
    assert not [name for name in found if ".fetching" in name or "partial" in name]
    record = json.loads(found["run.json"])
    assert (record["state"], record["runner"]) == ("succeeded", "kubeflow")
    assert record["started"] == "2026-01-01 00:00:00 UTC"
    steps = {step["name"]: step for step in record["steps"]}
    assert steps["preprocess"]["figures"] == {"questions": 7}
    assert steps["train"]["outputs"] == {"model": "model"}
    # A setting of the run, what was compiled into its pipeline, and a default.
    assert record["parameters"]["train_dropout"] == 0.3
    assert record["parameters"]["train_encoder_embed_dim"] == 32
    assert record["parameters"]["train_weight_decay"] == 0.01
    assert [line.partition(":")[0] for line in missing] == ["race", "roberta", "data", "report"]
    assert "succeeded, but it is not in the store" in missing[0]


def test_a_run_that_goes_on_is_fetched_as_far_as_it_has_come(bucket: str, tmp_path: Path) -> None:
    begun = [*map(Ran, DATA), Ran("train", phase="Running")]
    cluster = Cluster(bucket, *begun, state="RUNNING")
    storage.remove_objects(f"{cluster.stored.folder('train')}/model".replace("minio", "s3"))
    missing = cluster.fetch(tmp_path / "run", only=["text", "model", "report"])
    assert missing == ["model: train is running", "report: its step has not run"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "running"
    # Later, in the same folder.
    later = Cluster(bucket)
    assert later.fetch(tmp_path / "run", only=["model"]) == []
    assert (tmp_path / "run" / "model" / "checkpoint_best.pt").is_file()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "succeeded"


def test_what_a_step_has_begun_to_store_is_left_until_it_is_whole(
    bucket: str, tmp_path: Path
) -> None:
    begun = Cluster(bucket, *map(Ran, DATA), Ran("train", phase="Running"), state="RUNNING")
    model = f"{begun.stored.folder('train')}/model".replace("minio", "s3")
    storage.remove_objects(f"{model}/checkpoint_best.pt")  # the launcher has come to the log
    assert begun.fetch(tmp_path / "run", only=["model"]) == ["model: train is running"]
    assert Cluster(bucket).fetch(tmp_path / "run", only=["model"]) == []
    assert (tmp_path / "run" / "model" / "checkpoint_best.pt").is_file()


def test_a_sweep_that_was_given_its_seeds_alone_has_the_other_defaults(
    bucket: str, tmp_path: Path
) -> None:
    cluster = Cluster(bucket, *(Ran("train", trial=trial) for trial in (0, 1)))
    cluster.stored.parameters = {"seeds": [1, 2]}
    for trial in (0, 1):
        cluster.put(f"{cluster.stored.folder('train', trial)}/model/checkpoint_best.pt", b"a")
    assert cluster.fetch(tmp_path / "run", only=["model"]) == ["model: its step has not run"]
    assert (tmp_path / "run" / "trials" / "seed-2" / "model" / "checkpoint_best.pt").is_file()
    # Its seeds are in what was compiled, and nobody tells them.
    manifest = cluster.stored.manifest()
    cluster.stored.parameters = {}
    cluster.manifest = lambda run_id: manifest  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="does not tell which trials it has"):
        cluster.fetch(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_was_cut_off_goes_on_where_it_was(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, output = Cluster(bucket), tmp_path / "run"
    whole = storage.fetch_objects
    asked: list[str] = []

    def breaking(uri: str, found: dict[str, int], *more: Any) -> None:
        asked.append(uri.rpartition("/")[2])
        whole(uri, dict(sorted(found.items())[:1]), *more)
        if len(found) > 1:
            raise TransferError("the connection was cut")

    monkeypatch.setattr(storage, "fetch_objects", breaking)
    with pytest.raises(TransferError):
        cluster.fetch(output)
    assert asked == ["text", "bpe"]  # the small before the large
    assert {path.name for path in output.iterdir()} == {"run.json", "text", ".fetching"}
    monkeypatch.setattr(storage, "fetch_objects", whole)
    (kept,) = (output / ".fetching").rglob("dict.txt")
    kept.write_bytes(b"b 1")  # as large, so that it is seen to be taken
    cluster.fetch(output)
    assert (output / "bpe" / "dict.txt").read_bytes() == b"b 1"
    assert not (output / ".fetching").exists()


def test_what_is_damaged_on_its_way_is_told_and_not_left(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.common.storage.s3 import S3Store

    whole = S3Store.download

    def flipped(self: S3Store, files: Any, advance: Any) -> list[str]:
        found = whole(self, files, advance)
        for wanted in files:
            if wanted.key.endswith("checkpoint_best.pt"):
                wanted.target.write_bytes(b"W" + wanted.target.read_bytes()[1:])
        return found

    monkeypatch.setattr(S3Store, "download", flipped)
    with pytest.raises(DataError, match=r"checkpoint_best.pt is not what its checksum says"):
        Cluster(bucket).fetch(tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_a_folder_takes_one_run_alone(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    Cluster(bucket).fetch(tmp_path / "run", only=["text"])
    other = Cluster(bucket, run_id="run-2")
    with pytest.raises(ConfigError, match="another run is there"):
        fetch(other, Run.of({"run_id": "run-2", **other.stored.run(0)}), tmp_path / "run")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "file").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        other.fetch(tmp_path / "own")
    with pytest.raises(ConfigError, match="no artifact 'modle'"):
        other.fetch(tmp_path / "new", only=["modle"])
    assert not (tmp_path / "new").exists()


def test_without_an_address_for_the_clusters_store_nothing_is_asked_of_aws(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(bucket)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with pytest.raises(ConfigError, match=r"minio-service.kubeflow:9000") as refused:
        cluster.fetch(tmp_path / "run")
    assert "AWS_ENDPOINT_URL" in refused.value.hint
    assert not (tmp_path / "run").exists()


def test_logs_too_are_not_looked_for_at_aws(
    bucket: str, kubeflow: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    cluster = Cluster(bucket)
    kubeflow.runs, kubeflow.replay = [cluster.stored.listed("mine")], cluster.stored
    logs = ["runs", "logs", "run-1", "train", "--host", kubeflow.host]
    assert main(logs) == 0
    assert capsys.readouterr().out == "first attempt\nsecond attempt\n"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert main(logs) == 2
    assert "minio-service.kubeflow:9000, which has no address here" in capsys.readouterr().err


def test_a_record_is_kept_where_nobody_tells_what_belongs_to_it(
    bucket: str, kubeflow: Any, capsys: Any
) -> None:
    cluster = Cluster(bucket)
    kubeflow.runs, kubeflow.replay = [cluster.stored.listed("mine")], cluster.stored
    kubeflow.gateway["GET", "/v1beta1/runs/"] = {}
    delete = ["runs", "delete", "run-1", "--host", kubeflow.host, "--yes"]
    assert main([*delete, "--artifacts"]) == 2
    assert "does not tell where its artifacts lie. Without --artifacts" in capsys.readouterr().err
    assert len(kubeflow.runs) == 1
    assert main(delete) == 0


def test_a_run_whose_workflow_is_gone_is_told(bucket: str, tmp_path: Path) -> None:
    cluster = Cluster(bucket)

    class Gone:
        def manifest(self, run_id: str) -> str:
            return ""

    with pytest.raises(ConfigError, match="does not tell where its artifacts lie"):
        fetch(Gone(), cluster.run, tmp_path / "run")


@pytest.mark.parametrize(("said", "status"), [(launcher_log("error: too low", 7), 7), ("", 1)])
def test_a_failed_step_has_the_exit_status_of_its_program(
    bucket: str, tmp_path: Path, said: str, status: int
) -> None:
    ran = [*map(Ran, (*DATA, "train", "evaluate")), Ran("gate", phase="Failed")]
    cluster = Cluster(bucket, *ran, state="FAILED")
    cluster.said = said
    cluster.fetch(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    found = {step["name"]: step["exit_status"] for step in record["steps"]}
    assert (found["gate"], found["train"]) == (status, 0)


def test_only_what_a_run_made_itself_is_deleted(bucket: str) -> None:
    later = map(Ran, ("train", "evaluate", "gate"))
    second = Cluster(bucket, *(Ran(s, cached_from="first") for s in DATA), *later)
    second.put(f"minio://{bucket}/team/checkpoints/run-1/update-1/manifest.json", b"{}")
    second.put(f"minio://{bucket}/team/checkpoints/run-2/update-1/manifest.json", b"{}")
    # What only begins like it.
    for near in ("v2/artifacts/race-roberta/run-10/a", "team/checkpoints/run-1.json"):
        second.put(f"minio://{bucket}/{near}", b"{}")
    second.stored.parameters = {"checkpoint_uri": f"s3://{bucket}/team/checkpoints/"}
    held = held_by(second, second.run)
    found = [(address.rpartition("/")[2], len(sizes)) for address, sizes in held.items()]
    assert found == [("run-1", 1), ("run-1", 4)]
    for address in held:
        storage.remove_objects(address)
    left = storage.sizes(f"s3://{bucket}/v2/artifacts/race-roberta")
    assert left
    assert all("/first/" in key or "/run-10/" in key for key in left)
    assert list(storage.sizes(f"s3://{bucket}/team/checkpoints")) == [
        "checkpoints/run-1.json",
        "checkpoints/run-2/update-1/manifest.json",
    ]


@pytest.mark.parametrize("below", ["team", "team/", "team/run-1/published"])
def test_what_a_run_published_among_its_checkpoints_is_not_deleted(bucket: str, below: str) -> None:
    cluster = Cluster(bucket)
    uris = {"checkpoint_uri": f"s3://{bucket}/team/", "publish_uri": f"s3://{bucket}/{below}"}
    cluster.stored.parameters = uris
    with pytest.raises(ConfigError, match="team/run-1: what the run published lies there too"):
        held_by(cluster, cluster.run)
    # Beside them it is in nobody's way.
    cluster.stored.parameters = uris | {"publish_uri": f"s3://{bucket}/team-models"}
    assert [address.rpartition("/")[2] for address in held_by(cluster, cluster.run)] == ["run-1"]


def test_the_commands_list_before_they_remove(
    bucket: str, kubeflow: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(bucket)
    kubeflow.runs = [cluster.stored.listed("mine")]
    kubeflow.replay = cluster.stored
    host = ["--host", kubeflow.host]
    assert (
        main(["runs", "fetch", "mine", *host, f"--output={tmp_path / 'a'}", "--only=bpe,text"]) == 0
    )
    told = capsys.readouterr()
    assert (told.out, told.err) == (f"{tmp_path / 'a' / 'index.html'}\n", "")
    assert {path.name for path in (tmp_path / "a").iterdir() if path.is_dir()} == {"bpe", "text"}
    again = ["runs", "fetch", "mine", *host, f"--output={tmp_path / 'a'}", "--only=report"]
    assert main([*again, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["id"], answer["folder"]) == ("run-1", str(tmp_path / "a"))
    (missing,) = answer["missing"]
    assert missing.startswith("report: evaluate succeeded, but it is not in the store")
    delete = ["runs", "delete", "run-1", *host, "--artifacts"]
    assert main(delete) == 2
    told = capsys.readouterr()
    place = f"s3://{bucket}/v2/artifacts/race-roberta/run-1"
    assert told.err.splitlines()[0] == f"{place}: 9 objects, 0.0 MiB"
    assert len(storage.sizes(place)) == 9
    assert main([*delete, "--yes"]) == 0
    assert storage.sizes(place) == {}
    assert kubeflow.runs == []


def test_show_draws_how_training_goes(
    bucket: str, kubeflow: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"s3://{bucket}/team/checkpoints"
    run = StoredRun([Ran("train", phase="Running")], state="RUNNING")
    run.parameters = {"checkpoint_uri": uri}
    kubeflow.runs, kubeflow.replay = [run.listed("mine")], run
    show = ["runs", "show", "run-1", "--host", kubeflow.host]
    assert main(show) == 0
    assert "epoch" not in capsys.readouterr().out
    records = [
        {"split": "train", "epoch": 1, "update": n, "loss": 1.3, "seconds": n} for n in (10, 20)
    ]
    storage.write_small(f"{uri}/run-1/train_log.jsonl", compose(records, 80, 2), Patience())
    assert main(show) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "train: epoch 1/2, update 20/80, loss 1.300, 1 min 00 s left"
    assert main([*show, "--output", "json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["training"]
    assert (told["update"], told["seconds_left"]) == (20, 60.0)
    storage.write_small(f"{uri}/run-1/train_log.jsonl", b"<html>", Patience())
    assert main(show) == 0
    told = capsys.readouterr()
    assert told.err.startswith("how training goes is not known: ")
    assert "train" in told.out
    run.parameters = {"seeds": "x"}  # nobody has asked for a curve
    assert main(show) == 0
    assert capsys.readouterr().err == ""
