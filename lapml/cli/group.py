"""The commands in the order of the work, and what is said of an option that is a setting."""

from pathlib import Path
from typing import Any

from typer.core import TyperGroup

WORK = {
    "Begin": ("init", "suite", "config", "model"),
    "Data": ("data", "localise"),
    "Train": ("train", "tune", "watch", "evaluate"),
    "Results": ("diagnose", "picture", "report", "compare", "confusions", "distances"),
    "Use a finished run": ("predict", "explain", "export"),
    "Publish": ("publish", "restore"),
}


PLACES = ("dataset", "method", "seed")  # what is named by its place or an option of its own, never by a setting


class Group(TyperGroup):
    """All commands of `lapml`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List them under the headings of :data:`WORK`."""
        widest = max(map(len, self.commands))
        for heading, names in WORK.items():
            with formatter.section(heading):
                room = formatter.width - widest - 6
                formatter.write_dl(
                    [(name.ljust(widest), self.commands[name].get_short_help_str(room)) for name in names]
                )

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Where an unknown option is the name of an argument or a setting, say how that is given."""
        given = list(ctx.args)
        try:
            return super().invoke(ctx)
        except Exception as error:
            if type(error).__name__ == "NoSuchOption":  # of click, which some versions of typer bring along
                _answer(error, given)
            raise


def _answer(error: Any, given: list[str]) -> None:
    """Put into an error of an unknown option the argument or the `--set` that was probably meant."""
    name = error.option_name.lstrip("-").replace("-", "_")
    if name in [each.name for each in error.ctx.command.params if each.param_type_name == "argument"]:
        usage = error.ctx.get_usage().partition(": ")[2]
        error.message = f"No such option: {error.option_name}. It is given by its place: {usage}"
        error.possibilities = None
        return
    if not any("--set" in each.opts for each in error.ctx.command.params):
        return
    from lapml.config import expanded, overlays
    from lapml.config.reading import meant, paths
    from lapml.errors import LapmlError

    option, _, value = next(each for each in given if each.startswith(error.option_name)).partition("=")
    following = next(iter(given[given.index(option) + 1 :] if option in given else []), "")
    value = value or ("" if following.startswith("--") else following)
    named = (each.partition("=")[2] for each in given if each.startswith("--params="))
    file = given[given.index("--params") + 1] if "--params" in given[:-1] else next(named, "params.yaml")
    try:
        settings = expanded(overlays.merged(overlays.layers(Path(file))))
    except LapmlError:
        return  # a params file that cannot be read has no settings
    if key := None if name in PLACES else meant(name, settings):
        error.message = f"No such option: {error.option_name}. It is a setting: write --set {key}={value or 'VALUE'}"
        error.possibilities = None
    elif not error.possibilities or any(path[-1] == name for path in paths(settings)):
        error.possibilities = None
        error.message += ". Settings are given by --set KEY=VALUE; `lapml config show` prints them"
