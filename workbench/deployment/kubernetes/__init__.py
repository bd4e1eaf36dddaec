"""The edge, or the cloud, in a confidential container, through kubectl on its host.

::

    guest        the guest's measured configuration: image, agent policy, initdata
    manifests    the Kubernetes objects
    containers   apply, watch and remove the objects
    pods         the reasons why a pod does not become ready
    gpu          the cloud in a guest with a confidential GPU
"""
