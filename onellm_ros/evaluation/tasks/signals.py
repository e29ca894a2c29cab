"""To come."""

from onellm_ros.evaluation.task import Task

TASKS: tuple[Task, ...] = ()
