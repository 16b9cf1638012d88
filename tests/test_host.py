"""Facts are read quickly, changed by nothing, and the same whoever stands in PATH."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jail import place
from jail.errors import HostError
from jail.host import HELPERS, HostFacts, make_facts, open_runtime_dir, parse_kernel, read_facts
from jail.place import (
    CgroupFacts,
    decide_runtime_dir,
    find_cgroup,
    find_container,
    find_helpers,
    find_proc_covers,
    parse_distro,
    read_helper_flaws,
)

UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
PART = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
PROC = "24 1 0:5 / /proc rw - proc proc rw\n"


def program(path: Path, mode: int = 0o755) -> Path:
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(mode)
    return path


def test_this_host_is_described() -> None:
    facts = read_facts()
    assert (facts.uid, facts.gid) == (os.geteuid(), os.getegid())
    assert facts.kernel == parse_kernel(os.uname().release)
    assert facts.sysctls["user.max_user_namespaces"] >= 0
    assert os.path.isabs(facts.python)
    assert "sys" in facts.proc_sensitive


def test_facts_are_read_once_a_process_and_can_be_hashed() -> None:
    assert read_facts() is read_facts()
    assert hash(read_facts()) == hash(read_facts())


def test_every_fact_can_be_faked() -> None:
    for field in dataclasses.fields(HostFacts):
        marker = object()
        assert getattr(make_facts(**{field.name: marker}), field.name) is marker


def test_reading_is_cheap_and_starts_no_process() -> None:
    """Best of several fresh interpreters, so that a busy machine does not decide."""
    script = (
        "import sys, time, jail.host\n"
        "def hook(name, args):\n"
        "    assert not name.startswith(('subprocess', 'os.posix_spawn', 'os.fork')), name\n"
        "sys.addaudithook(hook)\n"
        "start = time.perf_counter(); jail.host.read_facts()\n"
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", script]
    took = [float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in "12345"]
    assert min(took) < 0.010


def test_reading_makes_no_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    facts = read_facts.__wrapped__()
    assert (facts.runtime_dir, facts.cache_dir) == (tmp_path / "jail", tmp_path / "jail")
    assert list(tmp_path.iterdir()) == []


def test_a_helper_in_path_is_never_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in HELPERS:
        program(tmp_path / name)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    facts = read_facts.__wrapped__()
    assert not any(path.startswith(str(tmp_path)) for path in facts.helpers.values())


def test_a_test_can_bring_its_own_helpers(tmp_path: Path) -> None:
    program(tmp_path / "newuidmap")
    facts = read_facts((str(tmp_path),))
    assert (facts.newuidmap, facts.newgidmap) == (str(tmp_path / "newuidmap"), None)


def test_a_helper_is_an_executable_regular_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second, first / "newuidmap"):
        directory.mkdir()
    program(first / "newgidmap", 0o644)
    for name in ("newuidmap", "newgidmap"):
        program(second / name)
    found = find_helpers(("newuidmap", "newgidmap", "pasta"), (str(first), str(second)))
    assert found == {name: str(second / name) for name in ("newuidmap", "newgidmap")}


def test_an_id_helper_without_rights_is_noticed(tmp_path: Path) -> None:
    helper = program(tmp_path / "newuidmap")
    flaw = read_helper_flaws({"newuidmap": str(helper), "pasta": "/bin/sh"})["newuidmap"]
    assert flaw in ("unprivileged", "nosuid")  # pytest's directory may lie on a nosuid mount


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-18-amd64", (6, 1, 0)),
        ("4.18.0-553.el8_10.x86_64", (4, 18, 0)),
        ("6.8", (6, 8, 0)),
        ("5.15.167.4-microsoft-standard-WSL2", (5, 15, 167)),
        ("next", (0, 0, 0)),
    ],
)
def test_kernel_versions(release: str, version: tuple[int, int, int]) -> None:
    assert parse_kernel(release) == version


def test_our_cgroup_is_found_on_unified_and_hybrid_hosts() -> None:
    own = "4:memory:/x\n0::/user.slice/session-1.scope\n"
    mount = Path("/sys/fs/cgroup")
    assert find_cgroup(PROC + UNIFIED, own) == (mount, mount / "user.slice/session-1.scope")
    assert find_cgroup(PROC + HYBRID, "0::/\n") == (mount / "unified", mount / "unified")


def test_our_cgroup_is_found_where_only_a_part_is_mounted() -> None:
    mount = Path("/sys/fs/cgroup")
    assert find_cgroup(PART, "0::/docker/abc/x\n") == (mount, mount / "x")
    assert find_cgroup(PART, "0::/docker/abc\n") == (mount, mount)


@pytest.mark.parametrize(
    ("mountinfo", "cgroup"),
    [
        (PROC, "0::/x\n"),
        (UNIFIED, "4:memory:/x\n"),
        (UNIFIED, "0::/../../x\n"),
        (PART, "0::/docker/abcdef\n"),
        (PART, "0::/\n"),
        ("", ""),
    ],
)
def test_no_cgroup_is_made_up(mountinfo: str, cgroup: str) -> None:
    assert find_cgroup(mountinfo, cgroup) is None


def test_a_mount_point_with_a_blank_is_read() -> None:
    text = r"30 23 0:26 / /sys/fs/c\040g rw - cgroup2 c rw"
    assert find_cgroup(text, "0::/a\n") == (Path("/sys/fs/c g"), Path("/sys/fs/c g/a"))


def test_delegation_means_writing_and_controllers() -> None:
    here = CgroupFacts(Path("/c"), Path("/c/a"), ("cpu", "memory", "pids"), writable=True)
    assert here.delegated
    assert not dataclasses.replace(here, writable=False).delegated
    assert not dataclasses.replace(here, controllers=("memory",)).delegated


def test_only_mounts_that_hide_something_cover_proc() -> None:
    text = (
        PROC
        + "35 24 0:33 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n"
        + "36 24 0:34 / /proc/kcore rw - tmpfs tmpfs rw\n"
        + "37 1 0:35 / /processes rw - tmpfs tmpfs rw\n"
    )
    assert find_proc_covers(text) == ("/proc/kcore",)


@pytest.mark.parametrize(
    ("files", "cgroup", "environment", "kind"),
    [
        ((), "0::/user.slice\n", {}, ""),
        (("/.dockerenv",), "0::/\n", {}, "docker"),
        (("/run/.containerenv",), "0::/\n", {"container": "oci"}, "podman"),
        ((), "0::/kubepods.slice/x\n", {}, "kubernetes"),
        (("/.dockerenv",), "", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ((), "9:cpu:/docker/abc\n", {}, "docker"),
        ((), "0::/\n", {"container": "systemd-nspawn"}, "systemd-nspawn"),
    ],
)
def test_signs_of_a_container(
    files: tuple[str, ...], cgroup: str, environment: dict[str, str], kind: str
) -> None:
    assert find_container(files, cgroup, environment) == kind


def test_the_distribution_and_what_it_is_like() -> None:
    assert parse_distro('NAME="x"\nID=rocky\nID_LIKE="rhel centos fedora"\n') == (
        "rocky",
        "rhel",
        "centos",
        "fedora",
    )
    assert parse_distro("") == ()


def test_the_session_directory_is_used_only_if_it_is_ours_alone() -> None:
    assert decide_runtime_dir(7, "/run/user/7", True) == Path("/run/user/7/jail")
    assert decide_runtime_dir(7, "/run/user/7", False) == Path("/tmp/jail-7")
    assert decide_runtime_dir(7, "relative", True) == Path("/tmp/jail-7")
    assert decide_runtime_dir(7, "", True) == Path("/tmp/jail-7")


@pytest.mark.parametrize("flaw", ["open", "link", "missing"])
def test_an_unfit_session_directory_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flaw: str
) -> None:
    session = tmp_path / "session"
    if flaw == "open":
        session.mkdir(mode=0o755)
    elif flaw == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        session.symlink_to(tmp_path / "real")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session))
    assert place.read_runtime_dir(os.getuid()) == Path(f"/tmp/jail-{os.getuid()}")


def facts_with(runtime_dir: Path) -> HostFacts:
    return make_facts(uid=os.getuid(), runtime_dir=runtime_dir)


def test_the_runtime_directory_is_made_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o277)
    try:
        path = open_runtime_dir(facts_with(tmp_path / "jail"))
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o7777 == 0o700
    assert open_runtime_dir(facts_with(path)) == path


def test_a_runtime_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jail").mkdir()
    (tmp_path / "jail").chmod(0o755)
    with pytest.raises(HostError, match="open to others") as caught:
        open_runtime_dir(facts_with(tmp_path / "jail"))
    assert caught.value.remedy == f"rm -r {tmp_path}/jail"


def test_a_link_in_the_place_of_the_runtime_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "jail").symlink_to(tmp_path / "target")
    with pytest.raises(HostError, match="no private directory") as caught:
        open_runtime_dir(facts_with(tmp_path / "jail"))
    assert caught.value.step == "runtime dir"


def test_a_file_in_the_place_of_the_runtime_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jail").write_text("")
    with pytest.raises(HostError):
        open_runtime_dir(facts_with(tmp_path / "jail"))


def test_somebody_elses_runtime_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jail").mkdir(mode=0o700)
    stranger = make_facts(uid=os.getuid() + 1, runtime_dir=tmp_path / "jail")
    with pytest.raises(HostError, match="belongs to uid"):
        open_runtime_dir(stranger)


def test_a_runtime_directory_without_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        open_runtime_dir(facts_with(tmp_path / "a" / "b"))
