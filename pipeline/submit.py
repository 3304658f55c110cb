"""Run the pipeline on a cluster, through the v2beta1 API of Kubeflow Pipelines."""

import contextlib
import hashlib
import io
import logging
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import kfp
import kfp_server_api
import urllib3

from components.common import strict_json
from components.common.errors import ConfigError, RaceError, TransferError
from components.common.files import scratch_folder
from components.common.progress import duration
from components.common.retry import AttemptError, Patience, retry
from components.common.transfer import root_of, told
from pipeline.display import say, step_line
from pipeline.pipeline import NAME
from pipeline.steps import STEPS

Result = TypeVar("Result")

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60  # seconds
# Half a minute to a whole one: a restarting server is back by then.
PATIENCE = Patience(attempts=6, first_wait=2.0)
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
GOING = ("PENDING", "RUNNING", "CANCELING", "PAUSED")
SILENT = 30  # answers without a state, one after the other: a run that was just made gives some


class RunError(RaceError):
    """A run on the cluster ended otherwise than well."""


class AnswerError(TransferError):
    """The server's answer is no answer of Kubeflow Pipelines, though its status is 200."""


@dataclass(frozen=True)
class Server:
    """Where Kubeflow Pipelines answers, and as whom to ask.

    Raises:
        ConfigError: `host` is no http address, or `token_file` does not hold a token.
    """

    host: str
    namespace: str = ""
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError(
                "no Kubeflow Pipelines server is given",
                hint="Give its address as --host https://..., or in KF_PIPELINES_ENDPOINT",
            )
        try:
            address = urllib3.util.parse_url(self.host)
        except urllib3.exceptions.LocationParseError:
            address = urllib3.util.Url()
        if address.scheme not in ("http", "https") or not address.host:
            raise ConfigError(
                f"--host {self.host} is not an address", hint="Write it as https://host or http://"
            )
        self.token()

    def token(self) -> str:
        """The token as the file has it now: whoever issues tokens renews them."""
        if self.token_file is None:
            return ""
        try:
            token = self.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"--token-file {self.token_file}: {reason}") from error
        if not token or any(character.isspace() for character in token):
            raise ConfigError(f"--token-file {self.token_file}: it does not hold one token")
        return token

    def address(self, kind: str, identity: str) -> str:
        """Where the user interface shows a run or a recurring run."""
        return f"{self.host.rstrip('/')}/#/{kind}/details/{identity}"


