# The environment that ci/demo, ci/test and ci/shell share; sourced by ci/shell, never run.
#
# Called by root it is a container or a CI machine: install what is wanted, make an unprivileged
# user with subordinate ids, copy the tree to a place of that user's, and go on as that user.
# Called by anybody else: a virtual environment in the checkout and nothing more.

readonly USER_NAME=jail-ci
readonly APT_PACKAGES=(
    acl attr bubblewrap busybox-static fuse-overlayfs fuse3 g++ gcc git iproute2 keyutils libc6-dev
    libseccomp2 make passt procps python3 python3-numpy python3-venv rsync slirp4netns strace
    uidmap util-linux
)
readonly SUBID_COUNT=65536

say() {
    printf '%s\n' "$*" >&2
}

die() {
    say "ci: $*"
    exit 1
}

# Networks fail; once is no reason to give up.
try_twice() {
    "$@" >&2 || { say "ci: trying again: $*"; sleep 5; "$@" >&2; }
}

missing_packages() {
    local package
    for package in "${APT_PACKAGES[@]}"; do
        dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' \
            || printf '%s\n' "$package"
    done
    command -v /usr/bin/node >/dev/null || echo nodejs
    command -v /usr/bin/java >/dev/null || echo default-jdk-headless
}

install_packages() {
    local -a wanted
    mapfile -t wanted < <(missing_packages)
    ((${#wanted[@]})) || return 0
    command -v apt-get >/dev/null || die "needs apt-get, or these installed: ${wanted[*]}"
    say "ci: installing ${wanted[*]}"
    try_twice apt-get update -qq
    DEBIAN_FRONTEND=noninteractive try_twice apt-get install -y -qq "${wanted[@]}" \
        || die "apt-get could not install ${wanted[*]}"
}

# The highest end of any range granted so far, so that ours overlaps with nobody's.
next_subid() {
    awk -F: '{ end = $2 + $3; if (end > most) most = end } END { print (most > 100000 ? most : 100000) }' \
        /etc/subuid /etc/subgid
}

make_user() {
    id "$USER_NAME" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$USER_NAME"
    touch /etc/subuid /etc/subgid
    local kind flag start
    for kind in uid gid; do
        grep -q "^$USER_NAME:" "/etc/sub$kind" && continue
        start=$(next_subid)
        flag=$([ "$kind" = uid ] && echo --add-subuids || echo --add-subgids)
        usermod "$flag" "$start-$((start + SUBID_COUNT - 1))" "$USER_NAME"
    done
}

# setpriv, not su: no PAM session, no shell between us and the command, signals go straight to it.
as_user() {
    setpriv --reuid "$USER_NAME" --regid "$USER_NAME" --init-groups "$@"
}

copy_tree() {
    mkdir -p "$PLACE/tree"
    rsync --archive --delete --exclude .git --filter ':- .gitignore' \
        --chown "$USER_NAME:$USER_NAME" --chmod go+rX "$CHECKOUT/" "$PLACE/tree/"
}

make_runtime_dir() {
    install -d -m 0700 -o "$USER_NAME" -g "$USER_NAME" "$PLACE/run"
}

# What the environment depends on; a change of it means setting up again.
stamp() {
    cat "$CHECKOUT/pyproject.toml" "$CHECKOUT/ci/setup.sh" | sha256sum | cut -d' ' -f1
}

is_set_up() {
    [ -f "$PLACE/stamp" ] && [ "$(<"$PLACE/stamp")" = "$(stamp)" ] && [ -x "$VENV/bin/jail" ]
}

make_venv() {
    say "ci: making the Python environment in $VENV"
    "$@" /usr/bin/env -u PYTHONPATH "$(pick_python)" -m venv --clear "$VENV" >&2 \
        || die "python3 -m venv failed; is python3-venv installed?"
    try_twice "$@" "$VENV/bin/pip" install --quiet --disable-pip-version-check \
        --editable "$TREE[dev]" || die "pip could not install the packages"
}

# The system's interpreter where there is one that is new enough: another may lie in a directory
# that the unprivileged user can't enter.
pick_python() {
    local python
    for python in /usr/bin/python3 /usr/bin/python3.1[1-9] "$(command -v python3)"; do
        if [ -x "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            printf '%s\n' "$python"
            return
        fi
    done
    die "needs Python 3.11 or later"
}

set_up_as_root() {
    PLACE=/var/lib/jail-ci/$(printf %s "$CHECKOUT" | sha256sum | cut -c1-16)
    TREE=$PLACE/tree
    VENV=$PLACE/venv
    mkdir -p "$PLACE"
    exec 9>"$PLACE/lock"
    flock 9
    if ! is_set_up; then
        install_packages
        make_user
        copy_tree
        chown "$USER_NAME:$USER_NAME" "$PLACE"
        make_venv as_user env HOME="/home/$USER_NAME" PIP_CONFIG_FILE="${PIP_CONFIG_FILE:-}"
        stamp >"$PLACE/stamp"
    fi
    copy_tree
    make_runtime_dir
    exec 9>&-
}

set_up_as_user() {
    PLACE=$CHECKOUT/.venv
    TREE=$CHECKOUT
    VENV=${JAIL_CI_VENV:-$PLACE}
    [ -n "${JAIL_CI_VENV:-}" ] && return
    is_set_up && return
    make_venv env
    stamp >"$PLACE/stamp"
}
