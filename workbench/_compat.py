"""One repair that must happen before torchvision is imported: its operators on a CPU build of torch.

torchvision's wheels are linked against CUDA torch. On a CPU build its compiled library does not load, and `import
torchvision` fails because the operator `torchvision::nms` is not declared. Declaring the schemas is enough for its models
and transforms, which use no compiled operator. Import this module before torchvision or compressai.
"""

from __future__ import annotations

import torch

__all__: list[str] = []

if torch.version.cuda is None:
    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # kept: it owns them
    for _name in ("nms", "qnms"):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