class Api:
    """The calls that a submission needs.

    What is transient is tried again, so each call either only reads, or looks first whether an
    earlier attempt has already made what it should make.

    Raises:
        ConfigError: the server is no Kubeflow Pipelines, refuses the token, or wants a namespace.
        AnswerError: what answers is a gateway, say.
        TransferError: it cannot be reached, or goes on failing.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._token = server.token()
        configuration = kfp_server_api.Configuration(host=server.host.rstrip("/"))
        if self._token:
            configuration.api_key = {"authorization": self._token}
            configuration.api_key_prefix = {"authorization": "Bearer"}
        # kfp.Client asks for the server's health too, but hides why that fails behind half a minute
        # of tracebacks.
        probe = kfp_server_api.ApiClient(configuration)
        _limit_time(probe)
        _refuse_errors(probe)
        self._configuration = configuration
        healthz = kfp_server_api.HealthzServiceApi(probe)
        health, _, headers = self._call(healthz.healthz_service_get_healthz_with_http_info)
        if "json" not in headers.get("content-type", ""):
            raise ConfigError(
                f"{server.host} answers, but not as Kubeflow Pipelines does",
                hint="Check --host, and whether a log-in stands before it (--token-file)",
            )
        if health.multi_user and not server.namespace:
            raise ConfigError(
                f"{server.host} serves many users", hint="Give your profile's --namespace"
            )
        self._client = self._call(
            lambda: kfp.Client(
                host=server.host,
                namespace=server.namespace,
                existing_token=self._token or None,
            )
        )
        self._http = self._client._run_api.api_client
        _limit_time(self._http)
        _refuse_errors(self._http)
        self._configuration = self._client._existing_config

    def pipeline_version(self, package: Path, name: str) -> tuple[str, str]:
        """Ids of the pipeline of that name and of its version with this very content.

        Uploads them if need be.
        """
        version = hashlib.sha256(package.read_bytes()).hexdigest()[:12]
        namespace = self.server.namespace or None

        def pipeline() -> str:
            found = self._client.list_pipelines(namespace=namespace, filter=_named(name)).pipelines
            made = found[0] if found else None
            made = made or self._client.upload_pipeline(str(package), name, namespace=namespace)
            return self._identity(made, "pipeline_id")

        pipeline_id = self._call(pipeline)

        def of_package() -> str:
            found = self._client.list_pipeline_versions(
                pipeline_id, filter=_named(version)
            ).pipeline_versions
            made = found[0] if found else None
            made = made or self._client.upload_pipeline_version(
                str(package), version, pipeline_id=pipeline_id
            )
            return self._identity(made, "pipeline_version_id")

        return pipeline_id, self._call(of_package)

    def experiment(self, name: str) -> str:
        """Id of the experiment with this name, which is made where there is none."""

        def made() -> str:
            return self._identity(self._client.create_experiment(name), "experiment_id")

        return self._call(made)

    def start(self, experiment: str, name: str, **what: Any) -> str:
        """Start a run; `name` has to be unique. Its id."""

        def run() -> str:
            found = self._client.list_runs(experiment_id=experiment, filter=_named(name)).runs
            made = found[0] if found else self._client.run_pipeline(experiment, name, **what)
            return self._identity(made, "run_id")

        return self._call(run)

    def schedule(self, experiment: str, name: str, cron: str, **what: Any) -> str:
        """Start a run whenever `cron` (six fields, from seconds on) says; the schedule's id."""

        def recurring() -> str:
            found = self._client.list_recurring_runs(
                experiment_id=experiment, filter=_named(name)
            ).recurring_runs
            made = found[0] if found else None
            made = made or self._client.create_recurring_run(
                experiment, name, cron_expression=cron, no_catchup=True, **what
            )
            return self._identity(made, "recurring_run_id")

        return self._call(recurring)

    def run(self, run_id: str) -> Any:
        """The run as it stands, a kfp_server_api.V2beta1Run."""
        return self._call(lambda: self._client.get_run(run_id))

    def _identity(self, answer: Any, name: str) -> str:
        found = getattr(answer, name, None)
        if isinstance(found, str) and re.fullmatch(r"[\w.:-]+", found):
            return found
        said = told(self._http.last_response.data) or "nothing that is known"
        raise _no_answer(self.server.host, f"without a {name}: {said}")

    def _call(self, function: Callable[[], Result]) -> Result:
        def attempt() -> Result:
            try:
                with _quiet():
                    return function()
            except kfp_server_api.ApiException as error:
                if error.status == 401 and self._renew_token():
                    return attempt()
                raise self._refused(error) from error
            except (urllib3.exceptions.HTTPError, OSError, TimeoutError) as error:
                raise AttemptError(root_of(error)) from error
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                host = self.server.host
                raise _no_answer(host, f"with what cannot be read: {error}") from error

        return retry(
            attempt,
            where=f"{self.server.host} cannot be reached",
            patience=PATIENCE,
            hint="Check --host, the network, and that the server runs",
            warn_from=2,
        )

    def _refused(self, error: kfp_server_api.ApiException) -> Exception:
        """What the status of an answer means."""
        host, message = self.server.host, told(error.body, error.reason)
        # 409: another submission has just made the same thing, which is found next time.
        if error.status in (0, 409, 429) or error.status >= 500:
            return AttemptError(f"it answered {error.status} {error.reason or ''}".rstrip())
        if error.status == 404:
            return ConfigError(
                f"{host}: not found: {message}",
                hint="Check that --host is the address of Kubeflow Pipelines",
            )
        hints = {
            401: "The token is missing, wrong or expired: see --token-file",
            403: "This user lacks the right to do it: see --namespace and --token-file",
        }
        return ConfigError(
            f"{host} refused the request: {error.status} {message}",
            hint=hints.get(error.status, ""),
        )

    def _renew_token(self) -> bool:
        """Take the token from its file again; False if it is still the refused one."""
        token = self.server.token()
        if token == self._token:
            return False
        self._token = token
        self._configuration.api_key["authorization"] = token
        return True


