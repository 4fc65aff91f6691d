"""What `lapml data check` finds, and how it is printed."""

from typing import Any, NamedTuple

from lapml.common.text import line

EXAMPLES = 5  # named for each finding, if not all are


class Found(NamedTuple):
    """One thing: what is printed, and the files that it is about, as the index names them."""

    text: str
    files: tuple[str, ...] = ()


def of_file(path: str, remark: str = "") -> Found:
    """One file, with a remark."""
    return Found(f"{path}: {remark}" if remark else path, (path,))


class Finding(NamedTuple):
    """All that is wrong in one way."""

    key: str  # for scripts
    what: str
    found: list[Found]
    verdict: str
    kind: str = "harmless"  # or suspect, or HARMFUL: then the exit status is 1

    def text(self, limit: int | None) -> str:
        """A line with the count and the verdict, and one for each of the first ``limit``; None: for each."""
        count = len(self.found)
        verdict = f"{self.kind}: {self.verdict}" if count else "ok"
        named = "".join(f"\n    {line(each.text)}" for each in self.found[:limit])
        more = f"\n    … and {count - limit} more (--all)" if limit is not None and count > limit else ""
        return f"{self.what:<44}{count:>6}   {verdict}{named}{more}"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        found = [{"text": each.text, "files": list(each.files)} for each in self.found]
        return {"what": self.what, "kind": self.kind if found else "ok", "verdict": self.verdict, "found": found}
