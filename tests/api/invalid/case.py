"""One row of the table of objects that nobody may write."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """``patch`` turns the sample of the kind into something that is refused at ``field``.

    ``reason`` is part of the API server's message, ``allowed`` part of the models'. The API server names an item of
    a list or a whole list where the models name the field inside: ``server_field`` where the two differ.
    """

    kind: str
    name: str
    patch: str
    field: str
    reason: str
    allowed: str
    server_field: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"
