"""The parts of `remote.SshHost`, a host over SSH: configuration, connections, remote processes, uploads and forwarded ports.

::

    configuration      the settings of a host, as OpenSSH resolves them
    config_files       copies of the configuration files, for OpenSSH if its home folder is not $HOME
    addresses          the hops on the way to a host: jump hosts, then the host
    host_keys          the host keys that known_hosts trusts
    identities         the user's keys: in files, agents and certificates
    connections        TCP, host-key verification, public-key authentication, channels
    login_shell        commands that pass through any login shell unchanged
    remote_process     a running command and its deadline
    uploads            files that are named by their SHA-256, resumed and verified
    relays             forwarded ports
"""
