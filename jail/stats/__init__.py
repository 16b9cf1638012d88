"""``jail stats``, ``jail pause`` and ``jail resume``: jails that somebody else is running."""
