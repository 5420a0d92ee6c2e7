"""A layer of a user's own."""

from helpers import natural
from torch import Tensor

import diffcodec as dc


class Grey(dc.Layer):
    """A user's own layer: one method is enough."""

    def distort(self, video: Tensor, draw: object) -> Tensor:
        return video.mean(2, keepdim=True).expand_as(video)


def test_a_users_own_layer_fits_in() -> None:
    x = natural(2)
    assert dc.RandomDistortion([Grey()])(x).std(2).max() == 0
