"""What `remote.SshHost` is built on: OpenSSH's configuration, connections, remote processes, uploads and forwarded ports.

::

    configuration      what OpenSSH resolves for a host (config_files: copies of its files, for another home)
    addresses          where a name leads: one Address for each hop
    host_keys          which host keys known_hosts trusts
    identities         the user's keys: of files, agents and certificates
    connections        TCP, host-key verification, public-key authentication, channels
    login_shell        commands that any login shell passes on
    remote_process     a running command, and the deadline on it
    uploads            content-addressed files, resumed and checked
    relays             forwarded ports
"""
