"""The rules of ``tuning.loggers``. No section has a key or a password."""

from __future__ import annotations

from kdhooks.config import leaves as a
from kdhooks.config.logger_settings import CometSettings, LoggerSettings, MlflowSettings, WandbSettings
from kdhooks.config.rules import OneOf
from kdhooks.config.sections import Key, Section

_MODE = OneOf({"online": "online", "offline": "offline", "disabled": "disabled"})

LOGGERS = Section(
    (
        Key(
            "mlflow",
            Section(
                (
                    Key("tracking_uri", a.TEXT, None, "server, folder or database; empty: MLflow's own"),
                    Key("experiment", a.TEXT, None, "its name; empty: MLflow's default one"),
                ),
                MlflowSettings,
            ),
            None,
            "runs in MLflow; empty: none",
        ),
        Key(
            "wandb",
            Section(
                (
                    Key("project", a.TEXT, None, "its name; empty: the package's own"),
                    Key("entity", a.TEXT, None, "user or team; empty: the key's own"),
                    Key("mode", _MODE, None, "online, offline or disabled; empty: the package's own"),
                ),
                WandbSettings,
            ),
            None,
            "runs in Weights & Biases; empty: none",
        ),
        Key(
            "comet",
            Section(
                (
                    Key("workspace", a.TEXT, None, "its name; empty: the key's own"),
                    Key("project", a.TEXT, None, "its name; empty: the package's own"),
                    Key("experiment", a.TEXT, None, "its name; empty: that of the run"),
                    Key("offline", a.TEXT, None, "a folder for experiments that are not sent; empty: goes online"),
                ),
                CometSettings,
            ),
            None,
            "experiments in Comet; empty: none",
        ),
    ),
    LoggerSettings,
)
"""The section."""
