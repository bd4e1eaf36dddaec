"""PMC² Workbench: image recognition over client, edge and cloud, in which the cloud never receives the picture.

The system is that of the paper PMC² (NOSSDAV '25). PP is its baseline (MMSys '22), in which the phone protects the picture.
A pair is a target classifier, which recognises protected pictures, an auxiliary classifier, which must not, and a perturbation
generator for the two. A pair may include a learned compressor. A variant is another training of its generator or compressor.

docs/architecture.md describes each file and draws the layers ("floors"): a file imports only from its own floor and lower ones.
"""

__version__ = "0.2.0"
