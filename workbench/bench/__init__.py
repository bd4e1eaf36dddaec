"""How fast: the models beside the papers' own way, and the services at work.

::

    models     edge and cloud without a network, beside the papers' own way
    load       requests in a closed or an open loop, and what came of them
    latency    where the time of a picture goes between real services (Figure 4), over links of several kinds
    energy     what a picture costs the phone, without protection, with the baseline, with PMC² (Figures 1 and 5)
    sensors    what the machine itself says of the energy it takes
    services   throughput beside the same models called directly, latency under load, bytes on the wire, CPU and memory
"""
