# shellcheck shell=bash
# Making what ci/vm boots. Sourced by ci/vm, after ci/setup.sh.
#
#   /var/lib/jail-ci/vm/making.lock      held while anything below is made
#   /var/lib/jail-ci/vm/debian-STAMP/    a Debian system
#   /var/lib/jail-ci/vm/disk-STAMP.ext4  that, with what is in ci/guest and a Python environment for
#                                        the package: the machine's root filesystem
#   /var/lib/jail-ci/vm/mount/           where each machine has its files, in a namespace of its own
#
# Each is made aside, renamed when it is complete, and never written to again.

readonly VM_DIR=$STATE_DIR/vm
readonly VM_SUITE=bookworm
readonly VM_PYTHON=3.11
readonly VM_MIRROR=${JAIL_CI_MIRROR:-http://deb.debian.org/debian}
readonly VM_DISK_SIZE=4G
readonly VM_PACKAGES=(
    attr busybox-static ca-certificates dbus dbus-user-session fuse-overlayfs gcc iproute2 keyutils
    kmod libc6-dev libpam-systemd libseccomp2 passt procps python3 python3-venv slirp4netns strace
    systemd systemd-sysv uidmap user-mode-linux
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
    DEBIAN=$VM_DIR/debian-$(describe_debian | hash_of)
    DISK=$VM_DIR/disk-$({ describe_debian && describe_disk; } | hash_of).ext4
    mkdir -p "$VM_DIR/mount"
    exec 9>"$VM_DIR/making.lock"
    flock 9
    forget_stale_disks
    [ -e "$DISK" ] || make_disk
    touch "$DISK" # a new date: it is in use
    exec 9>&-
}

describe_debian() {
    declare -p "${!VM_@}"
    declare -f bootstrap configure
}

describe_disk() {
    cat "$CHECKOUT/pyproject.toml"
    tar --create --sort=name --mtime=@0 --directory "$CHECKOUT/ci/guest" .
    declare -f make_disk install_package fetch_wheels list_requirements
}

# Unlinked, a disk is still there for the machine that has it open.
forget_stale_disks() {
    rm -rf "$VM_DIR"/*.new
    find "$VM_DIR" -maxdepth 1 \( -name 'disk-*' -o -name 'debian-*' \) -mmin +"$STALE_MINUTES" \
        ! -path "$DEBIAN" ! -path "$DISK" -exec rm -rf {} +
}

# What is mounted on the way is gone when it is left, however that happens.
in_own_mounts() {
    setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child "$@"
}

make_debian() {
    say "making a Debian $VM_SUITE for the virtual machine in $DEBIAN"
    try_twice bootstrap "$DEBIAN.new" || die "debootstrap failed, see above; JAIL_CI_MIRROR names another mirror than $VM_MIRROR"
    configure "$DEBIAN.new"
    mv "$DEBIAN.new" "$DEBIAN"
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

make_disk() {
    local system=$VM_DIR/system.new
    [ -d "$DEBIAN" ] || make_debian
    touch "$DEBIAN"
    say "making the virtual machine's disk"
    cp --archive --reflink=auto "$DEBIAN" "$system"
    rsync --recursive --links --perms "$CHECKOUT/ci/guest/" "$system/"
    install_package "$system"
    truncate --size "$VM_DISK_SIZE" "$DISK.new"
    mke2fs -q -t ext4 -d "$system" "$DISK.new"
    mv "$DISK.new" "$DISK"
    rm -rf "$system"
}

# The machine has no network. What it needs is fetched here, as wheels for its own Python, and
# installed from there; our Python may be another.
install_package() {
    local system=$1 home=/home/$CI_USER
    fetch_wheels "$system/wheels"
    mkdir "$system$home/checkout"
    # shellcheck disable=SC2016
    in_own_mounts env -i LANG=C.UTF-8 PATH="$PATH" bash -euc '
        mount --bind "$2" "$1$3"
        mount -t proc proc "$1/proc"
        chroot "$1" python3 -m venv /opt/venv
        exec chroot "$1" /opt/venv/bin/python -m pip install --quiet \
            --disable-pip-version-check --no-index --find-links /wheels --editable "$3[dev]"
    ' bash "$system" "$TREE" "$home/checkout" \
        || die "pip could not install in the virtual machine, see above"
    rm -r "$system/wheels"
}

fetch_wheels() {
    local to=$1
    local -a requirements
    mapfile -t requirements < <(list_requirements)
    read_package_sources
    install -d -o "$CI_USER" -g "$CI_USER" "$to"
    try_twice "${AS_USER[@]}" "${SOURCES[@]}" "$VENV/bin/python" -m pip download --quiet \
        --disable-pip-version-check --dest "$to" --only-binary :all: --implementation cp \
        --python-version "$VM_PYTHON" --platform manylinux_2_28_x86_64 \
        --platform manylinux2014_x86_64 "${requirements[@]}" \
        || die "pip could not fetch what pyproject.toml asks for, see above"
}

# And what its build backend needs for an editable installation.
list_requirements() {
    "$VENV/bin/python" -c '
import sys, tomllib
data = tomllib.load(open(sys.argv[1], "rb"))
project = data["project"]
print(*project["dependencies"], *project["optional-dependencies"]["dev"], sep="\n")
print(*data["build-system"]["requires"], "editables", sep="\n")
' "$CHECKOUT/pyproject.toml"
}
