"""Device ids: each GPU is 100 ids ``<uuid>::<00..99>`` of the fractional resource, or one id ``<uuid>`` as a whole.

The ids are the kubelet's bookkeeping: how many of a GPU's a container holds is its share; which of them means nothing.
They depend on the uuid only, so that they are the same after every restart.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tangram.api.names import FRACTION_RESOURCE
from tangram.units import HUNDREDTHS_PER_GPU

_SEPARATOR = "::"


@dataclass(frozen=True, slots=True)
class Slots:
    """How one resource of the kubelet divides a GPU."""

    resource: str
    per_gpu: int
    """Device ids of one GPU."""

    @property
    def hundredths(self) -> int:
        """Share of the GPU that one id stands for."""
        return HUNDREDTHS_PER_GPU // self.per_gpu

    @property
    def socket(self) -> str:
        """Name of the plugin's socket in the kubelet's folder; short: a socket's path has 107 letters at most."""
        return f"tangram-{'whole' if self.per_gpu == 1 else 'shares'}.sock"

    def ids(self, uuid: str) -> tuple[str, ...]:
        """The GPU's device ids."""
        if self.per_gpu == 1:
            return (uuid,)
        return tuple(f"{uuid}{_SEPARATOR}{number:02}" for number in range(self.per_gpu))


FRACTIONS = Slots(FRACTION_RESOURCE, HUNDREDTHS_PER_GPU)


def whole(resource: str) -> Slots:
    """A resource whose unit is one whole GPU."""
    return Slots(resource, 1)


def uuid_of(device_id: str) -> str:
    """The GPU that a device id belongs to."""
    return device_id.partition(_SEPARATOR)[0]


def shares_of(device_ids: Iterable[str]) -> Counter[str]:
    """Hundredths by uuid that these ids stand for: one for an id of a fraction, 100 for the id of a whole GPU."""
    held: Counter[str] = Counter()
    for device_id in device_ids:
        uuid, separator, _ = device_id.partition(_SEPARATOR)
        held[uuid] += 1 if separator else HUNDREDTHS_PER_GPU
    return held
