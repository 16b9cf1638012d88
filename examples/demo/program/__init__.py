"""Programs that the demo runs inside jails; nobody imports them."""
