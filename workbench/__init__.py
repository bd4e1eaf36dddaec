"""PMC² Workbench: image recognition with a phone, a trusted edge server and a cloud that never receives the original picture.

The workbench reproduces two papers: PMC² (NOSSDAV '25) and the baseline of PMC², called PP (MMSys '22). In PMC² the edge
protects the picture. In PP the phone does.

Two classifiers and a perturbation generator form a pair. The generator changes a picture so that the target classifier
recognises it and the auxiliary classifier does not. A pair can also have a compressor, a network that encodes protected
pictures in few bytes. A variant is an alternative generator or compressor of a pair, trained with other settings.

docs/architecture.md describes the layers of the package, called floors. A file imports only from its own floor and lower ones.
"""

__version__ = "0.2.0"
