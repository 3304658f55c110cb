"""The calls to a server of Kubeflow Pipelines: what a submission makes, and what runs tell.

Runs are asked for by the v2beta1 API. It never says why a step failed or waits; that is in the
run's workflow, which only the v1beta1 API hands out, and in the logs of v1alpha1.
"""

import contextlib
import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import kfp
import kfp_server_api
import urllib3

from components.common import strict_json
from components.common.errors import ConfigError
from components.common.retry import AttemptError, Patience, retry
from components.common.transfer import root_of, told, untrusted
from pipeline.answers import AnswerError, limit_time, no_answer, quiet, refuse_errors
from pipeline.server import Server, own_namespace

Result = TypeVar("Result")

# Half a minute to a whole one: a restarting server is back by then.
PATIENCE = Patience(attempts=6, first_wait=2.0)
NOWHERE = "00000000-0000-0000-0000-000000000000"  # no pipeline has this id
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
GOING = ("PENDING", "RUNNING", "CANCELING", "PAUSED")
PAGE = 100  # runs that are asked for at once
LOG_TAIL = 1 << 16  # bytes at the end of a log: what failed is said there


@dataclass(frozen=True)
class Run:
    """A run as the server tells of it; `state` is empty while it takes the run up.

    `history` has the states that it had, and `tasks` the API's own task details; neither these nor
    `parameters` are in lists of runs. `finished` is empty until it ends; `pipeline` is an id.
    """

    run_id: str
    name: str
    created: str
    state: str
    history: tuple[str, ...]
    parameters: Mapping[str, Any]
    tasks: Sequence[Mapping[str, Any]]
    finished: str = ""
    pipeline: str = ""
    archived: bool = False

    @property
    def canceled(self) -> bool:
        """Whether someone has ended it since it was last started: it is FAILED all the same."""
        starts = [i for i, state in enumerate(self.history) if state in ("PENDING", "RUNNING")]
        return self.state == "CANCELED" or (
            "CANCELING" in self.history[starts[-1] if starts else 0 :]
        )

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "Run":
        config = answer.get("runtime_config") or {}
        details = answer.get("run_details") or {}
        version = answer.get("pipeline_version_reference") or {}
        state = answer.get("state") or ""
        return cls(
            run_id=answer.get("run_id") or "",
            name=answer.get("display_name") or "",
            created=answer.get("created_at") or "",
            state=state,
            history=tuple(h.get("state") or "" for h in answer.get("state_history") or []),
            parameters=config.get("parameters") or {},
            tasks=details.get("task_details") or [],
            # Until then the server has the beginning of time there.
            finished=(answer.get("finished_at") or "") if state in ENDED else "",
            pipeline=version.get("pipeline_id") or "",
            archived=answer.get("storage_state") == "ARCHIVED",
        )


