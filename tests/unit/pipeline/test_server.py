"""How `race submit` gets in: private authorities, the token and the namespace of a pod."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, server


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pod, and nothing set."""
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(server, "TOKEN", tmp_path / "token")
    monkeypatch.setattr(server, "NAMESPACE", tmp_path / "namespace")


@pytest.fixture
def authority(kubeflow: Any, certificate: tuple[Path, Path]) -> Path:
    """The certificate of the server, which speaks TLS now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    kubeflow.server.socket = context.wrap_socket(kubeflow.server.socket, server_side=True)
    kubeflow.host = kubeflow.host.replace("http:", "https:")
    return certificate[0]


def race(kubeflow: Any, *arguments: str) -> int:
    return cli.main(["submit", "--local-images", "--host", kubeflow.host, *arguments])


def test_an_unknown_authority_is_refused_at_once(kubeflow, authority, capsys) -> None:
    assert race(kubeflow) == 4
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the server's certificate is not trusted (self-signed certificate) (1 attempt)" in error
    assert error.endswith("Name the file with the authority's certificate: --ca-file")
    assert not kubeflow.requests


@pytest.mark.parametrize("how", ["--ca-file", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_private_authority_is_trusted(kubeflow, authority, how, monkeypatch) -> None:
    given = ["--ca-file", str(authority)] if how == "--ca-file" else []
    if not given:
        monkeypatch.setenv(how, str(authority))
    assert race(kubeflow, "--wait", *given) == 0
    assert len(kubeflow.runs) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file or directory"), ("hello", "it holds no certificates in PEM")],
)
def test_a_file_without_certificates_is_one_line(kubeflow, tmp_path, content, says, capsys) -> None:
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    assert race(kubeflow, "--ca-file", str(file)) == 2
    hint = "Give the authority's certificate"
    assert capsys.readouterr().err == f"error: --ca-file {file}: {says}. {hint}\n"
    assert not kubeflow.requests


@pytest.mark.parametrize("how", ["a pod's", "named"])
def test_the_token_of_a_pod_is_found(kubeflow, how, tmp_path, monkeypatch) -> None:
    file = tmp_path / ("token" if how == "a pod's" else "other")
    file.write_text("b3rt\n")
    if how == "named":
        (tmp_path / "token").write_text("not this one")
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    kubeflow.token = "b3rt"
    assert race(kubeflow) == 0


def test_a_token_that_is_given_goes_first(kubeflow, tmp_path) -> None:
    (tmp_path / "token").write_text("a pod's")
    (tmp_path / "mine").write_text("mine")
    kubeflow.token = "mine"
    assert race(kubeflow, "--token-file", str(tmp_path / "mine")) == 0


def test_the_namespace_of_a_pod_is_found(kubeflow, tmp_path) -> None:
    kubeflow.multi_user = True
    assert race(kubeflow) == 2
    (tmp_path / "namespace").write_text("team\n")
    assert race(kubeflow) == 0
    assert kubeflow.experiments[0]["namespace"] == "team"
    assert race(kubeflow, "--namespace", "other", "--experiment", "other") == 0
    assert kubeflow.experiments[1]["namespace"] == "other"
