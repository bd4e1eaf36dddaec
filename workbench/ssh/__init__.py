"""The parts of `remote.SshHost`: OpenSSH's configuration, connections, remote processes, uploads and forwarded ports.

::

    configuration      the settings that OpenSSH resolves for a host (config_files: copies of its files for another $HOME)
    addresses          a host's name resolved to one Address for each hop
    host_keys          the host keys that known_hosts trusts
    identities         the user's keys: in files, agents and certificates
    connections        TCP, host-key verification, public-key authentication, channels
    login_shell        commands that pass through any login shell unchanged
    remote_process     a running command and its deadline
    uploads            content-addressed files, resumed and checked
    relays             forwarded ports
"""
