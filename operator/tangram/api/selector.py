"""Which namespaces may use a queue or a class, as a label selector says."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tangram.api.common import LabelKey, LabelValue, Model, NodeSelector
from tangram.api.schema import Extra, ListSet, Rule, refuse, with_rules


class NamespaceRequirement(Model):
    """What a label of a namespace must be."""

    model_config = with_rules(
        Rule(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "In and NotIn need values, Exists and DoesNotExist take none",
            ".values",
        )
    )

    key: LabelKey
    """Key of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label is compared; NotIn holds without the label too."""
    values: Annotated[tuple[LabelValue, ...], ListSet(32)] = ()
    """Values for In and NotIn."""

    @model_validator(mode="after")
    def _fitting_values(self) -> Self:
        if (self.operator in ("In", "NotIn")) != bool(self.values):
            refuse("values", list(self.values), "values for In and NotIn, none for Exists and DoesNotExist")
        return self

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels are so."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case _:
                return self.key not in labels


class NamespaceSelector(Model):
    """Namespaces by their labels (metav1.LabelSelector); an empty selector selects all.

    Every namespace has the label ``kubernetes.io/metadata.name`` with its name.
    """

    match_labels: NodeSelector = Field(default_factory=dict)
    """Labels that a namespace has to have."""
    match_expressions: Annotated[tuple[NamespaceRequirement, ...], Field(max_length=16), Extra({"maxItems": 16})] = ()
    """What else has to be true of its labels."""

    def is_about(self, key: str) -> bool:
        """Whether the selector asks for no other label than this one."""
        return {*self.match_labels, *(one.key for one in self.match_expressions)} <= {key}

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a namespace with these labels is selected."""
        return self.match_labels.items() <= labels.items() and all(one.holds(labels) for one in self.match_expressions)
