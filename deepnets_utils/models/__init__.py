"""Models by name, one file a family."""

from deepnets_utils.models import estimators, notation, regression, siamese, torchvision_models, vgg  # noqa: F401  (they register)
from deepnets_utils.models.registry import MODELS, build_model, model, register_model  # noqa: F401
