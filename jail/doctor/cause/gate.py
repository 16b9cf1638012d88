"""Why a kernel has not what the network ``filtered`` is made of."""

from __future__ import annotations

import errno as codes
from typing import Final

from jail.doctor.cause.base import Cause, Failure, Rule

UNKNOWN: Final = (
    codes.EPROTONOSUPPORT,
    codes.EOPNOTSUPP,
    codes.EAFNOSUPPORT,
    codes.ENOENT,
    codes.ENOPROTOOPT,
    codes.EINVAL,
)
"""of a protocol, a family of tables, an expression or a subsystem: nfnetlink answers each so"""
MODULES: Final = {
    "gate rules": ("nf_tables", "nft_tproxy", "nft_reject_inet", "nft_limit", "nft_log"),
    "gate log": ("nfnetlink_log",),
}
OPTIONS: Final = (
    "NF_TABLES|NF_TABLES_INET|NFT_TPROXY|NFT_REJECT_INET|NFT_LIMIT|NFT_LOG|NETFILTER_NETLINK_LOG"
)


def not_loaded(failure: Failure) -> Cause | None:
    """The kernel loads them by itself where it finds them: modprobe says why it doesn't."""
    modules = MODULES.get(failure.step)
    if modules is None or failure.errno not in UNKNOWN:
        return None
    return Cause(
        f"{modules[0].replace('_', '-')}-missing",
        f"this kernel has not all of {', '.join(modules)}",
        "The network “filtered” is made of nf_tables rules. Load the modules, now and at every "
        "boot; where there is no such module, all of these options of the kernel must be “y” or "
        "“m”:",
        (
            f"sudo modprobe -a {' '.join(modules)}",
            f"printf '%s\\n' {' '.join(modules)} | sudo tee /etc/modules-load.d/jail.conf",
            f"grep -E 'CONFIG_({OPTIONS})=' /boot/config-{failure.facts.kernel_release}",
        ),
    )


RULES: tuple[Rule, ...] = (not_loaded,)
