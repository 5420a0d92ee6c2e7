"""Constants by device and dtype."""

import torch


def test_constants_made_in_inference_mode_serve_a_graph_later() -> None:
    from diffcodec.constants import Constant

    c = Constant([1.0, 2.0])
    with torch.inference_mode():
        c.like(torch.zeros(1))
    x = torch.rand(2, requires_grad=True)
    (x * c.like(x)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0]
