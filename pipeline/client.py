"""The calls to a server of Kubeflow Pipelines: what a submission makes, and what runs tell.

Runs are asked for by the v2beta1 API. It never says why a step failed or waits; that is in the
run's workflow, which only the v1beta1 API hands out, and in the logs of v1alpha1. kfp's own client
knows the first of the three alone, waits without end, prints, and takes an error that has the
status 200 for a thing without content.
"""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import certifi
import urllib3

from components.common import strict_json
from components.common.errors import ConfigError, TransferError
from components.common.retry import AttemptError, Patience, retry
from components.common.transfer import root_of, told, untrusted
from pipeline.server import Server, own_namespace

Result = TypeVar("Result")

# Half a minute to a whole one: a restarting server is back by then.
PATIENCE = Patience(attempts=6, first_wait=2.0)
NOWHERE = "00000000-0000-0000-0000-000000000000"  # no pipeline has this id
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
GOING = ("PENDING", "RUNNING", "CANCELING", "PAUSED")
PAGE = 100  # runs that are asked for at once
LOG_TAIL = 1 << 16  # bytes at the end of a log: what failed is said there

# What an answer raises that is none of Kubeflow Pipelines.
_UNREADABLE = (AttributeError, LookupError, TypeError, ValueError)


class AnswerError(TransferError):
    """The server's answer is no answer of Kubeflow Pipelines, though its status is 200."""


def no_answer(host: str, how: str) -> AnswerError:
    return AnswerError(
        f"{host} answered {how}",
        hint="Check --host, and what stands between it and Kubeflow Pipelines",
    )


