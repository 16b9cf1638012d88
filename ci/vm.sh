# shellcheck shell=bash
# Making what ci/vm boots. Sourced by ci/vm, after ci/setup.sh.
#
#   /var/lib/jail-ci/vm/making.lock    held while anything below is made
#   /var/lib/jail-ci/vm/base-STAMP/    a Debian system; nothing writes to it once it is complete,
#                                      except that a Python environment is added
#   /var/lib/jail-ci/vm/base-STAMP.lock  held, shared, by each machine that runs on it
#   /var/lib/jail-ci/vm/mount/         where each machine mounts its own view, in its own namespace

readonly VM_DIR=$STATE_DIR/vm
readonly VM_SUITE=bookworm
readonly VM_MIRROR=${JAIL_CI_MIRROR:-http://deb.debian.org/debian}
readonly VM_PACKAGES=(
    attr busybox-static ca-certificates dbus dbus-user-session fuse-overlayfs iproute2 keyutils
    kmod libpam-systemd libseccomp2 passt procps python3 python3-venv slirp4netns strace systemd
    systemd-sysv uidmap user-mode-linux
)
# None of them has anything to do there, and each costs time.
readonly VM_MASKED=(
    apt-daily.timer apt-daily-upgrade.timer console-getty.service dpkg-db-backup.timer
    e2scrub_all.timer e2scrub_reap.service fstrim.timer getty.target systemd-binfmt.service
    systemd-firstboot.service systemd-journal-flush.service systemd-machine-id-commit.service
    systemd-pstore.service systemd-random-seed.service systemd-repart.service
    systemd-sysusers.service systemd-tmpfiles-clean.timer systemd-update-utmp.service
    systemd-update-utmp-runlevel.service proc-sys-fs-binfmt_misc.automount
)

prepare_vm() {
    BASE=$VM_DIR/base-$({ declare -p "${!VM_@}" && declare -f bootstrap configure; } | hash_of)
    GUEST_VENV=/opt/venv-$({ cat "$CHECKOUT/pyproject.toml" && declare -f make_guest_venv; } | hash_of)
    mkdir -p "$VM_DIR/mount"
    exec 9>"$VM_DIR/making.lock"
    flock 9
    [ -d "$BASE" ] || make_base
    [ -e "$BASE$GUEST_VENV/ready" ] || make_guest_venv
    exec 9>&-
}

# Mounts that are made on the way are gone when it is left, however that happens.
in_own_mounts() {
    setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child "$@"
}

make_base() {
    say "making a Debian $VM_SUITE for the virtual machine in $BASE"
    try_twice bootstrap "$BASE.new" || die "debootstrap failed, see above"
    configure "$BASE.new"
    mv "$BASE.new" "$BASE"
}

bootstrap() {
    local log=$VM_DIR/debootstrap.log packages
    packages=$(IFS=,; echo "${VM_PACKAGES[*]}")
    rm -rf "$1"
    in_own_mounts debootstrap --variant=minbase --include="$packages" \
        "$VM_SUITE" "$1" "$VM_MIRROR" >"$log" 2>&1 && return
    tail -n 5 "$log" >&2
    return 1
}

configure() {
    local unit
    rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*
    ln -s uml/modules "$1/usr/lib/modules"
    chroot "$1" useradd --create-home --user-group --uid 1000 --shell /bin/bash "$CI_USER"
    mkdir -p "$1/var/lib/systemd/linger"
    : >"$1/var/lib/systemd/linger/$CI_USER"
    for unit in "${VM_MASKED[@]}"; do
        ln -sf /dev/null "$1/etc/systemd/system/$unit"
    done
    printf 'vm\n' >"$1/etc/hostname"
    printf '127.0.0.1 localhost vm\n::1 localhost\n' >"$1/etc/hosts"
    chroot "$1" systemd-machine-id-setup 2>/dev/null
}

# The machine has no network. What it needs is fetched here, as wheels for its own Python, and
# installed from there; our Python may be another.
make_guest_venv() {
    local wheels="$BASE$GUEST_VENV/wheels"
    say "making a Python environment for the virtual machine"
    rm -rf "${BASE:?}$GUEST_VENV"
    chroot "$BASE" python3 -m venv "$GUEST_VENV"
    install -d -o "$CI_USER" -g "$CI_USER" "$wheels"
    read_package_sources
    list_requirements >"$BASE$GUEST_VENV/requirements"
    try_twice "${AS_USER[@]}" "${SOURCES[@]}" "$VENV/bin/python" -m pip download --quiet \
        --disable-pip-version-check --dest "$wheels" --only-binary :all: --implementation cp \
        --python-version 3.11 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
        --requirement "$BASE$GUEST_VENV/requirements" \
        || die "pip could not fetch what pyproject.toml asks for, see above"
    # shellcheck disable=SC2016
    in_own_mounts bash -euc '
        mkdir -p "$1/home/$2/checkout"
        mount --bind "$3" "$1/home/$2/checkout"
        mount -t proc proc "$1/proc"
        exec env -i LANG=C.UTF-8 PATH="$PATH" chroot "$1" "$4/bin/python" -m pip install --quiet --disable-pip-version-check \
            --no-index --find-links "$4/wheels" --editable "/home/$2/checkout[dev]"
    ' bash "$BASE" "$CI_USER" "$TREE" "$GUEST_VENV" || die "pip could not install in the virtual machine, see above"
    rm -rf "$wheels"
    : >"$BASE$GUEST_VENV/ready"
}

# What pyproject.toml asks for, and what its build backend does for an editable installation.
list_requirements() {
    "$VENV/bin/python" -c '
import sys, tomllib
data = tomllib.load(open(sys.argv[1], "rb"))
project = data["project"]
print(*project["dependencies"], *project["optional-dependencies"]["dev"], sep="\n")
print(*data["build-system"]["requires"], "editables", sep="\n")
' "$CHECKOUT/pyproject.toml"
}
