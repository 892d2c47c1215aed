"""The settings of ``tuning.loggers``: who else is told what a run finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MlflowSettings:
    """``tuning.loggers.mlflow``.

    Attributes:
        tracking_uri: of the server, or of a folder or database; None leaves it to MLflow.
        experiment: by name; None takes MLflow's default one.
    """

    tracking_uri: str | None = None
    experiment: str | None = None


@dataclass(frozen=True)
class WandbSettings:
    """``tuning.loggers.wandb``.

    Attributes:
        project: None leaves it to the package.
        entity: user or team; None leaves it to the package.
        mode: ``online``, ``offline`` or ``disabled``; None leaves it to the package.
    """

    project: str | None = None
    entity: str | None = None
    mode: str | None = None


@dataclass(frozen=True)
class CometSettings:
    """``tuning.loggers.comet``.

    Attributes:
        workspace, project: None leaves them to the package.
        experiment: its name; None takes that of the run.
        offline: a folder, for experiments that are uploaded later or never; None goes online.
    """

    workspace: str | None = None
    project: str | None = None
    experiment: str | None = None
    offline: str | None = None


@dataclass(frozen=True)
class LoggerSettings:
    """``tuning.loggers``; None for those that get nothing."""

    mlflow: MlflowSettings | None = None
    wandb: WandbSettings | None = None
    comet: CometSettings | None = None
