"""Which package of which distribution brings a program, and the line that installs it."""

from __future__ import annotations

from collections.abc import Sequence

_FAMILIES = {
    "debian": ("debian", "ubuntu"),
    "fedora": ("fedora", "rhel", "centos"),
    "arch": ("arch",),
    "suse": ("suse", "opensuse", "sles"),
    "alpine": ("alpine",),
}
_INSTALL = {
    "debian": "sudo apt install",
    "fedora": "sudo dnf install",
    "arch": "sudo pacman -S",
    "suse": "sudo zypper install",
    "alpine": "sudo apk add",
}
# Where a distribution is not named, the package bears the program's name.
_PACKAGES: dict[str, dict[str, str]] = {
    "newuidmap": {
        "debian": "uidmap",
        "fedora": "shadow-utils",
        "arch": "shadow",
        "suse": "shadow",
        "alpine": "shadow-subids",
    },
    "pasta": dict.fromkeys(_FAMILIES, "passt"),
    "bwrap": dict.fromkeys(_FAMILIES, "bubblewrap"),
    "user bus": {
        "debian": "dbus-user-session",
        "fedora": "dbus-broker",
        "arch": "dbus",
        "suse": "dbus-1",
        "alpine": "dbus",
    },
    "system bus": {**dict.fromkeys(_FAMILIES, "dbus"), "fedora": "dbus-broker", "suse": "dbus-1"},
    "libseccomp": {"debian": "libseccomp2", "suse": "libseccomp2"},
}


def install_lines(program: str, distro: Sequence[str]) -> tuple[str, ...]:
    """The line for this distribution (``ID`` and ``ID_LIKE``); for an unknown one, two to choose.

    ``program`` is the program's name, ``newuidmap`` standing for both id helpers.
    """
    family = find_family(distro)
    families = [family] if family else ["debian", "fedora"]
    names = _PACKAGES.get(program, {})
    return tuple(f"{_INSTALL[each]} {names.get(each, program)}" for each in families)


def find_family(distro: Sequence[str]) -> str | None:
    """The family of the first word that is known: ``("ubuntu", "debian")`` → ``"debian"``."""
    for word in distro:
        for family, members in _FAMILIES.items():
            if word in members or (family == "suse" and word.startswith("opensuse")):
                return family
    return None