class _RefusedError(Exception):
    """An answer with the status of an error."""

    def __init__(self, status: int, reason: str, body: str) -> None:
        self.status, self.reason, self.body = status, reason, body
        self.said = told(body, reason)
        super().__init__(self.said)


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
        self._http = urllib3.PoolManager(
            ca_certs=str(server.ca_file or certifi.where()),
            timeout=urllib3.Timeout(connect=self._patience.connect, read=self._patience.read),
            # Attempts are counted in one place.
            retries=urllib3.Retry(
                connect=0, read=0, other=0, redirect=3, respect_retry_after_header=False
            ),
        )
        health = self._call(self._health)
        self.version = str(health.get("tag_name") or "")
        self.multi_user = bool(health.get("multi_user"))
        if self.multi_user and not server.namespace:
            self.server = dataclasses.replace(server, namespace=own_namespace())
            if not self.server.namespace:
                raise ConfigError(
                    f"{server.host} serves many users", hint="Give your profile's --namespace"
                )

    def _health(self) -> Mapping[str, Any]:
        health = None
        with contextlib.suppress(ValueError):
            health = self._request("GET", "v2beta1/healthz")
        if not isinstance(health, dict):
            raise ConfigError(
                f"{self.server.host} answers, but not as Kubeflow Pipelines does",
                hint="Check --host, and whether a log-in stands before it (--token-file)",
            )
        return health

    # What a submission makes

    def pipeline_version(self, package: str, name: str, kind: str = "") -> dict[str, str]:
        """The pipeline of that name, and its version with this very content, as a run names them.

        Uploads them if need be. `kind` begins the version's name, a digest ends it.
        """
        version = kind + hashlib.sha256(package.encode()).hexdigest()[:12]
        namespace = self.server.namespace
        file = {"uploadfile": ("pipeline.yaml", package)}
        path = "v2beta1/pipelines"
        pipeline = self._made(
            "pipeline",
            path,
            name,
            lambda: self._post(f"{path}/upload", file=file, name=name, namespace=namespace),
            namespace=namespace,
        )
        made = self._made(
            "pipeline_version",
            f"{path}/{pipeline}/versions",
            version,
            lambda: self._post(
                f"{path}/upload_version", file=file, name=version, pipelineid=pipeline
            ),
        )
        return {"pipeline_id": pipeline, "pipeline_version_id": made}

    def experiment(self, name: str) -> str:
        """Id of the experiment with this name, which is made where there is none."""
        path, namespace = "v2beta1/experiments", self.server.namespace
        body = {"display_name": name, "namespace": namespace}
        return self._made(
            "experiment", path, name, lambda: self._post(path, body), namespace=namespace
        )

    def start(self, experiment: str, name: str, what: Mapping[str, Any]) -> str:
        """Start a run of `what`, in the API's words; `name` has to be unique. Its id."""
        body = {"experiment_id": experiment, "display_name": name, **what}
        path = "v2beta1/runs"
        return self._made(
            "run", path, name, lambda: self._post(path, body), experiment_id=experiment
        )

    def schedule(self, experiment: str, name: str, what: Mapping[str, Any], cron: str) -> str:
        """Start a run whenever `cron` (six fields, from seconds on) says; the schedule's id."""
        body = {
            "experiment_id": experiment,
            "display_name": name,
            "trigger": {"cron_schedule": {"cron": cron}},
            "mode": "ENABLE",
            "max_concurrency": 1,
            "no_catchup": True,
            **what,
        }
        path = "v2beta1/recurringruns"
        return self._made(
            "recurring_run", path, name, lambda: self._post(path, body), experiment_id=experiment
        )

    def may_start(self) -> bool | None:
        """Whether this user may start runs; None where the server does not let that be seen.

        It is asked for a run of what is not there: the server looks at the right to create runs
        before it looks for the pipeline (createRun in its run_server.go), and makes nothing.

        Raises:
            ConfigError: it refuses it.
        """
        query = {"page_size": "1", "namespace": self.server.namespace}
        found = self._call(lambda: self._list("experiments", "v2beta1/experiments", query))
        if not self.multi_user:
            return True
        if not found:
            return None
        nothing = {"pipeline_id": NOWHERE, "pipeline_version_id": NOWHERE}
        run = {"display_name": "race doctor", "pipeline_version_reference": nothing}
        run["experiment_id"] = self._identity(found[0], "experiment_id")

        def ask() -> bool | None:
            try:
                self._post("v2beta1/runs", run)
            except _RefusedError as error:
                if error.status in (401, 403):
                    raise
                return NOWHERE in error.body or "fetching manifest" in error.body or None
            return None

        return self._call(ask)

    # What becomes of runs

    def run(self, run_id: str) -> Run:
        """The run as it stands."""
        return self._call(lambda: Run.of(self._request("GET", f"v2beta1/runs/{run_id}")))

    def runs(
        self,
        experiment: str = "",
        limit: int = 20,
        wanted: Callable[[Run], bool] = lambda run: True,
    ) -> list[Run]:
        """The newest runs that are wanted, of one experiment if its id is given.

        They come without inputs and steps.
        """
        of = {"experiment_id": experiment} if experiment else {"namespace": self.server.namespace}
        query = {**of, "page_size": str(PAGE), "sort_by": "created_at desc"}
        found: list[Run] = []

        def page() -> str:
            answer = self._request("GET", "v2beta1/runs", **query)
            found.extend(filter(wanted, [Run.of(run) for run in answer.get("runs") or []]))
            return str(answer.get("next_page_token") or "")

        while token := self._call(page):
            if len(found) >= limit:
                break
            query["page_token"] = token
        return found[:limit]

    def pipeline(self, name: str) -> str:
        """Id of the pipeline of that name; an empty string where there is none."""
        query = {"filter": _named(name), "namespace": self.server.namespace}
        found = self._call(lambda: self._list("pipelines", "v2beta1/pipelines", query))
        return self._identity(found[0], "pipeline_id") if found else ""

    def manifest(self, run_id: str) -> str:
        """The run's Argo workflow, in JSON; an empty string where the server hands none out."""

        def asked() -> str:
            answer = self._request("GET", f"v1beta1/runs/{run_id}")
            return str(answer["pipeline_runtime"]["workflow_manifest"])

        return self._perhaps(asked)

    def log(self, run_id: str, node: str, tail: int = LOG_TAIL) -> str:
        """The end, so many bytes, of the log of a workflow's pod; "" where there is none."""

        def asked() -> str:
            path = f"v1alpha1/runs/{run_id}/nodes/{quote(node, safe='')}/log"
            end = b""
            with self._answer("GET", path) as response:
                for part in response.stream(LOG_TAIL):
                    end = (end + part)[-tail:]
            # A log that is gone is told of with status 200.
            return "" if end.startswith(b'{"error_message"') else end.decode(errors="replace")

        return self._perhaps(asked)

    def retry(self, run_id: str) -> None:
        """Run again what failed in a run that has ended; it keeps its id.

        Raises:
            ConfigError: it cannot be retried: it did not fail, or is not there.
        """
        self._change(run_id, "retry", 409, GOING)

    def terminate(self, run_id: str) -> None:
        """End a run; one that has ended already is as good."""
        self._change(run_id, "terminate", 400, ENDED)

    def delete(self, run_id: str) -> None:
        """Remove the server's record of a run; one that is gone already is as good."""

        def remove() -> None:
            try:
                self._request("DELETE", f"v2beta1/runs/{run_id}")
            except _RefusedError as error:
                if error.status != 404:
                    raise

        self._call(remove)

    def _change(self, run_id: str, verb: str, refused: int, done: tuple[str, ...]) -> None:
        """Change a run's state. `refused` is the status where it is in another state already."""

        def change() -> None:
            try:
                self._post(f"v2beta1/runs/{run_id}:{verb}")
            except _RefusedError as error:
                if error.status != refused:
                    raise
                # The answer to an earlier attempt may be lost.
                if self.run(run_id).state not in done:
                    raise ConfigError(f"run {run_id}: {error.said}") from error

        self._call(change)

    # How it is asked

    def _made(self, kind: str, path: str, name: str, make: Callable[[], Any], **query: str) -> str:
        """Id of the thing of this kind and display name, which is made where there is none."""
        listed = "recurringRuns" if kind == "recurring_run" else f"{kind}s"

        def look_first() -> str:
            found = self._list(listed, path, {"filter": _named(name), **query})
            return self._identity(found[0] if found else make(), f"{kind}_id")

        return self._call(look_first)

    def _list(self, name: str, path: str, query: Mapping[str, str]) -> Sequence[Any]:
        found = self._request("GET", path, **query).get(name) or []
        if not isinstance(found, list):
            raise TypeError(f"{name} is no list")
        return found

    def _identity(self, answer: Any, name: str) -> str:
        found = answer.get(name) if isinstance(answer, dict) else None
        if isinstance(found, str) and re.fullmatch(r"[\w.:-]+", found):
            return found
        said = told(strict_json.dumps(answer)) or "nothing that is known"
        raise no_answer(self.server.host, f"without a {name}: {said}")

    def _post(self, path: str, body: Any = None, **more: Any) -> Any:
        return self._request("POST", path, body=body, **more)

    def _request(self, method: str, path: str, **what: Any) -> Any:
        """The content of an answer; see `_answer`.

        What failed tells an error too, beside its id.
        """
        response = self._answer(method, path, **what)
        content = response.json()
        named = isinstance(content, dict) and any(name.endswith("_id") for name in content)
        if isinstance(content, dict) and "error" in content and not named:
            raise no_answer(self.server.host, f"with an error: {told(response.data)}")
        return content

    def _answer(
        self, method: str, path: str, *, body: Any = None, file: Any = None, **query: str
    ) -> urllib3.BaseHTTPResponse:
        """What the server answers, to be read: without the statuses of errors.

        Args:
            path: below /apis.
            body: is sent as JSON.
            file: is sent as a form has it.
            query: what is empty is left out.
        """
        asked = urlencode({name: value for name, value in query.items() if value})
        response = self._http.request(
            method,
            f"{self.server.host.rstrip('/')}/apis/{path}{asked and '?'}{asked}",
            json=body,
            fields=file,
            headers={"Authorization": f"Bearer {self._token}"} if self._token else {},
            preload_content=False,
        )
        if response.status >= 300:
            said = response.data.decode(errors="replace")
            raise _RefusedError(response.status, response.reason or "", said)
        return response

    def _perhaps(self, function: Callable[[], str]) -> str:
        """What an older server, a proxy or a missing right may withhold: then an empty string."""
        try:
            return function()
        except (*_UNREADABLE, AnswerError, OSError, _RefusedError, urllib3.exceptions.HTTPError):
            return ""

    def _call(self, function: Callable[[], Result]) -> Result:
        def attempt() -> Result:
            try:
                return function()
            except _RefusedError as error:
                if error.status == 401 and self._renew_token():
                    return attempt()
                raise self._refused(error) from error
            except (urllib3.exceptions.HTTPError, OSError) as error:
                if why := untrusted(error):
                    hint = "Name the file with the authority's certificate: --ca-file"
                    raise AttemptError(why, passes=False, hint=hint) from error
                raise AttemptError(root_of(error)) from error
            except _UNREADABLE as error:
                host = self.server.host
                raise no_answer(host, f"with what cannot be read: {error}") from error

        return retry(
            attempt,
            where=f"{self.server.host} cannot be reached",
            patience=self._patience,
            hint="Check --host, the network, and that the server runs",
            warn_from=2,
        )

    def _refused(self, error: _RefusedError) -> Exception:
        """What the status of an answer means."""
        host = self.server.host
        # 409: another submission has just made the same thing, which is found next time.
        if error.status in (409, 429) or error.status >= 500:
            return AttemptError(f"it answered {error.status} {error.reason}".rstrip())
        if error.status == 404:
            hint = "Check that --host is the address of Kubeflow Pipelines"
            if "fetch run" in error.said:
                hint = "Check the run's id"
            return ConfigError(f"{host}: not found: {error.said}", hint=hint)
        hints = {
            401: "The token is missing, wrong or expired: see --token-file",
            403: "This user lacks the right to do it: see --namespace and --token-file",
        }
        return ConfigError(
            f"{host} refused the request: {error.status} {error.said}",
            hint=hints.get(error.status, ""),
        )

    def _renew_token(self) -> bool:
        """Take the token from its file again; False if it is still the refused one."""
        before, self._token = self._token, self.server.token()
        return self._token != before


def _named(name: str) -> str:
    """A filter of the API for things with this display name."""
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return strict_json.dumps({"predicates": [predicate]})
