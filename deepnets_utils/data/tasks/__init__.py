"""Tasks by name, one file each."""

from deepnets_utils.data.tasks import digit_pairs, image_classes, pixel_statistic  # noqa: F401  (they register)
from deepnets_utils.data.tasks.task import (  # noqa: F401
    MAY_DIFFER,
    TASKS,
    Split,
    Task,
    build_task,
    divided,
    register_task,
    task,
)
