"""What `remote.SshHost` is built on: OpenSSH's configuration, connections, remote processes, uploads and forwarded ports.

::

    addresses          where a name of ~/.ssh/config leads: one Address for each hop
    host_keys          which host keys known_hosts trusts
    connections        TCP, host-key verification, public-key authentication, channels
    remote_process     a command on another machine, and the deadline on it
    uploads            content-addressed files, resumed and checked
    relays             forwarded ports
"""
