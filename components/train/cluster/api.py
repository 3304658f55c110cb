"""The calls to Kubernetes that a training on several nodes needs, and what their errors mean."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import kubernetes
import urllib3

from components.common.errors import ConfigError, TransferError
from components.common.retry import AttemptError, Patience, retry
from components.common.transfer import root_of, told
from components.train.cluster import manifest
from components.train.cluster.manifest import API_VERSION, GROUP, PLURAL

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MANIFESTS = "pipeline/manifests"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

# Some five minutes: so long an upgrade of the control plane takes. Training goes on meanwhile.
PATIENCE = Patience(attempts=14, connect=10.0, read=60.0, longest_wait=30.0)

# (verb, resource, subresource) besides those for the job itself
_POD_RIGHTS = (("get", "pods", ""), ("list", "pods", ""), ("get", "pods", "log"))
_JOB_VERBS = ("create", "get", "delete")

_PASSING = {408, 425, 429, 500, 502, 503, 504}


class AnswerError(Exception):
    """The API server refused a request in a way that the caller knows how to handle.

    `status` is HTTP's: 400, 404, 409, 410 or 422.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class CutError(Exception):
    """A log's connection was cut."""


class Api:
    """TrainJobs, in one namespace.

    What passes is tried again, with growing waits.

    Args:
        namespace: "" is that of this pod, or of the kubeconfig's context.

    Raises:
        ConfigError: there is no access to a cluster; or it refuses the token, or lacks a right.
        TransferError: the API server cannot be reached, or goes on failing.
    """

    def __init__(self, namespace: str = "", patience: Patience = PATIENCE) -> None:
        self._patience = patience
        self._client, own = _connect()
        self.namespace = namespace or own
        self.host = self._client.configuration.host

    # What has to be there

    def require_access(self, runtime: str) -> None:
        """See that this pod may do what it will have to, and that the cluster knows TrainJobs.

        Args:
            runtime: the ClusterTrainingRuntime that the job refers to.

        Raises:
            ConfigError: all rights that are missing; or Trainer, or the runtime, is not there.
        """
        try:
            self._request("GET", f"/apis/{API_VERSION}", "read the API's kinds")
        except AnswerError as error:
            raise ConfigError(
                f"the cluster does not know {PLURAL}.{API_VERSION}",
                hint=f"Install {manifest.INSTALLED_BY}",
            ) from error
        wanted = [(verb, GROUP, PLURAL, "") for verb in _JOB_VERBS]
        wanted += [(verb, "", resource, below) for verb, resource, below in _POD_RIGHTS]
        missing = [right for right in wanted if not self._may(*right)]
        if missing:
            rights = ", ".join(
                f"{verb} {resource}{'/' + below if below else ''}{'.' + group if group else ''}"
                for verb, group, resource, below in missing
            )
            raise ConfigError(
                f"{self._who()} lacks rights in namespace {self.namespace}: {rights}",
                hint=f"Bind the Role of {MANIFESTS} to it, see the README there",
            )
        path = f"/apis/{API_VERSION}/clustertrainingruntimes/{runtime}"
        if self._may("get", GROUP, "clustertrainingruntimes", ""):
            try:
                self._request("GET", path, "read the runtime")
            except AnswerError as error:
                raise ConfigError(
                    f"the cluster has no ClusterTrainingRuntime {runtime}",
                    hint=f"Apply {MANIFESTS}, or set cluster_node_runtime to one that is there",
                ) from error

    def _may(self, verb: str, group: str, resource: str, below: str) -> bool:
        attributes = {
            "namespace": self.namespace,
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": below,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        try:
            answer = self._request("POST", path, "ask for its rights", body=body)
        except (AnswerError, ConfigError):
            return True  # whoever may not ask will be told when it matters
        return bool(answer["status"]["allowed"])

    def _who(self) -> str:
        """Who the cluster takes this pod for; it does not always tell."""
        kind = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        with contextlib.suppress(AnswerError, ConfigError, TransferError, KeyError):
            status = self._request("POST", path, "ask for its name", body=kind)["status"]
            name: str = status["userInfo"]["username"]
            return name.replace("system:serviceaccount:", "service account ")
        return "this pod's service account"

    # The job

    def create(self, body: Mapping[str, Any]) -> None:
        """Create the job.

        Raises:
            AnswerError: 409: there is one of its name.
            ConfigError: the cluster does not accept it; a field it does not know is refused, too.
        """
        strict = [("fieldValidation", "Strict")]
        try:
            self._request("POST", self._jobs(), "create the job", query=strict, body=body)
        except AnswerError as error:
            if error.status == 409:
                raise
            raise ConfigError(
                f"the cluster refuses the {manifest.KIND}: {error.message}",
                hint=f"It takes {manifest.INSTALLED_BY}; check the cluster_ parameters",
            ) from error

    def get(self, name: str, patience: Patience | None = None) -> dict[str, Any] | None:
        """The job as it stands; None if there is none."""
        path = f"{self._jobs()}/{name}"
        try:
            job: dict[str, Any] = self._request("GET", path, "read the job", patience=patience)
        except AnswerError as error:
            if error.status != 404:
                raise self._unexpected(error) from error
            return None
        return job

    def delete(self, name: str, patience: Patience | None = None) -> None:
        """Delete the job, which is there until its pods are gone; it may be gone already."""
        # In the foreground: in the background a job of the same name could be made while the pods
        # of this one still train.
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        path = f"{self._jobs()}/{name}"
        try:
            self._request("DELETE", path, "delete the job", body=body, patience=patience)
        except AnswerError as error:
            if error.status not in (404, 409):
                raise self._unexpected(error) from error

    def _jobs(self) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/{PLURAL}"

    # Its pods

    def pods(self, name: str) -> list[dict[str, Any]]:
        """The job's pods, newest first; a restarted group has left some behind, perhaps."""
        query = [("labelSelector", f"{manifest.JOB_LABEL}={name}")]
        try:
            found: list[dict[str, Any]] = self._request(
                "GET", self._pods(), "list the pods", query=query
            )["items"]
        except AnswerError as error:
            raise self._unexpected(error) from error
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"], reverse=True)

    def owners(self) -> list[dict[str, Any]]:
        """What owns this very pod, as the owner of what it makes; none where that is not known.

        In a pipeline it is the run's workflow: with that the job goes as well, should this pod be
        killed and never come back.
        """
        return [
            {key: owner[key] for key in ("apiVersion", "kind", "name", "uid")}
            for owner in self._this_pod()["metadata"].get("ownerReferences", [])
        ]

    def moving(self) -> bool:
        """Whether this pod ends because its machine does, and not because it is to end."""
        conditions = self._this_pod().get("status", {}).get("conditions") or []
        return any(c["type"] == "DisruptionTarget" and c["status"] == "True" for c in conditions)

    def _this_pod(self) -> dict[str, Any]:
        """As the cluster has it; nothing is known of it outside of one."""
        name = os.environ.get("HOSTNAME", "")
        if SERVICE_ACCOUNT.is_dir() and name:
            with contextlib.suppress(AnswerError):
                pod: dict[str, Any] = self._request(
                    "GET", f"{self._pods()}/{name}", "read this pod"
                )
                return pod
        return {"metadata": {}}

    @contextlib.contextmanager
    def log(
        self,
        pod: str,
        *,
        since: str = "",
        follow: bool = False,
        previous: bool = False,
        silence: float = 60.0,
    ) -> Iterator[Iterator[bytes]]:
        """The lines of the log of a pod that trains, with their times before them.

        The last one lacks its line end if the log does. It tries once.

        Args:
            since: a time, in whole seconds; lines before it are left out.
            follow: wait for more until the container ends; at most `silence` seconds for a line.
            previous: of the container before its last restart.

        Raises:
            AnswerError: there is no such log, or not yet.
            CutError: by the iterator: the connection was cut.
            TransferError: the API server cannot be reached.
        """
        query = [("container", manifest.CONTAINER), ("timestamps", "true")]
        given = {
            "sinceTime": since,
            "follow": "true" if follow else "",
            "previous": "true" if previous else "",
        }
        query += [(key, value) for key, value in given.items() if value]
        timeout = (self._patience.connect, silence)
        path, what = f"{self._pods()}/{pod}/log", "read the log"
        try:
            response = self._once(
                lambda: self._call("GET", path, query, None, timeout, whole=False), what
            )
        except (AttemptError, _TokenError) as error:
            raise TransferError(f"{self.host} does not let this pod {what}: {error}") from error
        try:
            yield _lines(response)
        finally:
            response.close()  # not to the pool: more may come on this connection

    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    # How it is asked

    def _request(
        self,
        method: str,
        path: str,
        what: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        patience: Patience | None = None,
    ) -> Any:
        """The answer's content, after as many attempts as it takes."""
        patience = patience or self._patience

        def call() -> Any:
            timeout = (patience.connect, patience.read)
            return self._call(method, path, query, body, timeout, whole=True)

        def attempt() -> Any:
            try:
                return self._once(call, what)
            except _TokenError:
                self._client = _connect()[0]  # whoever issues tokens renews them, in the same file
                return self._once(call, what)

        try:
            return retry(
                attempt,
                where=f"{self.host} does not let this pod {what}",
                patience=patience,
                hint="Check that the API server runs and can be reached from here",
                warn_from=3,
            )
        except _TokenError as error:
            raise ConfigError(
                f"{self.host} refuses the token: 401 {error}",
                hint="It has expired, or is of another cluster; start the step again",
            ) from error

    def _call(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: Any,
        timeout: tuple[float, float],
        *,
        whole: bool,
    ) -> Any:
        # The methods of the client's generated classes lack the log's `sinceTime`.
        return self._client.call_api(
            path,
            method,
            query_params=list(query),
            header_params={"Accept": "application/json, */*", "Content-Type": "application/json"},
            body=body,
            response_type="object",
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _preload_content=whole,
            _request_timeout=timeout,
        )

    def _once(self, call: Callable[[], Result], what: str) -> Result:
        """One attempt, with its errors as they are known here."""
        try:
            return call()
        except kubernetes.client.ApiException as error:
            message = told(error.body, error.reason)
            if error.status == 401:
                raise _TokenError(message) from error
            if error.status == 403:
                raise ConfigError(
                    f"this pod may not {what} in namespace {self.namespace}: 403 {message}",
                    hint=f"Bind the Role of {MANIFESTS} to its service account",
                ) from error
            if error.status in _PASSING:
                headers = error.headers or {}
                asked = str(headers.get("Retry-After", ""))
                wait = float(asked) if asked.isdecimal() else None
                raise AttemptError(f"it answered {error.status} {message}", wait=wait) from error
            if not error.status:  # TLS
                raise AttemptError(message) from error
            raise AnswerError(error.status, message) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise AttemptError(root_of(error)) from error

    def _unexpected(self, error: AnswerError) -> ConfigError:
        return ConfigError(f"{self.host} refused a request: {error.status} {error.message}")


class _TokenError(Exception):
    """The API server does not accept the token."""


def _connect() -> tuple[Any, str]:
    """A client, and the namespace that it is at home in."""
    configuration = kubernetes.client.Configuration()
    configuration.retries = False  # attempts are counted in one place
    chosen = os.environ.get("KUBECONFIG")
    try:
        if SERVICE_ACCOUNT.is_dir() and not chosen:
            kubernetes.config.load_incluster_config(client_configuration=configuration)
            namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
        else:
            # The library itself looks at the variable only once, when it is imported.
            kubernetes.config.load_kube_config(chosen, client_configuration=configuration)
            _, context = kubernetes.config.list_kube_config_contexts(chosen)
            namespace = context["context"].get("namespace", "default")
    except (kubernetes.config.ConfigException, OSError) as error:
        raise ConfigError(
            f"no access to a Kubernetes cluster: {error}",
            hint="In a pod, let it have its service account's token; elsewhere set KUBECONFIG",
        ) from error
    return kubernetes.client.ApiClient(configuration), namespace


def _lines(response: Any) -> Iterator[bytes]:
    """The lines of a body, as soon as they come; a last one may lack its end."""
    pending = b""
    try:
        for chunk in response.stream(1 << 16, decode_content=False):
            *lines, pending = (pending + chunk).split(b"\n")
            yield from (line + b"\n" for line in lines)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise CutError(root_of(error)) from error
    if pending:
        yield pending
