# shellcheck shell=bash
# Setting up the environment that ci/demo, ci/test and ci/shell share. Sourced by ci/shell.
#
# Called by root (a container, a CI machine): the host gets its packages and an unprivileged
# user, the checkout is copied to a place that this user can read, and everything runs there as
# that user. Called by anybody else: a virtual environment in the checkout, and nothing more.
#
#   /var/lib/jail-ci/lock             held while the host itself is changed
#   /var/lib/jail-ci/KEY/lock         held while a checkout is copied or set up; KEY is its path's hash
#   /var/lib/jail-ci/KEY/checkout     that path
#   /var/lib/jail-ci/KEY/tree/        the copy
#   /var/lib/jail-ci/KEY/venv-STAMP/  one for each state of what it is made from: a change never
#                                     pulls it away from under a command that still runs
#   /run/jail-ci/KEY/                 XDG_RUNTIME_DIR: short, for the paths of sockets
#
# tree/, venv-STAMP/ and the runtime directory are the user's, all above them is root's.

readonly CI_USER=jail-ci
readonly STATE_DIR=/var/lib/jail-ci
readonly RUNTIME_DIR=/run/jail-ci
readonly SUBID_COUNT=65536
# What nobody has used for this long may go; no run takes that long.
readonly STALE_MINUTES=180

readonly NEEDED_PACKAGES=(
    acl attr bind9-dnsutils bubblewrap busybox-static ca-certificates curl dbus-daemon
    debian-archive-keyring debootstrap e2fsprogs fuse-overlayfs fuse3 g++ gcc git golang-go iperf3 iproute2
    keyutils libc6-dev libseccomp2 make nftables openssl passt procps python3 python3-dev
    python3-hypothesis python3-numpy python3-pytest python3-venv rsync rustc slirp4netns sqlite3 strace uidmap util-linux
)
readonly CONTAINERS_PACKAGE=golang-github-containers-common
readonly CONTAINERS_PROFILE=/usr/share/containers/seccomp.json
# Not in every release or on every architecture; a test that needs one says so.
WANTED_PACKAGES=(shellcheck)
[ "$(uname -m)" != x86_64 ] || WANTED_PACKAGES+=(gcc-multilib) # probes of the 32-bit system calls
[ -x /usr/bin/node ] || WANTED_PACKAGES+=(nodejs)
# CPython's tests of itself: the package has the version in its name, which the link tells.
PYTHON3=$(readlink /usr/bin/python3 || echo python3.11)
WANTED_PACKAGES+=("lib${PYTHON3##*/}-testsuite")
[ -x /usr/bin/npm ] || WANTED_PACKAGES+=(npm)
[ -x /usr/bin/java ] || WANTED_PACKAGES+=(default-jdk-headless)

say() {
    printf 'ci: %s\n' "$*" >&2
}

# 125, so that it is told from most answers of the command that was asked for.
die() {
    say "$*"
    exit 125
}

# Networks fail; once is no reason to give up. The locks are ours, not a package's daemon's.
try_twice() {
    "$@" 8>&- 9>&- && return
    say "trying once more: $*"
    sleep 5
    "$@" 8>&- 9>&-
}

hash_of() {
    sha256sum | cut -c1-16
}

# --- either way ------------------------------------------------------------------------------

