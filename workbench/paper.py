"""The numbers published in the papers, for comparison with the workbench. They were measured on 5,000 CIFAR-10 test images.

The papers are PMC² (NOSSDAV '25) and PP (MMSys '22), its baseline. Accuracies are in percent, sizes in bytes. Each tuple in
`table3` has the bytes from client to edge (S1), the bytes from edge to cloud (S2), and the accuracy.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PAPER"]

PAPER: dict[str, Any] = {
    "source": "PMC² (NOSSDAV '25), CIFAR-10, 5,000 test images",
    "table1": {
        "regular PNG": {"bytes": 2662.60, "accuracy": 94.24},
        "regular JPEG": {"bytes": 724.44, "accuracy": 90.28},
        "perturbed PNG": {"bytes": 2690.56, "accuracy": 91.44},
        "perturbed JPEG": {"bytes": 1818.77, "accuracy": 90.40},
    },
    "table2": {
        "vgg13_bn-X-resnet18": 91.52,
        "resnet18-X-vgg13_bn": 91.62,
        "densenet121-X-resnet18": 91.38,
        "googlenet-X-resnet18": 91.22,
    },
    "table3": {
        "vgg13_bn": {
            "png": (1642.45, 2691.38, 90.30),
            "jpeg": (1854.95, 1848.42, 90.22),
            "neural": (1642.45, 8.16, 90.40),
        },
        "resnet18": {
            "png": (1509.06, 2544.70, 90.22),
            "jpeg": (1509.06, 1861.48, 90.24),
            "neural": (1509.06, 8.12, 90.20),
        },
        "densenet121": {
            "png": (1572.23, 2794.40, 90.48),
            "jpeg": (1642.45, 2042.20, 90.38),
            "neural": (1572.23, 8.29, 90.42),
        },
        "googlenet": {
            "png": (1572.23, 2796.73, 90.00),
            "jpeg": (1726.20, 1891.50, 90.32),
            "neural": (1726.20, 8.00, 90.42),
        },
    },
    # Milliseconds per image, the generator in batches of 256: ranges over the four targets. Two components are unpublished.
    "figure4": {
        "neural": {"client_compression": 0.37, "network_client_edge": 0.54, "generator": 2.616, "compression": 0.550}
        | {"edge_other": "0.36 to 0.40", "decompression": 1.305, "cloud_other": "0.1 to 3.1"},
        "pp": {"generator": 8.149, "compression": 0.125, "edge_other": "0.36 to 0.40", "decompression": 0.145}
        | {"cloud_other": "0.1 to 3.1"},
        "end_to_end": {"neural": "6.766 to 7.070", "pp": "11.668 to 12.212"},
    },
    # Figures 1 and 5: power-meter readings of a Pixel 3 that sends 5,000 images, target VGG13_bn; mean power and duration
    "energy": {
        "device": "Pixel 3, Monsoon power meter",
        "n": 5000,
        "none": {"watts": 1.139, "seconds": 20.033},
        "pp": {"watts": 4.961, "seconds": 63.345},
        "pmc2": {"watts": 0.751, "seconds": 33.956},
    },
    "subsampling": {"4:4:4": {"bytes": 2057, "accuracy": 91.17}, "4:2:0": {"bytes": 1212, "accuracy": 11.50}},
}
