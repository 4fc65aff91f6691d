"""Settings: params.yaml and its suites, read, checked, and resolved to the settings of one run.

In: YAML files and ``--set``. Out: :class:`Params` of a suite, and :class:`Run` of one run, stored in its record.
Nothing here reads data or imports torch.
"""

from lapml.config.method import Method
from lapml.config.parts import Data, Localise, Model, Synthetic, Train, View
from lapml.config.reading import expanded, load
from lapml.config.resolved import (
    digest,
    frozen_margins,
    resolve,
    settings_of,
    study_identity,
    study_names,
    trial_run,
    tuned_values,
    unseeded,
    weights_file,
)
from lapml.config.schema import Params, Run
from lapml.config.tuning import Choices, Range

__all__ = [
    "Choices", "Data", "Synthetic", "Localise", "Method", "Model", "Params", "Range", "Run", "Train", "View",
    "digest", "expanded", "frozen_margins", "load", "resolve", "settings_of", "study_identity", "study_names", "trial_run",
    "tuned_values", "unseeded", "weights_file",
]  # fmt: skip
