"""What the pods of a job say about the job: which belong to the present attempt, how they ended, what follows.

The rules of this file:

- A pod belongs to the attempt whose number it carries. Pods of earlier attempts are only waited for; what they did has
  been judged, so a failure is counted once however often it is seen.
- A pod that is being deleted is neither a failure nor a success.
- A node that went away, an eviction, a device that was refused: not the job's fault, and not counted against it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tangram.api import names
from tangram.api.training import ExitAction, Role, TrainingJob, TrainingStatus
from tangram.api.views import ContainerStatus, PodView
from tangram.controllers.manifests import job_pod_name
from tangram.controllers.reasons import Why
from tangram.controllers.rendezvous import LEADING_ROLES, SERVER_ROLES
from tangram.controllers.sameness import fits_shape

_DISRUPTIONS = frozenset(
    {
        "Evicted", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "Preempting", "UnexpectedAdmissionError",
        "NodeAffinity", "OutOfcpu", "OutOfmemory", "OutOfpods",
    }
)  # fmt: skip

_DIGITS = 9
"""Of the largest number on a pod that is read."""
Ending = Literal["complete", "fail", "restart", "restart-uncounted"]


@dataclass(frozen=True, slots=True)
class Members:
    """The pods of a job, sorted out."""

    current: tuple[PodView, ...]
    """Of this attempt, wanted, and not being deleted."""
    leaving: tuple[PodView, ...]
    """Of this attempt but being deleted, or no longer wanted."""
    stale: tuple[PodView, ...]
    """Of earlier attempts, or made for a gang of another shape that has not run yet."""
    missing: tuple[tuple[Role, int], ...]
    """Replicas that have no pod of any kind."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows for the job, with a reason code and a sentence."""

    ending: Ending
    reason: str
    message: str


def attempt_number(status: TrainingStatus) -> int:
    """How often the job has been restarted for any reason."""
    return status.restarts + status.uncounted_restarts


def shows_to_have_run(pods: Iterable[PodView], attempt: int) -> bool:
    """Whether the pods of an attempt show that its gang has run: as many have started as it was made to need. Those
    that are asked to go show nothing, as after a suspension."""
    own = [pod for pod in pods if attempt_of(pod) == attempt and not pod.terminating]
    needed = [number for pod in own if (number := _number(pod, names.GANG_MIN)) >= 0]
    return bool(needed) and sum(pod.started for pod in own) >= max(needed)


def attempt_of(pod: PodView) -> int:
    """The attempt that a pod was made for; -1 when it does not say, or says more than there can be."""
    return _number(pod, names.ATTEMPT)


