"""A HybridPolicy from a file, for trying one out before it is applied."""

from pathlib import Path

import yaml

from tangram.api.policy import HybridPolicy, active_policy, parse_policy
from tangram.decide.registry import Registry
from tangram.errors import InvalidInput, NotReachable, PluginError
from tangram.snapshot.build import Builder

_KIND = "HybridPolicy"


def read_policy(path: Path) -> HybridPolicy:
    """The HybridPolicy among the YAML documents of a file; of several the one that would be in force in a cluster.

    Raises NotReachable when the file cannot be read and InvalidInput when there is no policy in it, or a wrong one.
    """
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise NotReachable(f"{path}: cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(str(path), "YAML", " ".join(str(error).split()), "YAML documents") from None
    found = [one for one in documents if isinstance(one, dict) and one.get("kind") == _KIND]
    policy = active_policy([parse_policy(one, unknown="forbid") for one in found])
    if policy is None:
        kinds = [str(one.get("kind")) if isinstance(one, dict) else type(one).__name__ for one in documents]
        raise InvalidInput(str(path), "kind", ", ".join(kinds), _KIND)
    return policy


def check_plugins(policy: HybridPolicy | None, registry: Registry) -> None:
    """Raise PluginError if the policy names a plugin that cannot be had, or gives it what it does not take."""
    builder = Builder()
    builder.set_policy(policy)
    for choice in builder.snapshot(0).scores:
        try:
            registry.create(choice.name, choice.args)
        except PluginError as error:
            raise PluginError(f"{_KIND} {policy.metadata.name if policy else ''}: {error}") from None
