"""What a texture of a bearded head has to show, texel by texel."""

import torch

from lifemask.data._albedo_truth import bearded_albedo
from lifemask.graphics.lighting import linear_to_srgb


def test_a_beard_that_is_seen_is_the_truth_and_the_other_side_takes_it():
    """Columns 0-1 of the picture show a beard, 2-3 skin; the map is the picture, 4 texels wide."""
    skin = torch.full((3, 4, 4), 0.8)
    pixels = torch.full((3, 4, 4), 0.5)
    pixels[:, :, :2] = 0.05
    beard = torch.zeros(4, 4)
    beard[:, :2] = 1
    points = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 2, indexing="xy"))
    grows = torch.ones(4, 4, dtype=torch.bool)
    visible = torch.ones(4, 4)
    visible[1:, 2:] = 0  # row 0 shows all of the face, the others only their beard
    visible[3] = 0  # row 3 is not seen at all
    albedo, worn, bare = bearded_albedo(skin, pixels, beard, visible, grows, points)
    coded = float(linear_to_srgb(torch.tensor(0.05)))
    expected = torch.full((4, 4), 0.8)
    expected[:3, :2] = coded
    expected[1:3, 2:] = coded
    assert torch.allclose(albedo, expected.expand(3, 4, 4), atol=1e-5)
    has = torch.zeros(4, 4, dtype=torch.bool)
    has[:3, :2] = True
    has[1:3] = True
    assert torch.equal(worn, has)
    assert bool(bare[0, 2:].all())
    assert int(bare.sum()) == 2, "below a beard that is not seen nothing is known"
    shaved = bearded_albedo(skin, pixels, beard, visible, ~grows, points)[2]
    assert bool(shaved[3].all()), "where no beard grows the skin is the truth"


def test_half_beard_half_skin_is_not_known():
    beard = torch.zeros(4, 4)
    beard[:, :2] = 1
    between = torch.full((2, 4, 4), 1.5)  # between the second and the third column
    _, worn, bare = bearded_albedo(
        torch.ones(3, 4, 4), torch.ones(3, 4, 4), beard, torch.ones(4, 4), beard > 2, between
    )
    assert not (worn | bare).any()
