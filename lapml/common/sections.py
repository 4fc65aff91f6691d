"""The base of every section of params.yaml."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FARTHEST = 2.0  # between unit vectors
NAME, LONGEST_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$", 64
Name = Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)]
Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
# Those with non-negative entries (pooled after a ReLU) are at most sqrt(2) apart, those of a transformer at most 2.
Distance = Annotated[float, Field(ge=0, le=FARTHEST)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
TUNED = Literal["tuned"]


SAID = {  # of pydantic's mistakes
    "missing": "missing; add it",
    "extra_forbidden": "unknown key; remove it or correct its spelling",
}


# Marks a key that joined after runs had been published, as in `cooldown: Annotated[int, LATER] = 0`: its default means "as
# before", and records name it only with another value, so that old and new records of one thing are equal.
LATER = "later"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    def recorded(self, **options: Any) -> dict[str, Any]:
        """As JSON for a record, without the :data:`LATER` keys that have their default.

        Args:
            options: of pydantic's ``model_dump``.
        """
        record = self.model_dump(mode="json", **options)
        _leave_out(self, record)
        return record


def _leave_out(section: Section, record: dict[str, Any]) -> None:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if LATER in field.metadata and value == field.get_default(call_default_factory=True):
            record.pop(name, None)
        elif isinstance(value, Section) and name in record:
            _leave_out(value, record[name])


def mistake(error: ValidationError, *above: str) -> str:
    """The first mistake that pydantic found: key, what was found, what was expected.

    Args:
        above: the keys that the section stands below.
    """
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error":  # ours already say what was found
        found = f"found {repr(first['input'])[:80]}, expected: {message[0].lower() + message[1:]}"
        message = SAID.get(first["type"], found)
    return ": ".join(filter(None, (".".join([*above, *map(str, first["loc"])]), message)))
