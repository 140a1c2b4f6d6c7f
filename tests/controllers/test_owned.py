"""What belongs to whom: a job has the pods of its own namespace that name its uid, and nothing else."""

from tests.controllers.builders import gang_pod

from tangram.api.views import PodView
from tangram.controllers.owned import OwnedBy


def pod(uid: str, namespace: str = "team", phase: str = "Running") -> PodView:
    return gang_pod("train-worker-0", namespace=namespace, uid=uid, owner="uid-job", phase=phase)


def test_a_pod_of_another_namespace_that_names_the_jobs_uid_is_not_the_jobs() -> None:
    owned: OwnedBy[PodView] = OwnedBy()
    own = pod("uid-1")
    owned.put(None, own)
    owned.put(None, pod("uid-2", namespace="elsewhere", phase="Failed"))
    assert owned.of("team", "uid-job") == (own,)
    owned.put(pod("uid-2", namespace="elsewhere", phase="Failed"), None)
    assert owned.of("team", "uid-job") == (own,), "nor does it take the job's own pod with it when it goes"


def test_a_pod_that_was_created_again_takes_the_place_of_the_one_before_in_any_order() -> None:
    owned: OwnedBy[PodView] = OwnedBy()
    before, after = pod("uid-1"), pod("uid-2")
    owned.put(None, before)
    owned.put(None, after)
    owned.put(before, None)
    assert owned.of("team", "uid-job") == (after,)


def test_who_has_nothing_any_more_is_forgotten() -> None:
    owned: OwnedBy[PodView] = OwnedBy()
    owned.put(None, pod("uid-1"))
    owned.put(pod("uid-1"), None)
    assert len(owned) == 0
    assert owned.of("team", "uid-job") == ()