class Api:
    """The calls that submissions and runs need.

    What is transient is tried again, so each call either only reads, or looks first whether an
    earlier attempt has already made what it should make.

    Raises:
        ConfigError: the server is no Kubeflow Pipelines, refuses the token, or wants a namespace.
        AnswerError: what answers is a gateway, say.
        TransferError: it cannot be reached, or goes on failing.
    """

    def __init__(self, server: Server, patience: Patience | None = None) -> None:
        self.server = server
        self._patience = patience or PATIENCE
        self._token = server.token()
        configuration = kfp_server_api.Configuration(host=server.host.rstrip("/"))
        if self._token:
            configuration.api_key = {"authorization": self._token}
            configuration.api_key_prefix = {"authorization": "Bearer"}
        if server.ca_file:
            configuration.ssl_ca_cert = str(server.ca_file)
        # kfp.Client asks for the server's health too, but hides why that fails behind half a minute
        # of tracebacks.
        probe = kfp_server_api.ApiClient(configuration)
        limit_time(probe)
        refuse_errors(probe)
        self._configuration = configuration
        healthz = kfp_server_api.HealthzServiceApi(probe)
        health, _, headers = self._call(healthz.healthz_service_get_healthz_with_http_info)
        if "json" not in headers.get("content-type", ""):
            raise ConfigError(
                f"{server.host} answers, but not as Kubeflow Pipelines does",
                hint="Check --host, and whether a log-in stands before it (--token-file)",
            )
        if health.multi_user and not server.namespace:
            server = self.server = dataclasses.replace(server, namespace=own_namespace())
        if health.multi_user and not server.namespace:
            raise ConfigError(
                f"{server.host} serves many users", hint="Give your profile's --namespace"
            )
        self.version = _version(probe.last_response.data)
        self.multi_user = bool(health.multi_user)
        self._client = self._call(
            lambda: kfp.Client(
                host=server.host,
                namespace=server.namespace,
                existing_token=self._token or None,
                ssl_ca_cert=configuration.ssl_ca_cert,
            )
        )
        self._http = self._client._run_api.api_client
        limit_time(self._http)
        refuse_errors(self._http)
        self._configuration = self._client._existing_config

    def pipeline_version(self, package: Path, name: str, kind: str = "") -> tuple[str, str]:
        """Ids of the pipeline of that name and of its version with this very content.

        Uploads them if need be. `kind` begins the version's name, a digest ends it.
        """
        version = kind + hashlib.sha256(package.read_bytes()).hexdigest()[:12]
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

    def may_start(self) -> bool | None:
        """Whether this user may start runs; None where the server does not let that be seen.

        It is asked for a run of what is not there: the server looks at the right to create runs
        before it looks for the pipeline (createRun in its run_server.go), and makes nothing.

        Raises:
            ConfigError: it refuses it.
        """
        namespace = self.server.namespace or None
        found = self._call(
            lambda: self._client.list_experiments(page_size=1, namespace=namespace).experiments
        )
        if not self.multi_user:
            return True
        if not found:
            return None
        nothing = {"pipeline_id": NOWHERE, "pipeline_version_id": NOWHERE}
        run = {"display_name": "race doctor", "pipeline_version_reference": nothing}
        run["experiment_id"] = found[0].experiment_id

        def ask() -> bool | None:
            try:
                self._client._run_api.run_service_create_run(run=run)
            except kfp_server_api.ApiException as error:
                if error.status in (401, 403):
                    raise
                said = str(error.body)
                return True if NOWHERE in said or "fetching manifest" in said else None
            return None

        return self._call(ask)

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

    def run(self, run_id: str) -> Run:
        """The run as it stands."""
        path = "/apis/v2beta1/runs/{run}"
        return self._call(lambda: Run.of(self._get(path, run=run_id, response_type="object")))

    def runs(
        self,
        experiment: str = "",
        limit: int = 20,
        wanted: Callable[[Run], bool] = lambda run: True,
    ) -> list[Run]:
        """The newest runs that are wanted, of one experiment if its id is given.

        They come without inputs and steps.
        """
        found: list[Run] = []
        token = ""
        while len(found) < limit:
            page = self._call(
                functools.partial(
                    self._client.list_runs,
                    page_token=token,
                    page_size=PAGE,
                    sort_by="created_at desc",
                    experiment_id=experiment or None,
                    namespace=self.server.namespace or None,
                )
            )
            listed = map(Run.of, self._http.sanitize_for_serialization(page.runs or []))
            found += filter(wanted, listed)
            token = page.next_page_token or ""
            if not token:
                break
        return found[:limit]

    def pipeline(self, name: str) -> str:
        """Id of the pipeline of that name; an empty string where there is none."""
        namespace = self.server.namespace or None
        found = self._call(
            lambda: self._client.list_pipelines(namespace=namespace, filter=_named(name)).pipelines
        )
        return self._identity(found[0], "pipeline_id") if found else ""

    def manifest(self, run_id: str) -> str:
        """The run's Argo workflow, in JSON; an empty string where the server hands none out."""

        def asked() -> str:
            answer = self._get("/apis/v1beta1/runs/{run}", run=run_id, response_type="object")
            return str(answer["pipeline_runtime"]["workflow_manifest"])

        return self._perhaps(asked)

    def log(self, run_id: str, node: str, tail: int = LOG_TAIL) -> str:
        """The end, so many bytes, of the log of a workflow's pod; "" where there is none."""

        def asked() -> str:
            path = "/apis/v1alpha1/runs/{run}/nodes/{node}/log"
            response = self._get(path, run=run_id, node=node, _preload_content=False)
            end = b""
            try:
                for part in response.stream(LOG_TAIL):
                    end = (end + part)[-tail:]
            finally:
                response.close()
            # A log that is gone is told of with status 200.
            return "" if end.startswith(b'{"error_message"') else end.decode(errors="replace")

        return self._perhaps(asked)

    def retry(self, run_id: str) -> None:
        """Run again what failed in a run that has ended; it keeps its id.

        Raises:
            ConfigError: it cannot be retried: it did not fail, or is not there.
        """
        self._change(run_id, self._client._run_api.run_service_retry_run, 409, GOING)

    def terminate(self, run_id: str) -> None:
        """End a run; one that has ended already is as good."""
        self._change(run_id, self._client.terminate_run, 400, ENDED)

    def delete(self, run_id: str) -> None:
        """Remove the server's record of a run; one that is gone already is as good."""

        def remove() -> None:
            try:
                self._client.delete_run(run_id)
            except kfp_server_api.ApiException as error:
                if error.status != 404:
                    raise

        self._call(remove)

    def _change(
        self, run_id: str, call: Callable[..., Any], refused: int, done: tuple[str, ...]
    ) -> None:
        """Change a run's state. `refused` is the status where it is in another state already."""

        def change() -> None:
            try:
                call(run_id=run_id)
            except kfp_server_api.ApiException as error:
                if error.status != refused:
                    raise
                # The answer to an earlier attempt may be lost.
                if self.run(run_id).state not in done:
                    raise ConfigError(f"run {run_id}: {told(error.body, error.reason)}") from error

        self._call(change)

    def _get(self, path: str, *, response_type: str | None = None, **named: Any) -> Any:
        """What the generated client has no function for, with its session and its token."""
        preload = named.pop("_preload_content", True)
        return self._http.call_api(
            path,
            "GET",
            named,
            response_type=response_type,
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            _preload_content=preload,
        )

    def _perhaps(self, function: Callable[[], str]) -> str:
        """What an older server, a proxy or a missing right may withhold: then an empty string."""
        try:
            with quiet():
                return function()
        except (
            AnswerError,
            AttributeError,
            LookupError,
            OSError,
            TypeError,
            ValueError,
            kfp_server_api.ApiException,
            urllib3.exceptions.HTTPError,
        ):
            return ""

    def _identity(self, answer: Any, name: str) -> str:
        found = getattr(answer, name, None)
        if isinstance(found, str) and re.fullmatch(r"[\w.:-]+", found):
            return found
        said = told(self._http.last_response.data) or "nothing that is known"
        raise no_answer(self.server.host, f"without a {name}: {said}")

    def _call(self, function: Callable[[], Result]) -> Result:
        def attempt() -> Result:
            try:
                with quiet():
                    return function()
            except kfp_server_api.ApiException as error:
                if error.status == 401 and self._renew_token():
                    return attempt()
                raise self._refused(error) from error
            except (urllib3.exceptions.HTTPError, OSError, TimeoutError) as error:
                if why := untrusted(error):
                    hint = "Name the file with the authority's certificate: --ca-file"
                    raise AttemptError(why, passes=False, hint=hint) from error
                raise AttemptError(root_of(error)) from error
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                host = self.server.host
                raise no_answer(host, f"with what cannot be read: {error}") from error

        return retry(
            attempt,
            where=f"{self.server.host} cannot be reached",
            patience=self._patience,
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
            hint = "Check that --host is the address of Kubeflow Pipelines"
            if "fetch run" in message:
                hint = "Check the run's id"
            return ConfigError(f"{host}: not found: {message}", hint=hint)
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


def _version(health: bytes) -> str:
    """What the server calls its version, which the generated client drops; "" if it does not."""
    with contextlib.suppress(AttributeError, ValueError):
        tag = strict_json.loads(health).get("tag_name")
        return tag if isinstance(tag, str) and tag != "unknown" else ""
    return ""


def _named(name: str) -> str:
    """A filter of the API for things with this display name."""
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return strict_json.dumps({"predicates": [predicate]})