# The system's own interpreter where it is new enough: the first in PATH may lie in a directory
# that the unprivileged user can't enter.
find_python() {
    local python
    for python in /usr/bin/python3 /usr/bin/python3.{14,13,12,11} "$(type -P python3 || true)"; do
        if [ -x "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            printf '%s\n' "$python"
            return
        fi
    done
    return 1
}

# All that an environment is made from: what changes one of these makes a new one.
read_stamp() {
    { cat "$CHECKOUT"/{pyproject.toml,ci/setup.sh,ci/shell} && readlink -f /usr/bin/python3; } | hash_of
}

# make_venv RUN…: in $VENV, with the package itself taken from $TREE; RUN… goes before each command.
make_venv() {
    local python
    python=$(find_python) || die "Python 3.11 or later is needed; install python3.11 and python3.11-venv"
    say "making a Python environment in $VENV"
    "$@" "$python" -m venv --clear "$VENV" \
        || die "'$python -m venv' failed, see above; on Debian and Ubuntu: apt install python3-venv"
    try_twice "$@" "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
        --editable "${TREE}[dev]" || die "pip could not install what pyproject.toml asks for, see above"
}

# --- called by root ----------------------------------------------------------------------------

prepare_as_root() {
    PLACE=$STATE_DIR/$(printf %s "$CHECKOUT" | hash_of)
    TREE=$PLACE/tree
    VENV=$PLACE/venv-$(read_stamp)
    mkdir -p "$PLACE"
    exec 9>"$PLACE/lock"
    flock 9
    is_ready || prepare_host
    copy_tree "$CHECKOUT" "$TREE" "$CI_USER:$CI_USER"
    make_runtime_dir
    open_tun
    describe_user
    is_ready || prepare_venv
    : >"$VENV.ready" # a new date: it is in use
    exec 9>&-
}

is_ready() {
    [ -e "$VENV.ready" ] && [ -x "$VENV/bin/jail" ] && id -u "$CI_USER" >/dev/null 2>&1
}

prepare_host() {
    exec 8>"$STATE_DIR/lock"
    flock 8
    install_packages
    install_testsuite
    install_profile
    make_user
    exec 8>&-
}

prepare_venv() {
    printf '%s' "$CHECKOUT" >"$PLACE/checkout"
    forget_the_stale
    read_package_sources
    install -d -o "$CI_USER" -g "$CI_USER" "$VENV"
    (cd "$TREE" && make_venv "${AS_USER[@]}" "${SOURCES[@]}")
}

install_packages() {
    local package
    local -a packages
    mapfile -t packages < <(missing_of "${NEEDED_PACKAGES[@]}" "${WANTED_PACKAGES[@]}")
    ((${#packages[@]})) || return 0
    type -P apt-get >/dev/null || die "no apt-get here; please install: ${packages[*]}"
    say "installing ${packages[*]}"
    try_twice apt-get update -qq || say "apt-get update failed; trying with the lists that are there"
    apt_install "${packages[@]}" && return
    # One that can't be had must not keep the others away.
    mapfile -t packages < <(missing_of "${NEEDED_PACKAGES[@]}")
    apt_install "${packages[@]}" || die "apt-get could not install: ${packages[*]}"
    for package in $(missing_of "${WANTED_PACKAGES[@]}"); do
        apt_install "$package" || say "going on without $package: apt-get could not install it"
    done
}

# CPython's own tests, whose package has the version in its name.
install_testsuite() {
    local package
    package=lib$(basename "$(readlink -f /usr/bin/python3)")-testsuite
    [ -n "$(missing_of "$package")" ] || return 0
    say "installing $package"
    apt_install "$package" || say "going on without $package: apt-get could not install it"
}

# The seccomp profile that podman brings, for the tests of what reads such ones. Of its package
# the file alone: with what that depends on it is a container engine.
install_profile() {
    local place
    [ ! -e "$CONTAINERS_PROFILE" ] || return 0
    type -P apt-get >/dev/null || die "please install $CONTAINERS_PROFILE ($CONTAINERS_PACKAGE)"
    say "fetching $CONTAINERS_PROFILE"
    place=$(mktemp -d)
    (cd "$place" && try_twice apt-get download -qq -o APT::Sandbox::User=root "$CONTAINERS_PACKAGE") \
        || die "apt-get could not download $CONTAINERS_PACKAGE"
    dpkg-deb --extract "$place"/*.deb "$place/tree"
    install -D -m 0644 "$place/tree$CONTAINERS_PROFILE" "$CONTAINERS_PROFILE"
    rm -rf "$place"
}

missing_of() {
    local package
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] \
            || printf '%s\n' "$package"
    done
}

apt_install() {
    [ $# -gt 0 ] || return 0
    DEBIAN_FRONTEND=noninteractive try_twice apt-get install --yes -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$@"
}

make_user() {
    touch /etc/subuid /etc/subgid # with these there, useradd itself may grant a range
    id -u "$CI_USER" >/dev/null 2>&1 || useradd --create-home --user-group --shell /bin/bash "$CI_USER"
    grant_subids --add-subuids /etc/subuid
    grant_subids --add-subgids /etc/subgid
}

grant_subids() {
    local option=$1 file=$2 first
    ! grep -q "^$CI_USER:" "$file" || return 0
    first=$(next_subid /etc/subuid /etc/subgid)
    usermod "$option" "$first-$((first + SUBID_COUNT - 1))" "$CI_USER"
}

# next_subid FILE…: the first id above all ranges that were granted, so that ours meets nobody's.
next_subid() {
    awk -F: '
        { end = $2 + $3; if (end > next_id) next_id = end }
        END { printf "%d\n", (next_id > 100000 ? next_id : 100000) }
    ' "$@"
}

# What is left from checkouts that are gone, and from earlier states of this one.
forget_the_stale() {
    local ready place
    find "$PLACE" -maxdepth 1 -name 'venv-*.ready' -mmin +"$STALE_MINUTES" -delete
    for ready in "$PLACE"/venv-*/; do
        [ ! -d "$ready" ] || [ -e "${ready%/}.ready" ] || rm -rf "$ready"
    done
    find "$STATE_DIR" -mindepth 2 -maxdepth 2 -name lock -mmin +"$STALE_MINUTES" -printf '%h\n' \
        | while read -r place; do
            [ -e "$(cat "$place/checkout" 2>/dev/null)/ci/shell" ] || rm -rf "$place"
        done
}

# copy_tree FROM TO OWNER: what .gitignore names is neither copied nor deleted (caches stay warm),
# unless the folder around it is gone ('p'). Times are compared to the nanosecond: two edits within
# a second may leave the size as it was.
copy_tree() {
    rsync --archive --delete --modify-window=-1 --exclude .git --filter ".-p $1/.gitignore" \
        --chown "$3" --chmod go+rX,go-w "$1/" "$2/" \
        || die "could not copy $1 to $2"
}

make_runtime_dir() {
    local dir=$RUNTIME_DIR/${PLACE##*/}
    [ -d "$dir" ] || { mkdir -p "$RUNTIME_DIR" && install -d -m 0700 -o "$CI_USER" -g "$CI_USER" "$dir"; }
}

# The device that slirp4netns and pasta make a jail's network of. udev's own rules (50-udev-default)
# open it to everybody, since a device made by it is nothing without CAP_NET_ADMIN in a network
# namespace; a container without udev has it as root made it, or not at all.
open_tun() {
    [ -c /dev/net/tun ] || { mkdir -p /dev/net && mknod /dev/net/tun c 10 200; } \
        || say "going on without /dev/net/tun: it could not be made"
    [ ! -c /dev/net/tun ] || chmod 0666 /dev/net/tun \
        || say "going on without /dev/net/tun: it can't be opened to all"
}

# AS_USER: goes before a command that the user shall run. What a login would give, and nothing of
# the caller's but the terminal and whether it's CI. setpriv, not su: no session and no shell in
# between, so signals and the exit status are the command's own. No capability is inherited; the
# bounding set stays, since newuidmap needs it.
describe_user() {
    AS_USER=(
        setpriv --reuid "$CI_USER" --regid "$CI_USER" --init-groups --inh-caps=-all
        env -i HOME="$(getent passwd "$CI_USER" | cut -d: -f6)" USER="$CI_USER" LOGNAME="$CI_USER"
        SHELL=/bin/bash LANG=C.UTF-8 TERM="${TERM:-dumb}" ${CI:+"CI=$CI"}
        PATH="$VENV/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        XDG_RUNTIME_DIR="$RUNTIME_DIR/${PLACE##*/}" JAIL_CI_VENV="$VENV"
    )
}

# The caller's settings for where Python packages come from, as NAME=VALUE; for pip alone.
read_package_sources() {
    local name
    SOURCES=()
    for name in $(compgen -e); do
        case $name in
            PIP_* | *_proxy | *_PROXY | SSL_CERT_* | REQUESTS_CA_BUNDLE) SOURCES+=("$name=${!name}") ;;
        esac
    done
}

# --- called by anybody else ----------------------------------------------------------------------

prepare_as_user() {
    local stamp
    TREE=$CHECKOUT
    VENV=${JAIL_CI_VENV:-$CHECKOUT/.venv}
    [ -z "${JAIL_CI_VENV:-}" ] || return 0 # within such an environment, or one made by hand
    stamp=$(read_stamp)
    ! has_stamp "$stamp" || return 0
    exec 9<"$CHECKOUT/pyproject.toml"
    flock 9
    if ! has_stamp "$stamp"; then
        if ! mkdir -p "$VENV" || ! [ -w "$VENV" ]; then
            die "you may not write to $VENV; call this in a checkout of your own"
        fi
        make_venv env -u PYTHONPATH -u PYTHONHOME
        printf '%s\n' "$stamp" >"$VENV/stamp"
    fi
    exec 9>&-
}

has_stamp() {
    [ -r "$VENV/stamp" ] && [ "$(<"$VENV/stamp")" = "$1" ]
}
