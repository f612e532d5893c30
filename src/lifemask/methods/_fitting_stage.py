"""The landmark fitter as a stage of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from lifemask.facemodel.base import FaceModel
from lifemask.methods._fitting_config import FitConfig
from lifemask.methods._stage import FaceInput, StageSetup
from lifemask.methods.fitting import fit_landmarks, fit_person
from lifemask.types import Geometry


class FitStage:
    """Landmarks to geometry by optimisation; see `methods.fitting`.

    Args:
        model: the face model to fit.
        config: settings; None for the defaults.
    """

    needs_landmarks = True

    def __init__(self, model: FaceModel, config: FitConfig | None = None) -> None:
        self.model = model
        self.config = config or FitConfig()

    def __call__(self, seen: FaceInput) -> Geometry:
        """Pose, identity and expression from the landmarks.

        Raises:
            UserError: the landmarks cannot be fitted.
            ValueError: there are none.
        """
        if seen.landmarks is None:
            raise ValueError("the fitter needs landmarks")
        return fit_landmarks(seen.landmarks, self.model, self.config, seen.image_size)

    def together(self, seen: Sequence[FaceInput]) -> list[Geometry]:
        """One identity from the landmarks of all photos, a pose and expression for each.

        Raises:
            UserError: landmarks cannot be fitted.
            ValueError: a photo has none.
        """
        landmarks = [one.landmarks for one in seen if one.landmarks is not None]
        if len(landmarks) < len(seen):
            raise ValueError("the fitter needs landmarks")
        sizes = [one.image_size for one in seen]
        return fit_person(landmarks, self.model, self.config, sizes)

    def options(self, seen: FaceInput) -> dict[str, str]:
        """Nothing beyond what the camera's record tells."""
        return {}


def create_stage(setup: StageSetup) -> FitStage:
    """The fitter with the pipeline's settings."""
    return FitStage(setup.model, setup.settings)