def submit(
    api: Api,
    package: str,
    values: Mapping[str, Any],
    *,
    pipeline: str = NAME,
    experiment: str,
    name: str,
    pipeline_root: str = "",
    cron: str = "",
) -> str:
    """Upload the compiled pipeline where the server lacks it, and start a run, or schedule runs.

    `values` are the run's parameters, and `pipeline` is what the pipeline is called there. The same
    submission twice makes two runs of one version.

    Returns:
        The id of the run, or of the recurring run where `cron` is given.
    """
    with scratch_folder() as folder:
        path = folder / "pipeline.yaml"
        path.write_text(package, encoding="utf-8")
        pipeline_id, version_id = api.pipeline_version(path, pipeline)
    what = {
        "pipeline_id": pipeline_id,
        "version_id": version_id,
        "params": dict(values),
        "pipeline_root": pipeline_root or None,
    }
    experiment_id = api.experiment(experiment)
    if cron:
        return api.schedule(experiment_id, name, cron, **what)
    return api.start(experiment_id, name, **what)


def unique_name(profile: str) -> str:
    return f"{profile} {time.strftime('%Y-%m-%d %H:%M:%S')} {uuid.uuid4().hex[:6]}"


def follow(api: Api, run_id: str, *, every: float) -> None:
    """Wait for a run's end, asking `every` seconds, and show each step that starts or ends.

    Raises:
        RunError: it ended otherwise than SUCCEEDED; names the step and the reason where known.
        AnswerError: again and again the server does not say how it stands.
    """
    shown: dict[str, str] = {}
    silent = 0
    while True:
        try:
            run = api.run(run_id)
            if getattr(run, "state", None) not in (*ENDED, *GOING):
                raise _no_answer(api.server.host, f"without the state of run {run_id}")
        except AnswerError:
            if (silent := silent + 1) == SILENT:
                raise
            time.sleep(every)
            continue
        silent = 0
        tasks = _steps(run)
        for name, task in tasks.items():
            if task.state and task.state != shown.get(name) and task.state != "PENDING":
                shown[name] = task.state
                say(step_line(name, _spent(task), task.state.lower()))
        if run.state in ENDED:
            break
        time.sleep(every)
    if run.state != "SUCCEEDED":
        failed = [(n, t) for n, t in tasks.items() if t.state == "FAILED"]
        where = f" in {failed[0][0]}" if failed else ""
        error = (failed[0][1].error if failed else None) or run.error
        why = f": {error.message}" if error and error.message else ""
        raise RunError(
            f"the run {run.state.lower()}{where}{why}",
            hint=f"Its logs: {api.server.address('runs', run_id)}",
        )


def _steps(run: Any) -> dict[str, Any]:
    """The details of the steps, by name, without KFP's drivers and executors.

    In a sweep those of the trials have numbers, in the order in which they were made.
    """
    details = (run.run_details and run.run_details.task_details) or []
    sweep = any(task.display_name == "trials" for task in details)
    found: dict[str, Any] = {}
    for name in STEPS:
        # A step that was tried again has the same parent, that of another trial has not.
        last = {task.parent_task_id: task for task in details if task.display_name == name}
        tasks = sorted(last.values(), key=lambda task: str(task.create_time or ""))
        for number, task in enumerate(tasks, start=1):
            found[f"{name} ({number})" if sweep and STEPS[name].gpu else name] = task
    return found


def _spent(task: Any) -> str:
    if not (task.start_time and task.end_time) or task.end_time <= task.start_time:
        return ""
    return duration((task.end_time - task.start_time).total_seconds())


def _named(name: str) -> str:
    """A filter of the API for things with this display name."""
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return strict_json.dumps({"predicates": [predicate]})


def _no_answer(host: str, how: str) -> AnswerError:
    return AnswerError(
        f"{host} answered {how}",
        hint="Check --host, and what stands between it and Kubeflow Pipelines",
    )


def _refuse_errors(client: Any) -> None:
    """Let a generated client raise AnswerError for an answer of status 200 that tells an error.

    It would make a thing without content of it, or an empty list. What failed tells an error too,
    beside its id.
    """
    deserialize = client.deserialize

    def checked(response: Any, kind: Any) -> Any:
        with contextlib.suppress(ValueError):
            content = strict_json.loads(response.data)
            named = isinstance(content, dict) and any(name.endswith("_id") for name in content)
            if isinstance(content, dict) and "error" in content and not named:
                raise _no_answer(client.configuration.host, f"with an error: {told(response.data)}")
        return deserialize(response, kind)

    client.deserialize = checked


def _limit_time(client: Any) -> None:
    """Give each request of a generated client a time limit; without one it may wait without end."""
    call = client.call_api

    def limited(*arguments: Any, **named: Any) -> Any:
        named["_request_timeout"] = named.get("_request_timeout") or (CONNECT_TIMEOUT, READ_TIMEOUT)
        return call(*arguments, **named)

    client.call_api = limited


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the client prints, warns and logs; its errors say all that matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
