"""The edge, or the cloud, in a confidential container, through kubectl on its host.

::

    guest        the measured configuration: the image, its policy, its initdata
    manifests    the Kubernetes objects         gpu     a cloud in a guest with a confidential GPU
    containers   apply, watch, remove them      pods    why a pod does not become ready
"""
