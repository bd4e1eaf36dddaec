"""Run the edge in a confidential container on a Kubernetes cluster, through kubectl on a host.

A confidential container runs in a guest, a virtual machine whose memory the host cannot read.

::

    guest        the settings of the container, and the guest's measured configuration: image, agent policy, initdata
    manifests    the Kubernetes objects
    containers   apply, watch and remove the objects
    pods         the reasons why a pod does not become ready
    gpu          settings of a container for the cloud, with a confidential GPU; it cannot be launched yet
"""