def _number(pod: PodView, annotation: str) -> int:
    """The number that an annotation holds; -1 when it holds none. Whoever may edit pods can write anything there."""
    text = pod.metadata.annotations.get(annotation, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else -1


def sort_out(job: TrainingJob, pods: Iterable[PodView], attempt: int, *, running: bool) -> Members:
    """Sort the pods of a job. ``running``: the gang has run in this attempt, so its shape is not looked at here."""
    wanted = {
        job_pod_name(job.metadata.name, role.name, index): (role, index)
        for role in job.spec.roles
        for index in range(job.spec.replicas_of(role))
    }
    current: list[PodView] = []
    leaving: list[PodView] = []
    stale: list[PodView] = []
    for pod in sorted(pods, key=lambda item: item.name):
        misshapen = not running and not fits_shape(job, pod)
        if attempt_of(pod) != attempt or misshapen:
            stale.append(pod)
        elif pod.terminating or pod.name not in wanted:
            leaving.append(pod)
        else:
            current.append(pod)
    there = {pod.name for pod in (*current, *leaving, *stale)}
    missing = tuple(place for name, place in wanted.items() if name not in there)
    return Members(tuple(current), tuple(leaving), tuple(stale), missing)


def success_roles(job: TrainingJob) -> frozenset[str]:
    """Roles whose success is the success of the job."""
    if job.spec.run_policy.success_role is not None:
        return frozenset({job.spec.run_policy.success_role})
    roles = [role.name for role in job.spec.roles]
    leading = next((role for role in LEADING_ROLES if role in roles), None)
    if leading is not None:
        return frozenset({leading})
    return frozenset(role for role in roles if role not in SERVER_ROLES) or frozenset(roles)


def judge(job: TrainingJob, members: Members, restarts: int, *, placed: int = 1) -> Verdict | None:
    """What the ends of pods mean for the job; None while it goes on. ``placed``: replicas of the elastic role that have
    had a place in this attempt, as far as that is known; those that are no longer there need not have ended."""
    ends = [(pod, _action(job, pod)) for pod in members.current if pod.status.phase == "Failed"]
    complete = _complete(job, members, {pod.name for pod, action in ends if action == "Succeed"}, placed)
    for pod, action in ends:
        if action == "Fail" and not (complete and _ended_after(pod, job, members)):
            return Verdict("fail", Why.EXIT_CODE, f"{_end_of(pod)}, for which a rule says that the job has failed")
    if complete:
        roles = ", ".join(sorted(success_roles(job)))
        return Verdict("complete", Why.COMPLETE, f"all replicas of {roles} ended with success")
    for pod, action in ends:
        if action == "Restart":
            limit = job.spec.run_policy.backoff_limit
            if restarts >= limit:
                return Verdict("fail", Why.BACKOFF_LIMIT, f"{_end_of(pod)}, after {restarts} of {limit} restarts")
            return Verdict("restart", Why.PODS_FAILED, f"{_end_of(pod)}; restart {restarts + 1} of {limit}")
    for pod, action in ends:
        if action == "RestartUncounted":
            return Verdict("restart-uncounted", Why.PODS_DISRUPTED, f"{_end_of(pod)}; the restart is not counted")
    return None


def broken(job: TrainingJob, members: Members, failures: Mapping[str, str]) -> Verdict | None:
    """Whether a gang that ran can no longer go on as it is; None when it can.

    Replicas of the elastic role may go and come as long as its minimum is there; every other one is needed.
    ``failures`` are sentences about failed GPUs, by uid of the pod that holds one.
    """
    if not all(fits_shape(job, pod) for pod in members.current):
        return Verdict("restart-uncounted", Why.RESIZED, "the job's replicas or GPUs were changed")
    elastic = job.spec.elastic
    lost = [job_pod_name(job.metadata.name, role.name, index) for role, index in members.missing
            if elastic is None or role.name != elastic.role]  # fmt: skip
    lost += [
        pod.name + (f" ({failures[pod.metadata.uid]})" if pod.metadata.uid in failures else "")
        for pod in members.leaving
        if elastic is None or pod.label(names.ROLE) != elastic.role
    ]
    if elastic is not None:
        left = sum(pod.label(names.ROLE) == elastic.role for pod in members.current)
        if left < elastic.min_replicas:
            lost.append(f"{elastic.min_replicas - left} more of the role {elastic.role} than it can spare")
    if not lost:
        return None
    shown = ", ".join(sorted(lost)[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
    return Verdict("restart-uncounted", Why.PODS_DISRUPTED, f"replicas were lost: {shown}")


def _complete(job: TrainingJob, members: Members, forgiven: set[str], placed: int) -> bool:
    elastic = job.spec.elastic
    for role in job.spec.roles:
        if role.name not in success_roles(job):
            continue
        pods = [pod for pod in members.current if pod.label(names.ROLE) == role.name]
        wanted = role.replicas
        if elastic is not None and elastic.role == role.name:
            # An elastic role is done when all that have had a place are done: nobody joins after the end.
            pods, wanted = [pod for pod in pods if pod.bound or pod.ended], max(1, placed)
        if len(pods) < wanted:
            return False
        if not all(pod.status.phase == "Succeeded" or pod.name in forgiven for pod in pods):
            return False
    return True


def _ended_after(pod: PodView, job: TrainingJob, members: Members) -> bool:
    """Whether a pod ended after the last replica that a complete job needs; False where an end is not known."""
    roles = success_roles(job)
    needed = [one.ended_at for one in members.current if one.label(names.ROLE) in roles and one.ended]
    return all(needed) and pod.ended_at > max(needed)


def _action(job: TrainingJob, pod: PodView) -> ExitAction:
    if pod.status.reason in _DISRUPTIONS:
        return "RestartUncounted"
    target = pod.condition("DisruptionTarget")
    if target is not None and target.status == "True":
        return "RestartUncounted"
    code = exit_code(pod)
    if code is None:
        return "Restart"
    for rule in job.spec.exit_code_rules:
        if rule.matches(pod.label(names.ROLE), code):
            return rule.action
    return "Restart"


def _ended_badly(pod: PodView) -> ContainerStatus | None:
    """The container that the end of a pod is judged by: of those that failed the one that failed first."""
    failed = [
        status
        for status in pod.status.container_statuses
        if status.state.terminated is not None and status.state.terminated.exit_code != 0
    ]
    return min(failed, key=lambda status: (_finished_at(status), status.name), default=None)


def _finished_at(status: ContainerStatus) -> str:
    return (status.state.terminated.finished_at or "") if status.state.terminated is not None else ""


def exit_code(pod: PodView) -> int | None:
    """Exit code of a failed pod; None when no container has one."""
    status = _ended_badly(pod)
    return status.state.terminated.exit_code if status is not None and status.state.terminated is not None else None


def _end_of(pod: PodView) -> str:
    code = exit_code(pod)
    status = _ended_badly(pod)
    why = pod.status.reason or (
        status.state.terminated.reason if status is not None and status.state.terminated is not None else ""
    )
    because = f" ({why})" if why and why != "Error" else ""
    if code is None:
        return f"pod {pod.name} failed{because}"
    return f"pod {pod.name} ended with exit code {code}{because}"
